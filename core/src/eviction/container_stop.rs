//! The decision to stop a container before it reaches its own memory limit, and its words.

use std::fmt::Write as _;
use std::time::Duration;

use super::Numbers;
use super::message::short;
use crate::clock::Mono;
use crate::pod::{ContainerInstance, PodRef};
use crate::quantity::format_bytes;
use crate::signal::Domain;

/// One decision. Its reason is [`crate::reason::Reason::MemoryLimitForestalled`]. The pod lives on, and restarts the container
/// by its `restartPolicy`.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStop {
    pub pod: PodRef,
    pub container: ContainerInstance,
    /// Between stop signal and SIGKILL.
    pub grace: Duration,
    /// Whose limit is near: the container's, or its pod's.
    pub domain: Domain,
    /// By itself it would reach the limit before its grace ends: it is to be held until it has ended.
    pub brake: bool,
    /// Of that domain.
    pub numbers: Numbers,
    /// For the container's status.
    pub message: String,
    /// The kernel event that led to the reading that this was decided on, by the time it happened.
    pub caused_by: Option<Mono>,
    /// When the numbers were read.
    pub read_at: Mono,
}

/// `Stopped before it reached the memory limit of the container, 256Mi: 224Mi used and 32Mi left, growing by 100Mi a
/// second, out of memory in 320 ms. Stop signal with a grace of 5s.`
#[must_use]
pub fn stop_message(domain: &Domain, numbers: &Numbers, grace: Duration) -> String {
    // Whole MiB: nobody reads the rest.
    let mib = |bytes: u64| format_bytes(bytes >> 20 << 20);
    let mut text = format!(
        "Stopped before it reached the memory limit of the {}, {}: {} used and {} left",
        domain.kind(),
        format_bytes(numbers.limit_bytes),
        mib(numbers.usage_bytes),
        mib(numbers.headroom_bytes),
    );
    if let Some(left) = numbers.time_to_oom {
        let rate = numbers.fast_rate_bytes_per_s;
        let rate = if rate < 1 << 20 { format_bytes(rate >> 10 << 10) } else { mib(rate) };
        let _ = write!(text, ", growing by {rate} a second, out of memory in {}", short(left));
    }
    // As Go writes durations, and the annotation: 5s, 1.5s, 300ms.
    let _ = write!(text, ". Stop signal with a grace of {grace:?}.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        const MIB: u64 = 1 << 20;
        let container = Domain::Container("u".into(), "c".into());
        let numbers = Numbers {
            limit_bytes: 256 * MIB,
            usage_bytes: 224 * MIB + 5,
            headroom_bytes: 32 * MIB - 5,
            fast_rate_bytes_per_s: 100 * MIB + 77,
            time_to_oom: Some(Duration::from_millis(320)),
            ..Numbers::default()
        };
        for (domain, numbers, grace_ms, expected) in [
            (
                container.clone(),
                numbers.clone(),
                5_000,
                "Stopped before it reached the memory limit of the container, 256Mi: 224Mi used and 31Mi left, growing by \
                 100Mi a second, out of memory in 320 ms. Stop signal with a grace of 5s.",
            ),
            (
                Domain::Pod("u".into()),
                Numbers {
                    fast_rate_bytes_per_s: 80 << 10,
                    time_to_oom: Some(Duration::from_secs(100)),
                    ..numbers.clone()
                },
                1_500,
                "Stopped before it reached the memory limit of the pod, 256Mi: 224Mi used and 31Mi left, growing by 80Ki \
                 a second, out of memory in 100.0 s. Stop signal with a grace of 1.5s.",
            ),
            (
                container,
                Numbers { time_to_oom: None, ..numbers },
                300,
                "Stopped before it reached the memory limit of the container, 256Mi: 224Mi used and 31Mi left. \
                 Stop signal with a grace of 300ms.",
            ),
        ] {
            assert_eq!(stop_message(&domain, &numbers, Duration::from_millis(grace_ms)), expected);
        }
    }
}
