//! A certificate that is not renewed in time is told of as Events of its pod: when its renewal is overdue, and when it has
//! expired.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::until;
use crate::clock;
use crate::trace::journal::Journal;
use oomlet_core::pod::PodRef;
use oomlet_core::pod_certificate::{CertificateKey, Credential, REFRESH_OVERDUE};
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::{Kind, Record};

/// Each is told once of each certificate.
pub(super) struct Late {
    journal: Arc<Journal>,
    pod: PodRef,
    volume: String,
    told_overdue: bool,
    told_expired: bool,
}

impl Late {
    pub fn of(journal: &Arc<Journal>, key: &CertificateKey) -> Late {
        let (uid, namespace, name) = (key.pod_uid.clone(), key.namespace.clone(), key.pod_name.clone());
        let pod = PodRef { uid, namespace, name };
        Late {
            journal: Arc::clone(journal),
            pod,
            volume: key.volume.clone(),
            told_overdue: false,
            told_expired: false,
        }
    }

    /// There is another.
    pub fn renewed(&mut self) {
        (self.told_overdue, self.told_expired) = (false, false);
    }

    /// To be dropped when there is another.
    pub async fn tell(&mut self, current: &Credential, jitter: Duration) -> Infallible {
        let overdue_after = REFRESH_OVERDUE + jitter;
        let overdue_at = current.begin_refresh_unix_s.saturating_add_unsigned(overdue_after.as_secs());
        // The earlier first; one of an hour's life expires before it is overdue.
        if current.expires_unix_s < overdue_at {
            self.expired(current).await;
            self.overdue(overdue_at).await;
        } else {
            self.overdue(overdue_at).await;
            self.expired(current).await;
        }
        std::future::pending().await
    }

    async fn overdue(&mut self, at_unix_s: i64) {
        until(at_unix_s, Duration::ZERO).await;
        if !std::mem::replace(&mut self.told_overdue, true) {
            self.publish(Reason::CertificateOverdueForRefresh, "has not been renewed in time");
        }
    }

    async fn expired(&mut self, current: &Credential) {
        until(current.expires_unix_s, Duration::ZERO).await;
        if !std::mem::replace(&mut self.told_expired, true) {
            self.publish(Reason::CertificateExpired, "has expired");
        }
    }

    fn publish(&self, reason: Reason, what: &str) {
        let message = format!("the pod's certificate in the volume {:?} {what}", self.volume);
        self.journal.publish(Record::new(clock::now(), Kind::Warning, reason, message).pod(&self.pod));
    }
}
