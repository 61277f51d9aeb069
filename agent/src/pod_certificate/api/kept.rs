//! Certificates as they stand in the store, for the agent's next start.

use serde::{Deserialize, Serialize};

use super::Shared;
use oomlet_core::pod_certificate::{CertificateKey, Credential};

/// Their kind in the store.
const KIND: &str = "certificate";

/// A certificate as it stands in the store.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
    chain: String,
    begin_refresh_unix_s: i64,
    expires_unix_s: i64,
}

impl Shared {
    pub(super) fn stored(&self, key: &CertificateKey) -> Option<Credential> {
        let names = store_name(key);
        let stored: Stored = self.store.of_pod(&key.pod_uid, KIND, &names.each_ref().map(String::as_str))?;
        let Stored { key, chain, begin_refresh_unix_s, expires_unix_s } = stored;
        Some(Credential { key, chain, begin_refresh_unix_s, expires_unix_s })
    }

    pub(super) fn store(&self, key: &CertificateKey, credential: &Credential) {
        let Credential { key: private_key, chain, begin_refresh_unix_s, expires_unix_s } = credential.clone();
        let stored = Stored { key: private_key, chain, begin_refresh_unix_s, expires_unix_s };
        let names = store_name(key);
        self.store.keep_of_pod(&key.pod_uid, KIND, &names.each_ref().map(String::as_str), &stored);
    }
}

fn store_name(key: &CertificateKey) -> [String; 2] {
    [key.volume.clone(), key.source.to_string()]
}
