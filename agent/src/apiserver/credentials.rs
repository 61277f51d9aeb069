//! A certificate and its key as they are on disk, in one PEM or two. Reads bytes, emits what is in them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use oomlet_core::certificate::{Found, Validity};

/// A certificate that fits its key.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub key: Arc<CertifiedKey>,
    pub validity: Validity,
    /// What the certificate names beside its subject: hosts and addresses.
    pub names: Vec<String>,
}

/// # Errors
/// What is wrong, in words.
pub fn parse(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Credentials, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is not PEM: {error}"))?;
    let first = chain.first().ok_or("there is no certificate in it")?;
    let (_, leaf) =
        X509Certificate::from_der(first).map_err(|error| format!("the certificate is not X.509: {error}"))?;
    let time = leaf.validity();
    let validity =
        Validity { not_before_s: time.not_before.timestamp(), not_after_s: time.not_after.timestamp() };
    let names = names(&leaf);
    let key =
        PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| format!("there is no key in it: {error}"))?;
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|error| format!("the key cannot be used with the certificate: {error}"))?;
    Ok(Credentials { key: Arc::new(key), validity, names })
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let all = alternative.iter().flat_map(|extension| extension.value.general_names.iter());
    all.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
        },
        _ => None,
    })
    .collect()
}

/// Both from one file.
#[must_use]
pub fn look(path: &Path) -> (Found, Option<Credentials>) {
    look_at(path, path)
}

/// A certificate and a key that lie in a file each.
#[must_use]
pub fn look_at(certificate: &Path, key: &Path) -> (Found, Option<Credentials>) {
    let texts = [certificate, key].map(|path: &Path| std::fs::read(path));
    match texts {
        [Ok(certificate), Ok(key)] => match parse(&certificate, &key) {
            Ok(credentials) => (Found::Certificate(credentials.validity), Some(credentials)),
            Err(why) => (Found::Broken(why), None),
        },
        [Err(error), _] | [_, Err(error)] if error.kind() == std::io::ErrorKind::NotFound => {
            (Found::Missing, None)
        }
        [Err(error), _] | [_, Err(error)] => (Found::Broken(error.to_string()), None),
    }
}

/// Unix seconds.
#[must_use]
pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Writes a file in one step: who reads it sees the old one or the new one. Mode 0600.
///
/// # Errors
/// The operating system's.
pub fn write_atomically(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut temporary: PathBuf = path.to_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    temporary.set_file_name(format!(".{name}.new"));
    // What a crash has left is not what is to be written, and may have another mode.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
