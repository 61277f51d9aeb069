//! The certificate authority of one control plane, and what it has signed. Keys are ECDSA P-256: an RSA key takes a
//! second to make on a slow machine.
//!
//! Names are those of Kubernetes: the organization is the group, the common name is the user.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Longer than any control plane of a test or of a developer runs.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// kubeadm's name for the API server towards those behind it.
pub const FRONT_PROXY: &str = "front-proxy-client";
/// Clocks of other machines need not agree with this one to the second; kubeadm's certificates do the same.
const BACKDATED: Duration = Duration::from_secs(5 * 60);

pub struct Pki {
    dir: PathBuf,
    issuer: Issuer,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A certificate with its private key, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Pki {
    /// Writes to `dir` what the control plane's programs read as files: the authority, the API server's certificates
    /// and the key that signs service account tokens.
    pub fn create(dir: &Path, service_ip: Ipv4Addr) -> Result<Pki> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let pki = Pki { dir: dir.to_owned(), issuer: authority("kubernetes")? };
        pki.write("ca.crt", &pki.issuer.pem())?;
        pki.write("ca.key", &pki.issuer.key().serialize_pem())?;
        pki.write_identity("apiserver", &pki.api_server(service_ip)?)?;
        // What the API server shows to the kubelet API; kubeadm's name and group for it.
        let client = pki.client("kube-apiserver-kubelet-client", &["kubeadm:cluster-admins"], VALIDITY)?;
        pki.write_identity("apiserver-kubelet-client", &client)?;
        pki.write_front_proxy()?;
        let accounts = KeyPair::generate().context("making the key of service accounts")?;
        pki.write("sa.key", &accounts.serialize_pem())?;
        pki.write("sa.pub", &accounts.public_key_pem())?;
        Ok(pki)
    }

    /// The authority's certificate, as PEM.
    #[must_use]
    pub fn authority(&self) -> String {
        self.issuer.pem()
    }

    /// A client certificate for a user in these groups, from now on for so long.
    pub fn client(&self, user: &str, groups: &[&str], validity: Duration) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        valid_for(&mut params, validity)?;
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
            .with_context(|| format!("a certificate of {user}"))
    }

    /// A client certificate of the longest validity.
    pub fn lasting_client(&self, user: &str, groups: &[&str]) -> Result<Identity> {
        self.client(user, groups, VALIDITY)
    }

    fn api_server(&self, service_ip: Ipv4Addr) -> Result<Identity> {
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut params = CertificateParams::new(names.map(str::to_owned).to_vec())?;
        for address in [Ipv4Addr::LOCALHOST, service_ip] {
            params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(address)));
        }
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        valid_for(&mut params, VALIDITY)?;
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth).context("the API server's certificate")
    }

    /// By which a server behind the API server knows that it is the API server who says who asks. An authority of its own: a
    /// client of the cluster's could say that it is anybody.
    fn write_front_proxy(&self) -> Result<()> {
        let issuer = authority("front-proxy-ca")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, FRONT_PROXY);
        valid_for(&mut params, VALIDITY)?;
        let client = sign(&issuer, params, ExtendedKeyUsagePurpose::ClientAuth)?;
        self.write("front-proxy-ca.crt", &issuer.pem())?;
        self.write_identity(FRONT_PROXY, &client).map(drop)
    }

    /// The files of a server that is reached by this host name: its certificate and its key.
    pub fn write_server(&self, name: &str, host: &str) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, host);
        valid_for(&mut params, VALIDITY)?;
        let identity = self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)?;
        self.write_identity(name, &identity)
    }

    fn sign(&self, params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        sign(&self.issuer, params, usage)
    }

    /// Where its certificate and its key are.
    pub fn write_identity(&self, name: &str, identity: &Identity) -> Result<(PathBuf, PathBuf)> {
        let [certificate, key] = ["crt", "key"].map(|what| self.dir.join(format!("{name}.{what}")));
        write_private(&certificate, &identity.certificate)?;
        write_private(&key, &identity.key)?;
        Ok((certificate, key))
    }

    fn write(&self, name: &str, pem: &str) -> Result<()> {
        write_private(&self.dir.join(name), pem)
    }
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Result<Issuer> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    valid_for(&mut params, VALIDITY)?;
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
        .with_context(|| format!("making the authority {name}"))
}

fn sign(issuer: &Issuer, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Identity { certificate, key: key.serialize_pem() })
}

fn valid_for(params: &mut CertificateParams, validity: Duration) -> Result<()> {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = now.checked_add(validity).context("a validity beyond the clock's range")?.into();
    Ok(())
}

/// For the owner's eyes alone from the first byte on.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_there_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::create(dir.path(), Ipv4Addr::new(10, 96, 0, 1)).unwrap();
        for (name, begins) in [
            ("ca.crt", "-----BEGIN CERTIFICATE-----"),
            ("ca.key", "-----BEGIN PRIVATE KEY-----"),
            ("apiserver.crt", "-----BEGIN CERTIFICATE-----"),
            ("apiserver.key", "-----BEGIN PRIVATE KEY-----"),
            ("apiserver-kubelet-client.crt", "-----BEGIN CERTIFICATE-----"),
            ("front-proxy-ca.crt", "-----BEGIN CERTIFICATE-----"),
            ("front-proxy-client.key", "-----BEGIN PRIVATE KEY-----"),
            ("sa.key", "-----BEGIN PRIVATE KEY-----"),
            ("sa.pub", "-----BEGIN PUBLIC KEY-----"),
        ] {
            let path = dir.path().join(name);
            assert!(fs::read_to_string(&path).unwrap().starts_with(begins), "{name}");
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let one = pki.lasting_client("system:node:a", &["system:nodes"]).unwrap();
        let other = pki.lasting_client("system:node:a", &["system:nodes"]).unwrap();
        assert_ne!(one.key, other.key);
        assert!(pki.client("a", &[], Duration::MAX).is_err());
    }
}
