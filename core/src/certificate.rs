//! Decisions about the node's certificates: whether one is of use, when the next is asked for, what the API server's answer
//! means. Core; times are Unix seconds and an argument.
//!
//! Numbers are kubelet's (k8s.io/client-go/util/certificate/certificate_manager.go).

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::Timestamp;

/// Signers of the two kinds of certificate that a node has.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// The signers take these usages and no others for keys that only sign (ECDSA, Ed25519); RSA has `key encipherment` too.
pub const CLIENT_USAGES: [&str; 2] = ["digital signature", "client auth"];
pub const SERVING_USAGES: [&str; 2] = ["digital signature", "server auth"];

/// A request that is not approved by then is given up, and another one is made.
pub const APPROVAL_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// After an attempt that failed: 2 s, twice as long after each, 32 s at most.
const FIRST_DELAY: Duration = Duration::from_secs(2);
const LAST_DELAY: Duration = Duration::from_secs(32);
/// A self-signed certificate is made anew when it has less than this left.
const SELF_SIGNED_LEFT_S: i64 = 30 * 24 * 3600;

/// Who the node is to the API server.
#[must_use]
pub fn user_name(node: &str) -> String {
    format!("system:node:{node}")
}

/// The group of all nodes, the organisation of their certificates.
pub const NODES_GROUP: &str = "system:nodes";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before_s: i64,
    pub not_after_s: i64,
}

/// What is in a certificate file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Missing,
    /// Not a certificate and its key, with what is wrong.
    Broken(String),
    Certificate(Validity),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// It serves until then.
    Nothing { rotate_at_s: i64 },
    /// It serves, and its time is nearly over.
    Rotate,
    /// It is of no use: a new key and a new certificate.
    Replace(Fault),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("is not there")]
    Missing,
    #[error("is no certificate with its key: {0}")]
    Broken(String),
    #[error("expired at {}", time(*.at_s))]
    Expired { at_s: i64 },
    #[error("is not valid before {}; is the clock right?", time(*.from_s))]
    NotYet { from_s: i64 },
}

/// Unix seconds as people read them: the same words at each attempt.
#[must_use]
pub fn time(unix_s: i64) -> String {
    Timestamp::from_second(unix_s).map_or_else(|_| format!("{unix_s} s after 1970"), |time| time.to_string())
}

/// `jitter`, 0 to 1, spreads the nodes of a cluster.
#[must_use]
pub fn need(found: &Found, jitter: f64, now_s: i64) -> Need {
    let validity = match found {
        Found::Missing => return Need::Replace(Fault::Missing),
        Found::Broken(why) => return Need::Replace(Fault::Broken(why.clone())),
        Found::Certificate(validity) => *validity,
    };
    if now_s >= validity.not_after_s {
        return Need::Replace(Fault::Expired { at_s: validity.not_after_s });
    }
    if now_s < validity.not_before_s {
        return Need::Replace(Fault::NotYet { from_s: validity.not_before_s });
    }
    let rotate_at_s = rotate_at_s(validity, jitter);
    if now_s >= rotate_at_s { Need::Rotate } else { Need::Nothing { rotate_at_s } }
}

/// Between 70 and 90 per cent of its life.
#[must_use]
pub fn rotate_at_s(validity: Validity, jitter: f64) -> i64 {
    let life = validity.not_after_s.saturating_sub(validity.not_before_s).max(0);
    let share = 0.7 + 0.2 * jitter.clamp(0.0, 1.0);
    // Lives of centuries fit an f64 to the second.
    validity.not_before_s.saturating_add((life as f64 * share).round() as i64)
}

/// Between 0 and 1, the same for the same certificate: a restart does not move its rotation.
#[must_use]
pub fn jitter_of(certificate: &[u8]) -> f64 {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(certificate);
    f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX)
}

/// Whether a self-signed serving certificate is made anew.
#[must_use]
pub fn self_signed_is_due(found: &Found, now_s: i64) -> bool {
    match found {
        Found::Certificate(v) => now_s < v.not_before_s || now_s + SELF_SIGNED_LEFT_S >= v.not_after_s,
        Found::Missing | Found::Broken(_) => true,
    }
}

/// After so many failed attempts.
#[must_use]
pub fn retry_delay(failed: u32) -> Duration {
    let doubled = FIRST_DELAY.saturating_mul(1 << failed.saturating_sub(1).min(8));
    doubled.min(LAST_DELAY)
}

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    /// PEM.
    Issued(Vec<u8>),
    /// Somebody said no.
    Denied(String),
    /// The signer could not.
    Failed(String),
}

#[must_use]
pub fn outcome(request: &CertificateSigningRequest) -> Outcome {
    let Some(status) = &request.status else { return Outcome::Pending };
    for condition in status.conditions.iter().flatten() {
        let told = || {
            let [reason, message] =
                [&condition.reason, &condition.message].map(|text| text.clone().unwrap_or_default());
            format!("{reason}: {message}")
        };
        match condition.type_.as_str() {
            "Denied" => return Outcome::Denied(told()),
            "Failed" => return Outcome::Failed(told()),
            _ => {}
        }
    }
    match &status.certificate {
        Some(certificate) if !certificate.0.is_empty() => Outcome::Issued(certificate.0.clone()),
        _ => Outcome::Pending,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIFE: Validity = Validity { not_before_s: 1000, not_after_s: 2000 };

    #[test]
    fn what_a_certificate_needs() {
        let found = Found::Certificate(LIFE);
        for (now, expected) in [
            (999, Need::Replace(Fault::NotYet { from_s: 1000 })),
            (1000, Need::Nothing { rotate_at_s: 1800 }),
            (1799, Need::Nothing { rotate_at_s: 1800 }),
            (1800, Need::Rotate),
            (1999, Need::Rotate),
            (2000, Need::Replace(Fault::Expired { at_s: 2000 })),
        ] {
            assert_eq!(need(&found, 0.5, now), expected, "{now}");
        }
        assert_eq!(need(&Found::Missing, 0.5, 0), Need::Replace(Fault::Missing));
        assert_eq!(Fault::Expired { at_s: 2000 }.to_string(), "expired at 1970-01-01T00:33:20Z");
        let broken = Found::Broken("half".to_owned());
        assert_eq!(need(&broken, 0.5, 0), Need::Replace(Fault::Broken("half".to_owned())));
    }

    #[test]
    fn a_self_signed_one_is_renewed_a_month_before_its_end() {
        let day = 24 * 3600;
        let year = Found::Certificate(Validity { not_before_s: 0, not_after_s: 365 * day });
        for (found, now, due) in [
            (&year, day, false),
            (&year, 334 * day, false),
            (&year, 335 * day, true),
            (&Found::Missing, 0, true),
        ] {
            assert_eq!(self_signed_is_due(found, now), due, "{now}");
        }
    }

    #[test]
    fn delays_grow_to_half_a_minute() {
        let delays: Vec<_> = [1, 2, 3, 4, 5, 6, 60, u32::MAX].map(|n| retry_delay(n).as_secs()).into();
        assert_eq!(delays, [2, 4, 8, 16, 32, 32, 32, 32]);
    }

    #[test]
    fn what_the_server_says_of_a_request() {
        let of = |status: serde_json::Value| {
            let request = serde_json::json!({"metadata": {"name": "x"}, "spec": {"request": "", "signerName": CLIENT_SIGNER}, "status": status});
            outcome(&serde_json::from_value(request).unwrap())
        };
        let condition =
            |kind: &str| serde_json::json!([{"type": kind, "status": "True", "reason": "R", "message": "m"}]);
        assert_eq!(of(serde_json::Value::Null), Outcome::Pending);
        assert_eq!(of(serde_json::json!({"conditions": condition("Approved")})), Outcome::Pending);
        assert_eq!(
            of(serde_json::json!({"conditions": condition("Denied")})),
            Outcome::Denied("R: m".to_owned())
        );
        assert_eq!(
            of(serde_json::json!({"conditions": condition("Failed")})),
            Outcome::Failed("R: m".to_owned())
        );
        let issued = serde_json::json!({"conditions": condition("Approved"), "certificate": "cGVt"});
        assert_eq!(of(issued), Outcome::Issued(b"pem".to_vec()));
    }

    proptest! {
        #[test]
        fn a_rotation_lies_within_the_life(before in -1_000_000_000i64..1_000_000_000, life in 1i64..1_000_000_000, bytes: [u8; 8]) {
            let validity = Validity { not_before_s: before, not_after_s: before + life };
            let at = rotate_at_s(validity, jitter_of(&bytes)) - before;
            prop_assert!(at as f64 >= life as f64 * 0.7 - 1.0 && at as f64 <= life as f64 * 0.9 + 1.0);
        }
    }
}
