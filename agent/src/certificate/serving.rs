//! The certificate that the node's own API shows: given by `tlsCertFile`, issued by the cluster (`serverTLSBootstrap`), or
//! self-signed and kept as `kubelet.crt` and `kubelet.key`. One task; TLS servers take what is current by [`ServingKey`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{ToSpan as _, Zoned, tz::TimeZone};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::CertificateError;
use super::request::{self, Purpose};
use super::store::{Store, StoreError};
use crate::apiserver::credentials::{self, Credentials};
use crate::apiserver::following::{self, Connection};
use crate::apiserver::kubeconfig::chain;
use crate::instruments::certificates::Certificate;
use oomlet_core::certificate::{Found, Need, jitter_of, need, retry_delay, self_signed_is_due};

/// How often the files and the time of rotation are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// kubelet's self-signed certificates last a year.
const SELF_SIGNED_DAYS: i32 = 365;

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// `tlsCertFile` and `tlsPrivateKeyFile`: who wrote them writes them anew.
    Files {
        certificate: PathBuf,
        key: PathBuf,
    },
    /// `serverTLSBootstrap`.
    Cluster,
    SelfSigned,
}

#[derive(Debug)]
pub struct Serving {
    pub origin: Origin,
    pub cert_dir: PathBuf,
    pub node_name: String,
    /// The node's, as its status has them.
    pub addresses: watch::Receiver<Vec<IpAddr>>,
    pub connection: watch::Receiver<Connection>,
    pub times: Certificate,
}

type Current = Option<Arc<CertifiedKey>>;

/// For `rustls::ServerConfig::with_cert_resolver`: each handshake shows the certificate of its moment; before there is one it
/// fails.
#[derive(Clone, Debug)]
pub struct ServingKey(watch::Receiver<Current>);

impl ServingKey {
    /// Whether there is a certificate.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.borrow().is_some()
    }
}

impl ResolvesServerCert for ServingKey {
    fn resolve(&self, _: ClientHello<'_>) -> Current {
        self.0.borrow().clone()
    }
}

impl Serving {
    /// The key, and the task that keeps it.
    pub fn start(self, cancel: CancellationToken) -> (ServingKey, impl Future<Output = ()> + Send) {
        let (sender, receiver) = watch::channel(None);
        let task = async move {
            // Cancel-safe: files are replaced in one step each.
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.hold(sender) => {}
            }
        };
        (ServingKey(receiver), task)
    }

    async fn hold(mut self, sender: watch::Sender<Current>) {
        let (mut failed, mut told) = (0, None);
        loop {
            match self.turn(&sender).await {
                Ok(()) => {
                    (failed, told) = (0, None);
                    // A new address is a new name in the certificate. A sender that is gone says nothing more.
                    if timeout(LOOK_EVERY, self.addresses.changed())
                        .await
                        .is_ok_and(|changed| changed.is_err())
                    {
                        sleep(LOOK_EVERY).await;
                    }
                }
                Err(error) => {
                    failed += 1;
                    self.times.failed();
                    let text = chain(&error);
                    if told.as_ref() != Some(&text) {
                        tracing::error!("the serving certificate: {text}; it is tried again");
                    }
                    told = Some(text);
                    sleep(retry_delay(failed)).await;
                }
            }
        }
    }

    async fn turn(&mut self, sender: &watch::Sender<Current>) -> Result<(), CertificateError> {
        let credentials = match &self.origin {
            Origin::Files { certificate, key } => Some(from_files(certificate.clone(), key.clone())?),
            Origin::SelfSigned => Some(self.self_signed()?),
            Origin::Cluster => self.of_cluster(sender).await?,
        };
        if let Some(credentials) = credentials {
            self.times.lasts_until(credentials.validity.not_after_s);
            publish(sender, credentials.key);
        }
        Ok(())
    }

    /// `None`: not before the node has an address.
    async fn of_cluster(
        &mut self,
        sender: &watch::Sender<Current>,
    ) -> Result<Option<Credentials>, CertificateError> {
        let store = Store::new(&self.cert_dir, "kubelet-server");
        let addresses = self.addresses.borrow_and_update().clone();
        let (found, credentials) = store.look();
        let der =
            credentials.as_ref().and_then(|c| c.key.cert.first()).map(AsRef::as_ref).unwrap_or_default();
        let need = need(&found, jitter_of(der), credentials::now_s());
        let covered = credentials.as_ref().is_some_and(|c| {
            let named: BTreeSet<_> = c.names.iter().cloned().collect();
            addresses.iter().all(|address| named.contains(&address.to_string()))
        });
        if addresses.is_empty() || matches!(need, Need::Nothing { .. }) && covered {
            return Ok(credentials);
        }
        if let (Some(credentials), false) = (credentials, matches!(need, Need::Replace(_))) {
            // What there is serves until the other is there.
            publish(sender, credentials.key);
        }
        let Ok(client) = following::ready(&mut self.connection).await else { return Ok(None) };
        store.make_dir()?;
        let purpose = Purpose::Serving { addresses, dns_names: vec![self.node_name.clone()] };
        let pending = store.pending_key();
        let key = request::kept_key(&pending)?;
        let asked = request::certificate(&client, &self.node_name, &purpose, &key).await;
        let pem = asked.inspect_err(|error| {
            if error.spoils_the_key() {
                store.forget_pending_key();
            }
        })?;
        store.forget_pending_key();
        let path = store.save(&pem, &key.serialize_pem())?;
        tracing::info!(certificate = %path.display(), "the node has its serving certificate");
        Ok(store.look().1)
    }

    fn self_signed(&self) -> Result<Credentials, CertificateError> {
        let [certificate, key] = ["kubelet.crt", "kubelet.key"].map(|name| self.cert_dir.join(name));
        let (found, credentials) = credentials::look_at(&certificate, &key);
        if let (Some(credentials), false) = (credentials, self_signed_is_due(&found, credentials::now_s())) {
            return Ok(credentials);
        }
        let (made, made_key) = self.make(&self.addresses.borrow())?;
        Store::new(&self.cert_dir, "kubelet-server").make_dir()?;
        for (path, text) in [(&key, &made_key), (&certificate, &made)] {
            credentials::write_atomically(path, text.as_bytes()).map_err(|source| StoreError {
                what: "write",
                path: path.clone(),
                source,
            })?;
        }
        from_files(certificate, key)
    }

    fn make(&self, addresses: &[IpAddr]) -> Result<(String, String), CertificateError> {
        let mut names = vec![self.node_name.clone()];
        names.extend(addresses.iter().map(ToString::to_string));
        let key = request::new_key()?;
        let mut params = CertificateParams::new(names).map_err(request::RequestError::Make)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.node_name.clone());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let today = Zoned::now().with_time_zone(TimeZone::UTC).date();
        // From yesterday on: clocks differ.
        let day = |offset: i32| {
            let date = today.saturating_add(offset.days());
            let month = u8::try_from(date.month()).unwrap_or(1);
            rcgen::date_time_ymd(date.year().into(), month, u8::try_from(date.day()).unwrap_or(1))
        };
        (params.not_before, params.not_after) = (day(-1), day(SELF_SIGNED_DAYS));
        let certificate = params.self_signed(&key).map_err(request::RequestError::Make)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn publish(sender: &watch::Sender<Current>, key: Arc<CertifiedKey>) {
    sender.send_if_modified(|current| {
        let same = current.as_ref().is_some_and(|current| current.cert == key.cert);
        if !same {
            *current = Some(key);
        }
        !same
    });
}

fn from_files(certificate: PathBuf, key: PathBuf) -> Result<Credentials, CertificateError> {
    match credentials::look_at(&certificate, &key) {
        (_, Some(credentials)) => Ok(credentials),
        (Found::Broken(why), _) => Err(StoreError {
            what: "use",
            path: certificate,
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, why),
        }
        .into()),
        _ => Err(StoreError {
            what: "read",
            path: if certificate.exists() { key } else { certificate },
            source: std::io::ErrorKind::NotFound.into(),
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(origin: Origin, dir: &std::path::Path, addresses: &[&str]) -> Serving {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Serving {
            origin,
            cert_dir: dir.to_owned(),
            node_name: "n1".to_owned(),
            addresses: watch::channel(addresses).1,
            connection: watch::channel(Connection::default()).1,
            times: Certificate::default(),
        }
    }

    #[test]
    fn a_self_signed_one_is_made_once_and_anew_where_it_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let serving = serving(Origin::SelfSigned, &dir.path().join("pki"), &["10.0.0.1"]);
        let first = serving.self_signed().unwrap();
        assert_eq!(first.names, ["n1", "10.0.0.1"]);
        let days = (first.validity.not_after_s - first.validity.not_before_s) / (24 * 3600);
        assert_eq!(days, 366);
        assert_eq!(serving.self_signed().unwrap().key.cert, first.key.cert);
        std::fs::write(dir.path().join("pki/kubelet.crt"), "half").unwrap();
        let second = serving.self_signed().unwrap();
        assert_ne!(second.key.cert, first.key.cert);
        assert_eq!(serving.self_signed().unwrap().key.cert, second.key.cert);
    }

    #[tokio::test]
    async fn files_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key] = ["c", "k"].map(|name| dir.path().join(name));
        let origin = Origin::Files { certificate: certificate.clone(), key: key.clone() };
        let mut serving = serving(origin, dir.path(), &[]);
        let (sender, receiver) = watch::channel(None);
        let error = serving.turn(&sender).await.unwrap_err().to_string();
        assert!(error.contains(&certificate.display().to_string()), "{error}");
        let mut shown = Vec::new();
        for _ in 0..2 {
            let (pem, key_pem) = request::tests::issued(-24 * 3600, 24 * 3600);
            std::fs::write(&certificate, pem).unwrap();
            std::fs::write(&key, key_pem).unwrap();
            serving.turn(&sender).await.unwrap();
            shown.push(ServingKey(receiver.clone()).0.borrow().clone().unwrap().cert.clone());
        }
        assert_ne!(shown[0], shown[1]);
    }
}
