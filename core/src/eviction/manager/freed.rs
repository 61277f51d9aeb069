//! What evicted pods give back, and when: measured on the domain, not taken from the runtime's word that they have ended.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Mono;
use crate::pod::PodUid;

/// The memory counts as freed once this share of what the pod held is there; what it grew by after it was read last is
/// not known, and neighbours take some of it at once.
const FREED_SHARE: f64 = 0.8;

/// What one pod gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    pub bytes: u64,
    /// From the order to stop; `None`: not seen, for others took it.
    pub after: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    ordered_at: Mono,
    held_bytes: u64,
    /// The most that the domain held since, the newest, and when the difference was enough.
    peak_bytes: u64,
    newest_bytes: u64,
    at: Option<Mono>,
}

/// Pods that were told to stop, and what the domain held since.
#[derive(Clone, Debug, Default)]
pub(super) struct FreedMemory(BTreeMap<PodUid, Pending>);

impl FreedMemory {
    /// The pod, which holds `held_bytes` of the domain's `domain_bytes`, was told to stop. Committed bytes: file cache
    /// outlives the pod's processes.
    pub fn ordered(&mut self, pod: &PodUid, held_bytes: u64, domain_bytes: u64, now: Mono) {
        let pending = Pending {
            ordered_at: now,
            held_bytes,
            peak_bytes: domain_bytes,
            newest_bytes: domain_bytes,
            at: None,
        };
        self.0.insert(pod.clone(), pending);
    }

    pub fn observe(&mut self, at: Mono, domain_bytes: u64) {
        for pod in self.0.values_mut() {
            pod.newest_bytes = domain_bytes;
            pod.peak_bytes = pod.peak_bytes.max(domain_bytes);
            let back = pod.peak_bytes - domain_bytes;
            if pod.at.is_none() && back as f64 >= pod.held_bytes as f64 * FREED_SHARE {
                pod.at = Some(at);
            }
        }
    }

    /// The pod has ended.
    pub fn take(&mut self, pod: &PodUid) -> Option<Freed> {
        let pod = self.0.remove(pod)?;
        Some(Freed {
            bytes: pod.peak_bytes - pod.newest_bytes,
            after: pod.at.map(|at| at.since(pod.ordered_at)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_back_when_the_domain_has_it() {
        for (held, usage, bytes, after) in [
            // It grew to 300 and went.
            (200, &[260, 300, 290, 120, 90][..], 210, Some(40)),
            // A neighbour takes it as it comes.
            (200, &[260, 300, 290, 250, 260], 40, None),
            (200, &[], 0, None),
        ] {
            let mut freed_memory = FreedMemory::default();
            let pod = PodUid::from("p");
            freed_memory.ordered(&pod, held, 250, Mono::from_millis(100));
            for (i, bytes) in usage.iter().enumerate() {
                freed_memory.observe(Mono::from_millis(110 + 10 * i as u64), *bytes);
            }
            let after = after.map(Duration::from_millis);
            assert_eq!(freed_memory.take(&pod), Some(Freed { bytes, after }), "{usage:?}");
            assert_eq!(freed_memory.take(&pod), None);
        }
    }
}
