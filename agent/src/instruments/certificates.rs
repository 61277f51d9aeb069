//! The node's own certificates: how long they last, and renewals that failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntCounter};

use super::registered::Registered;

/// No certificate: a time to live without end, as kubelet has it.
const NONE: i64 = i64::MAX;

#[derive(Clone, Debug)]
pub struct Certificates {
    pub client: Certificate,
    pub server: Certificate,
}

#[derive(Clone, Debug)]
pub struct Certificate {
    /// Unix seconds.
    not_after: Arc<AtomicI64>,
    ttl: Gauge,
    failed: IntCounter,
}

impl Default for Certificate {
    fn default() -> Certificate {
        Certificates::default().client
    }
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates::new(&Registered::nowhere())
    }
}

impl Certificates {
    #[must_use]
    pub fn new(on: &Registered) -> Certificates {
        let ttl = |which: &str, name| {
            let help = format!(
                "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's {which} certificate. The value is in seconds until certificate expiry (negative if already expired). If {which} certificate is invalid or unused, the value will be +INF."
            );
            on.gauge(name, &help)
        };
        let failed = |name| on.counter(name, "[ALPHA] Counter of certificate renewal errors.");
        let certificate =
            |ttl, failed| Certificate { not_after: Arc::new(AtomicI64::new(NONE)), ttl, failed };
        let certificates = Certificates {
            client: certificate(
                ttl("client", "kubelet_certificate_manager_client_ttl_seconds"),
                failed("kubelet_certificate_manager_client_expiration_renew_errors"),
            ),
            server: certificate(
                ttl("serving", "kubelet_certificate_manager_server_ttl_seconds"),
                failed("kubelet_server_expiration_renew_errors"),
            ),
        };
        certificates.look_at_the_clock();
        certificates
    }

    /// Times to live are those of the moment that they are asked for.
    pub fn look_at_the_clock(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for certificate in [&self.client, &self.server] {
            let not_after = certificate.not_after.load(Ordering::Relaxed);
            let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            #[allow(clippy::cast_precision_loss, reason = "seconds of some years")]
            let ttl = if not_after == NONE { f64::INFINITY } else { not_after.saturating_sub(now_s) as f64 };
            certificate.ttl.set(ttl);
        }
    }
}

impl Certificate {
    /// Unix seconds.
    pub fn lasts_until(&self, not_after: i64) {
        self.not_after.store(not_after, Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.failed.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_live_is_that_of_the_moment() {
        let certificates = Certificates::default();
        assert_eq!(certificates.client.ttl.get(), f64::INFINITY);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        certificates.server.lasts_until(i64::try_from(now).unwrap() + 1000);
        certificates.clone().look_at_the_clock();
        let ttl = certificates.server.ttl.get();
        assert!((900.0..=1000.0).contains(&ttl), "{ttl}");
        certificates.client.lasts_until(0);
        certificates.look_at_the_clock();
        assert!(certificates.client.ttl.get() < 0.0, "it has ended");
    }
}
