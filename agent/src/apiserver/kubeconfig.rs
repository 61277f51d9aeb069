//! The file that names the API server and says who the node is, with an error for each way in which it can be of no use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{AuthInfo, Cluster, Config, Kubeconfig, KubeconfigError as Cause};
use secrecy::ExposeSecret as _;

use super::credentials::{self, Credentials};
use oomlet_core::certificate::{Fault, Found, Need, need, time};

/// Labels of PEM blocks that are keys.
const KEYS: [&str; 3] = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error(
        "kubeconfig {path} is not there. Remedy: kubeadm join writes it, or give --bootstrap-kubeconfig, or point --kubeconfig at another file"
    )]
    Missing { path: PathBuf },
    #[error(
        "kubeconfig {path} cannot be read: {source}. Remedy: check its permissions; the agent runs as root"
    )]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "kubeconfig {path} is not valid: {cause}. Remedy: write it anew, or check it with kubectl config view --kubeconfig"
    )]
    Syntax { path: PathBuf, cause: Cause },
    #[error("kubeconfig {path} has no {what}. Remedy: kubectl config view --kubeconfig shows what it has")]
    Lacks { path: PathBuf, what: String },
    #[error("kubeconfig {path}: the client certificate {of} {fault}. Remedy: {remedy}")]
    Certificate { path: PathBuf, of: String, fault: Fault, remedy: &'static str },
    #[error(
        "kubeconfig {path}: the token expired at {}. Remedy: a new one by kubeadm token create, or by the service account's owner",
        time(*.at_s)
    )]
    TokenExpired { path: PathBuf, at_s: i64 },
    #[error(
        "kubeconfig {path} cannot be written: {source}. Remedy: check its directory; the agent runs as root"
    )]
    Write { path: PathBuf, source: std::io::Error },
    #[error("kubeconfig {path}: {cause}")]
    Use { path: PathBuf, cause: Cause },
    #[error(
        "kubeconfig {path}: the API server {server} does not know this identity (401). Remedy: the token or the client certificate is expired, revoked or from another cluster; give a new one, or --bootstrap-kubeconfig"
    )]
    Unauthorized { path: PathBuf, server: String },
    #[error(
        "kubeconfig {path}: the certificate of {server} is not from the certificate-authority in it: {cause}. Remedy: take the cluster's CA (/etc/kubernetes/pki/ca.crt on a control plane of kubeadm's) and the server's name that it was made for"
    )]
    Authority { path: PathBuf, server: String, cause: String },
    #[error(
        "kubeconfig {path}: the API server {server} cannot be reached: {cause}. Remedy: check the address and the network"
    )]
    Unreachable { path: PathBuf, server: String, cause: String },
}

impl KubeconfigError {
    /// Whether a new client certificate would make it good.
    #[must_use]
    pub fn wants_bootstrap(&self) -> bool {
        matches!(self, KubeconfigError::Missing { .. } | KubeconfigError::Certificate { .. })
    }
}

/// What is in the file, with what it points to.
///
/// # Errors
/// [`KubeconfigError`], but for what only the server can say.
pub fn load(path: &Path) -> Result<Config, KubeconfigError> {
    let file = read(path)?;
    let user = user_name(&file);
    let (cluster, auth) = parts(&file, path)?;
    check_server(&cluster, path)?;
    check_token(&auth, path)?;
    let auth = with_certificate(auth, path)?;
    // Only the part that is used: no other user's files are read.
    let mut used = file;
    used.auth_infos.retain(|named| named.name == user);
    for named in &mut used.auth_infos {
        named.auth_info = Some(auth.clone());
    }
    let mut config =
        Config::try_from(used).map_err(|cause| KubeconfigError::Use { path: path.to_owned(), cause })?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Who asks has a back-off of its own, is told of each failure and honours Retry-After; kube's would go on for minutes
    // inside one call.
    config.default_retry = false;
    Ok(config)
}

/// The cluster that the file names, for another kubeconfig of the same.
///
/// # Errors
/// As [`load`].
pub fn cluster(path: &Path) -> Result<Cluster, KubeconfigError> {
    let file = read(path)?;
    let (cluster, _) = parts(&file, path)?;
    Ok(cluster)
}

fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    let path = path.to_owned();
    Kubeconfig::read_from(&path).map_err(|cause| match cause {
        Cause::ReadConfig(source, _) if source.kind() == std::io::ErrorKind::NotFound => {
            KubeconfigError::Missing { path }
        }
        Cause::ReadConfig(source, _) => KubeconfigError::Read { path, source },
        cause => KubeconfigError::Syntax { path, cause },
    })
}

fn user_name(file: &Kubeconfig) -> String {
    let current = file.contexts.iter().find(|named| Some(&named.name) == file.current_context.as_ref());
    current.and_then(|named| named.context.as_ref()?.user.clone()).unwrap_or_default()
}

fn parts(file: &Kubeconfig, path: &Path) -> Result<(Cluster, AuthInfo), KubeconfigError> {
    let lacks = |what: String| KubeconfigError::Lacks { path: path.to_owned(), what };
    let current = file
        .current_context
        .as_ref()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| lacks("current-context".to_owned()))?;
    let context = file
        .contexts
        .iter()
        .find(|named| named.name == *current)
        .and_then(|named| named.context.as_ref())
        .ok_or_else(|| lacks(format!("context {current:?}, which current-context names")))?;
    let cluster = file
        .clusters
        .iter()
        .find(|named| named.name == context.cluster)
        .and_then(|named| named.cluster.clone())
        .ok_or_else(|| {
            lacks(format!("cluster {:?}, which the context {current:?} names", context.cluster))
        })?;
    let user = context.user.clone().unwrap_or_default();
    let auth = file
        .auth_infos
        .iter()
        .find(|named| named.name == user)
        .and_then(|named| named.auth_info.clone())
        .ok_or_else(|| lacks(format!("user {user:?}, which the context {current:?} names")))?;
    Ok((cluster, auth))
}

fn check_server(cluster: &Cluster, path: &Path) -> Result<(), KubeconfigError> {
    match &cluster.server {
        Some(server) if !server.is_empty() => Ok(()),
        _ => Err(KubeconfigError::Lacks { path: path.to_owned(), what: "server of its cluster".to_owned() }),
    }
}

/// A token that says of itself when it ends. Others are the server's to judge.
fn check_token(auth: &AuthInfo, path: &Path) -> Result<(), KubeconfigError> {
    let of_file = || auth.token_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let token = auth.token.as_ref().map(|token| token.expose_secret().to_owned()).or_else(of_file);
    let Some(expiry_s) = token.and_then(|token| expiry_s(token.trim())) else { return Ok(()) };
    if credentials::now_s() >= expiry_s {
        return Err(KubeconfigError::TokenExpired { path: path.to_owned(), at_s: expiry_s });
    }
    Ok(())
}

/// `exp` of a JSON Web Token.
fn expiry_s(token: &str) -> Option<i64> {
    use base64::Engine as _;
    let claims = token.split('.').nth(1)?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice::<serde_json::Value>(&claims).ok()?.get("exp")?.as_i64()
}

/// With the certificate and the key in it that it points to: kubelet's file has both of them in one PEM, which must not go to
/// the server twice.
fn with_certificate(mut auth: AuthInfo, path: &Path) -> Result<AuthInfo, KubeconfigError> {
    let of = auth.client_certificate.clone().unwrap_or_else(|| "in it".to_owned());
    let fault = |fault: Fault| KubeconfigError::Certificate {
        path: path.to_owned(),
        of: of.clone(),
        fault,
        remedy: "give --bootstrap-kubeconfig, by which the node gets a new one; or kubeadm kubeconfig user writes one",
    };
    let broken = |why: String| fault(Fault::Broken(why));
    let certificate = data(auth.client_certificate_data.as_deref(), auth.client_certificate.as_deref());
    let key_data = auth.client_key_data.as_ref().map(|data| data.expose_secret());
    let key = data(key_data, auth.client_key.as_deref());
    let (certificate, key) = match (certificate, key) {
        (None, None) => return Ok(auth),
        (Some(certificate), Some(key)) => (certificate.map_err(&fault)?, key.map_err(&fault)?),
        (Some(_), None) => return Err(broken("it has no client-key".to_owned())),
        (None, Some(_)) => return Err(broken("it has a client-key and no client-certificate".to_owned())),
    };
    let credentials = credentials::parse(&certificate, &key).map_err(broken)?;
    if let Need::Replace(why) = need(&Found::Certificate(credentials.validity), 0.0, credentials::now_s()) {
        return Err(fault(why));
    }
    auth.client_certificate = None;
    auth.client_key = None;
    auth.client_certificate_data = Some(encoded(&only(&certificate, &["CERTIFICATE"])));
    auth.client_key_data = Some(encoded(&only(&key, &KEYS)).into());
    Ok(auth)
}

/// The client certificate that a loaded file comes with.
#[must_use]
pub fn certificate(config: &Config) -> Option<Credentials> {
    let auth = &config.auth_info;
    let certificate = data(auth.client_certificate_data.as_deref(), None)?.ok()?;
    let key = auth.client_key_data.as_ref().map(|data| data.expose_secret());
    credentials::parse(&certificate, &data(key, None)?.ok()?).ok()
}

/// Puts a certificate and its key, both in one PEM, in the place of what the file came with.
pub fn set_certificate(config: &mut Config, pem: &[u8]) {
    config.auth_info.client_certificate_data = Some(encoded(&only(pem, &["CERTIFICATE"])));
    config.auth_info.client_key_data = Some(encoded(&only(pem, &KEYS)).into());
}

/// A kubeconfig for this cluster with the certificate and key in that file, as kubelet's TLS bootstrap writes it. 0600.
///
/// # Errors
/// [`KubeconfigError::Write`].
pub fn write(path: &Path, cluster: Cluster, pem: &Path) -> Result<(), KubeconfigError> {
    let wrong = |source| KubeconfigError::Write { path: path.to_owned(), source };
    let pem = pem.to_string_lossy();
    let file = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "contexts": [{
            "name": "default-context",
            "context": {"cluster": "default-cluster", "namespace": "default", "user": "default-auth"},
        }],
        "current-context": "default-context",
        "users": [{"name": "default-auth", "user": {"client-certificate": pem, "client-key": pem}}],
    });
    // JSON is YAML, and nothing reads a kubeconfig as anything else.
    let text = serde_json::to_string_pretty(&file).map_err(|error| wrong(error.into()))?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(wrong)?;
    }
    credentials::write_atomically(path, text.as_bytes()).map_err(wrong)
}

fn data(encoded: Option<&str>, file: Option<&str>) -> Option<Result<Vec<u8>, Fault>> {
    use base64::Engine as _;
    match (encoded.filter(|text| !text.is_empty()), file.filter(|text| !text.is_empty())) {
        (Some(text), _) => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text.trim());
            Some(decoded.map_err(|error| Fault::Broken(format!("not base64: {error}"))))
        }
        (None, Some(file)) => Some(std::fs::read(file).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Fault::Missing,
            _ => Fault::Broken(format!("{file}: {error}")),
        })),
        (None, None) => None,
    }
}

fn encoded(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The blocks of a PEM with these labels.
fn only(pem: &[u8], labels: &[&str]) -> Vec<u8> {
    let text = String::from_utf8_lossy(pem);
    let mut kept = String::new();
    let mut inside = false;
    for line in text.lines() {
        let is = |mark: &str| labels.iter().any(|label| line.trim() == format!("-----{mark} {label}-----"));
        inside |= is("BEGIN");
        if inside {
            kept.push_str(line);
            kept.push('\n');
        }
        inside &= !is("END");
    }
    kept.into_bytes()
}

/// Why a request failed, where the kubeconfig is to blame or the way to the server.
#[must_use]
pub fn explain(path: &Path, server: &str, error: &kube::Error) -> Option<KubeconfigError> {
    let (path, server) = (path.to_owned(), server.to_owned());
    let cause = chain(error);
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            Some(KubeconfigError::Unauthorized { path, server })
        }
        kube::Error::Api(_) => None,
        _ if cause.contains("invalid peer certificate") => {
            Some(KubeconfigError::Authority { path, server, cause })
        }
        kube::Error::HyperError(_) | kube::Error::Service(_) => {
            Some(KubeconfigError::Unreachable { path, server, cause })
        }
        _ => None,
    }
}

/// What the API server said, or why it was not reached.
#[must_use]
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => chain(other),
    }
}

/// An error with what is behind it.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        source = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
