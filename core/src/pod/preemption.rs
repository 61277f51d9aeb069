//! Which pods make room for a critical one that the node has none for (pkg/kubelet/preemption/preemption.go): as few and as
//! small as do, BestEffort before Burstable before Guaranteed.

use super::admission::Rejection;
use super::qos::{Amounts, QosClass};
use super::{Pod, PodUid, qos};

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Preemptable {
    pub uid: PodUid,
    pub qos: QosClass,
    pub requests: Amounts,
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    pub requests: Amounts,
    pub pods: u64,
}

impl Missing {
    const fn is_nothing(self) -> bool {
        self.requests.milli_cpu == 0 && self.requests.memory_bytes == 0 && self.pods == 0
    }

    fn without<'a>(self, pods: impl IntoIterator<Item = &'a Preemptable>) -> Missing {
        pods.into_iter().fold(self, |left, pod| Missing {
            requests: Amounts {
                milli_cpu: left.requests.milli_cpu.saturating_sub(pod.requests.milli_cpu),
                memory_bytes: left.requests.memory_bytes.saturating_sub(pod.requests.memory_bytes),
            },
            pods: left.pods.saturating_sub(1),
        })
    }

    /// How far a pod is from making up for it: 0 when it does (`distance`).
    fn distance(self, pod: &Preemptable) -> f64 {
        let share = |missing: u64, given: u64| {
            if missing == 0 {
                return 0.0;
            }
            let left = missing.saturating_sub(given) as f64 / missing as f64;
            left * left
        };
        share(self.requests.milli_cpu, pod.requests.milli_cpu)
            + share(self.requests.memory_bytes, pod.requests.memory_bytes)
            + share(self.pods, 1)
    }
}

/// Whether a pod may have to go for `wanted`: what is critical itself may not, unless it is less so (`Preemptable`,
/// pkg/kubelet/types/pod_update.go).
#[must_use]
pub fn may_go_for(pod: &Pod, pod_critical: bool, wanted: &Pod, wanted_critical: bool) -> bool {
    let critical = pod_critical || qos::is_critical(pod);
    wanted_critical && !critical || qos::priority(wanted) > qos::priority(pod)
}

/// Only for lack of room does anybody go.
#[must_use]
pub const fn is_for_lack_of_room(rejection: &Rejection) -> bool {
    rejection.reason.is_lack_of_room()
}

/// Who goes; empty: nothing is missing. `None`: all of them together would not do.
#[must_use]
pub fn victims(missing: Missing, pods: &[Preemptable]) -> Option<Vec<PodUid>> {
    let of = |class: QosClass| pods.iter().filter(move |p| p.qos == class).collect::<Vec<_>>();
    let (best_effort, burstable, guaranteed) =
        (of(QosClass::BestEffort), of(QosClass::Burstable), of(QosClass::Guaranteed));
    let all = |list: &[&Preemptable]| list.iter().copied().cloned().collect::<Vec<_>>();
    let (all_best_effort, all_burstable) = (all(&best_effort), all(&burstable));
    // Of the better classes only what the lesser ones cannot give.
    let from_guaranteed = by_distance(missing.without(&all_best_effort).without(&all_burstable), guaranteed)?;
    let from_burstable = by_distance(missing.without(&all_best_effort).without(&from_guaranteed), burstable)?;
    let from_best_effort =
        by_distance(missing.without(&from_burstable).without(&from_guaranteed), best_effort)?;
    let chosen = [from_best_effort, from_burstable, from_guaranteed];
    Some(chosen.into_iter().flatten().map(|pod| pod.uid).collect())
}

/// The pod that comes closest first; of equals the one that gives least.
fn by_distance(mut missing: Missing, mut pods: Vec<&Preemptable>) -> Option<Vec<Preemptable>> {
    let mut chosen = Vec::new();
    while !missing.is_nothing() {
        let closest = (0..pods.len()).min_by(|a, b| {
            let key = |i: usize| (missing.distance(pods[i]), pods[i].requests);
            let ((da, ra), (db, rb)) = (key(*a), key(*b));
            da.total_cmp(&db)
                .then(ra.memory_bytes.cmp(&rb.memory_bytes))
                .then(ra.milli_cpu.cmp(&rb.milli_cpu))
        })?;
        let pod = pods.swap_remove(closest);
        missing = missing.without([pod]);
        chosen.push(pod.clone());
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pod(uid: &str, qos: QosClass, milli_cpu: u64, memory_bytes: u64) -> Preemptable {
        Preemptable { uid: uid.into(), qos, requests: Amounts { milli_cpu, memory_bytes } }
    }

    fn missing(milli_cpu: u64, memory_bytes: u64, pods: u64) -> Missing {
        Missing { requests: Amounts { milli_cpu, memory_bytes }, pods }
    }

    #[test]
    fn as_few_and_as_small_as_do() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        let pods = [
            pod("best", BestEffort, 0, 0),
            pod("small", Burstable, 100, 100),
            pod("large", Burstable, 500, 500),
            pod("guaranteed", Guaranteed, 500, 500),
        ];
        for (missing, expected) in [
            (missing(0, 0, 0), Some(vec![])),
            (missing(0, 0, 1), Some(vec!["best"])),
            (missing(80, 0, 0), Some(vec!["small"])),
            (missing(400, 400, 0), Some(vec!["large"])),
            (missing(550, 0, 0), Some(vec!["large", "small"])),
            (missing(700, 0, 0), Some(vec!["large", "guaranteed"])),
            (missing(2000, 0, 0), None),
            (missing(0, 0, 5), None),
        ] {
            let mut got = victims(missing, &pods);
            let mut expected: Option<Vec<PodUid>> =
                expected.map(|names| names.into_iter().map(PodUid::from).collect());
            got.iter_mut().for_each(|uids| uids.sort());
            expected.iter_mut().for_each(|uids| uids.sort());
            assert_eq!(got, expected, "{missing:?}");
        }
    }

    proptest! {
        #[test]
        fn who_goes_gives_enough_and_nobody_goes_for_nothing(
            requests in proptest::collection::vec((0u64..5, 0u64..5, 0usize..3), 0..8),
            cpu in 0u64..12, memory in 0u64..12, count in 0u64..4,
        ) {
            let classes = [QosClass::BestEffort, QosClass::Burstable, QosClass::Guaranteed];
            let pods: Vec<_> = requests.iter().enumerate()
                .map(|(i, (c, m, class))| pod(&i.to_string(), classes[*class], *c, *m)).collect();
            let need = missing(cpu, memory, count);
            match victims(need, &pods) {
                None => prop_assert!(!need.without(&pods).is_nothing()),
                Some(chosen) => {
                    let gone: Vec<_> = pods.iter().filter(|p| chosen.contains(&p.uid)).cloned().collect();
                    prop_assert_eq!(gone.len(), chosen.len());
                    prop_assert!(need.without(&gone).is_nothing());
                    prop_assert!(!need.is_nothing() || chosen.is_empty());
                }
            }
        }
    }
}
