//! The one standing order of a worker. Pure.

use std::time::Duration;

use crate::clock::Mono;
use crate::pod::order::WorkOrder;
use crate::pod::spec::MINIMUM_GRACE;
use crate::reason::Reason;

/// The newest order, with what earlier ones have fixed.
#[derive(Clone, Debug)]
pub struct Standing {
    pub order: WorkOrder,
    /// For a termination: when it was first ordered, and when SIGKILL is due.
    pub termination: Option<Termination>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination {
    pub since: Mono,
    pub kill_at: Mono,
    /// Nobody is given any more time: no hook is run, no turn waited for.
    pub cut: bool,
}

impl Standing {
    #[must_use]
    pub fn is_termination(&self) -> bool {
        self.termination.is_some()
    }

    #[must_use]
    pub fn is_eviction(&self) -> bool {
        matches!(self.order, WorkOrder::Terminate { reason, .. } if reason.is_eviction())
    }
}

/// What stands after `order` came at `now`: a termination stays one, its SIGKILL only ever comes earlier, and
/// removal once ordered stays ordered.
#[must_use]
pub fn merge(standing: Option<Standing>, order: WorkOrder, now: Mono) -> Standing {
    let earlier = standing.and_then(|s| s.termination.map(|t| (s.order, t)));
    match (earlier, order) {
        (None, order @ WorkOrder::Sync { .. }) => Standing { order, termination: None },
        (Some((order, t)), WorkOrder::Sync { .. }) => Standing { order, termination: Some(t) },
        (earlier, WorkOrder::Terminate { pod, grace, reason, remove }) => {
            let grace = effective_grace(reason, grace);
            let asked = now + grace;
            let none = grace.is_zero();
            let (termination, grace, remove) = match earlier {
                Some((WorkOrder::Terminate { grace: before, remove: removal, .. }, t)) => {
                    let (kill_at, cut) = (t.kill_at.min(asked), t.cut || none);
                    (Termination { since: t.since, kill_at, cut }, before.min(grace), remove || removal)
                }
                _ => (Termination { since: now, kill_at: asked, cut: none }, grace, remove),
            };
            let order = WorkOrder::Terminate { pod, grace, reason, remove };
            Standing { order, termination: Some(termination) }
        }
    }
}

/// The grace that containers get: a pod that is merely deleted has at least [`MINIMUM_GRACE`].
fn effective_grace(reason: Reason, grace: Duration) -> Duration {
    match reason {
        Reason::PodRemoved
        | Reason::PodReplaced
        | Reason::OrphanedPod
        | Reason::PodCompleted
        | Reason::DeadlineExceeded => grace.max(MINIMUM_GRACE),
        _ => grace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::probe::ProbeResults;
    use std::sync::Arc;

    const T0: Mono = Mono::from_millis(1_000_000);

    fn sync() -> WorkOrder {
        WorkOrder::Sync { pod: Arc::default(), probes: ProbeResults::default(), reason: Reason::PodAdded }
    }

    fn terminate(grace_s: u64, reason: Reason, remove: bool) -> WorkOrder {
        WorkOrder::Terminate { pod: Arc::default(), grace: Duration::from_secs(grace_s), reason, remove }
    }

    /// Each order with the second at which it comes → SIGKILL due at second, first ordered at second, remove, cut.
    #[test]
    fn orders_merge() {
        for (what, orders, expected) in [
            ("a sync", vec![(0, sync())], None),
            ("a newer sync", vec![(0, sync()), (1, sync())], None),
            (
                "a termination",
                vec![(0, sync()), (1, terminate(30, Reason::PodRemoved, true))],
                Some((31, 1, true, false)),
            ),
            (
                "is sticky",
                vec![(0, terminate(30, Reason::PodRemoved, false)), (1, sync())],
                Some((30, 0, false, false)),
            ),
            (
                "grace shrinks",
                vec![
                    (0, terminate(30, Reason::Evicted, false)),
                    (4, terminate(1, Reason::GraceCutShort, false)),
                ],
                Some((5, 0, false, false)),
            ),
            (
                "grace does not grow",
                vec![(0, terminate(5, Reason::Evicted, false)), (4, terminate(30, Reason::PodRemoved, true))],
                Some((5, 0, true, false)),
            ),
            (
                "removal stays",
                vec![(0, terminate(5, Reason::PodRemoved, true)), (1, terminate(0, Reason::Evicted, false))],
                Some((1, 0, true, true)),
            ),
            (
                "a deletion has two seconds",
                vec![(0, terminate(0, Reason::PodRemoved, true))],
                Some((2, 0, true, false)),
            ),
            (
                "an eviction need not",
                vec![(0, terminate(0, Reason::Evicted, false))],
                Some((0, 0, false, true)),
            ),
        ] {
            let mut standing = None;
            for (at, order) in orders {
                standing = Some(merge(standing, order, T0 + Duration::from_secs(at)));
            }
            let standing = standing.unwrap();
            let remove = matches!(standing.order, WorkOrder::Terminate { remove: true, .. });
            let second = |t: Mono| t.since(T0).as_secs();
            let found = standing.termination.map(|t| (second(t.kill_at), second(t.since), remove, t.cut));
            assert_eq!(found, expected, "{what}");
        }
    }

    proptest::proptest! {
        #[test]
        fn sigkill_only_comes_earlier(graces in proptest::collection::vec(0..100u64, 1..20)) {
            let mut standing: Option<Standing> = None;
            for (at, grace) in (0..).zip(graces) {
                let before = standing.as_ref().and_then(|s| s.termination);
                let merged = merge(standing.take(), terminate(grace, Reason::Evicted, false), T0 + Duration::from_secs(at));
                let after = merged.termination.unwrap();
                if let Some(before) = before {
                    proptest::prop_assert!(after.kill_at <= before.kill_at && after.since == before.since);
                }
                standing = Some(merged);
            }
        }
    }
}
