//! Where pods' own certificates come from. Shell; what is asked for, and when again, is [`oomlet_core::pod_certificate`]'s.
//!
//! - [`api`]: PodCertificateRequests of the API server.
//! - [`key`]: private keys, and the proof of having one.

pub mod api;
pub mod key;

use std::fmt::Debug;

use tokio::sync::broadcast;

use crate::object::BoxFuture;
use oomlet_core::pod::{Pod, PodUid};
use oomlet_core::pod_certificate::{CertificateKey, Credential};

pub trait CertificateSource: Debug + Send + Sync {
    /// The pod's certificates are needed from now on. For each UID once more is fine.
    fn register_pod(&self, pod: &Pod);

    /// They are not.
    fn unregister_pod(&self, uid: &PodUid);

    /// As it is now, or as soon as it is.
    fn get<'a>(&'a self, key: &'a CertificateKey) -> BoxFuture<'a, Result<Credential, String>>;

    /// Pods of which a certificate has been issued, renewed or refused.
    fn changes(&self) -> broadcast::Receiver<PodUid>;
}

/// Standalone nobody issues any.
#[derive(Debug)]
pub struct NoCertificates {
    changes: broadcast::Sender<PodUid>,
}

impl Default for NoCertificates {
    fn default() -> Self {
        NoCertificates { changes: broadcast::Sender::new(1) }
    }
}

impl CertificateSource for NoCertificates {
    fn register_pod(&self, _: &Pod) {}

    fn unregister_pod(&self, _: &PodUid) {}

    fn get<'a>(&'a self, key: &'a CertificateKey) -> BoxFuture<'a, Result<Credential, String>> {
        let error = format!(
            "a certificate of {:?} needs an API server, and this node is in standalone mode; remove the `podCertificate` from \
             the volume",
            key.signer_name
        );
        Box::pin(async { Err(error) })
    }

    fn changes(&self) -> broadcast::Receiver<PodUid> {
        self.changes.subscribe()
    }
}
