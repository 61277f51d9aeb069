//! `authentication.x509.clientCAFile`: whose client certificates count. A file that changes counts from then on; one that is
//! gone or broken leaves what was there before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::tls;
use crate::watched_dir::Looks;

/// Besides inotify. kubelet's time.
const RESCAN: Duration = Duration::from_secs(60);

/// `None`: no certificate counts (yet).
pub type Verifier = Option<Arc<dyn ClientCertVerifier>>;

#[derive(Debug, thiserror::Error)]
pub enum ClientCaError {
    #[error("cannot read the client CA {path}: {source}; check authentication.x509.clientCAFile")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the client CA {path} is of no use: {why}; it must have certificates as PEM")]
    Unusable { path: PathBuf, why: String },
}

#[derive(Debug)]
pub struct ClientCa {
    path: PathBuf,
    /// What was read last, and what is wrong with it.
    seen: Option<Vec<u8>>,
    told: Option<String>,
    sender: watch::Sender<Verifier>,
}

impl ClientCa {
    #[must_use]
    pub fn new(path: PathBuf) -> (ClientCa, watch::Receiver<Verifier>) {
        let (sender, receiver) = watch::channel(None);
        let mut ca = ClientCa { path, seen: None, told: None, sender };
        ca.look();
        (ca, receiver)
    }

    pub async fn run(mut self, cancel: CancellationToken) {
        let mut looks = Looks::new(&self.path, RESCAN);
        // Cancel-safe: the agent ends.
        while cancel.run_until_cancelled(looks.next()).await.is_some() {
            self.look();
        }
    }

    fn look(&mut self) {
        match self.read() {
            Ok(None) => self.told = None,
            Ok(Some(verifier)) => {
                tracing::info!(file = %self.path.display(), "client certificates of this authority count");
                self.told = None;
                self.sender.send_replace(Some(verifier));
            }
            Err(error) => {
                let text = error.to_string();
                if self.told.as_ref() != Some(&text) {
                    tracing::error!("{text}; what counted before counts on");
                }
                self.told = Some(text);
            }
        }
    }

    /// `None`: it is as it was.
    fn read(&mut self) -> Result<Verifier, ClientCaError> {
        let pem = std::fs::read(&self.path)
            .map_err(|source| ClientCaError::Read { path: self.path.clone(), source })?;
        if self.seen.as_ref() == Some(&pem) {
            return Ok(None);
        }
        let unusable = |why: String| ClientCaError::Unusable { path: self.path.clone(), why };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| unusable(format!("not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider());
        let verifier = verifier.build().map_err(|error| unusable(error.to_string()))?;
        self.seen = Some(pem);
        Ok(Some(verifier))
    }
}
