//! Who the agent itself holds, and held until a moment ago: what such a container answers, or does not, is not its own doing.
//! Written by the SyncLoop's executor as it changes gears, read by the prober.

use std::time::Duration;

use imbl::OrdMap;

use crate::brake::{Gear, Held};
use crate::clock::Mono;
use crate::pod::{ContainerInstance, PodUid};

/// What has piled up while it stood still is done by then: the shortest timeout that a probe can have.
pub const WAKE: Duration = Duration::from_secs(1);

/// Longer ago than any probe takes that anybody writes.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct HeldPods(OrdMap<Held, Span>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    since: Mono,
    /// `None`: it is held.
    until: Option<Mono>,
}

impl HeldPods {
    /// Its gear is this one now. Whether that changes anything here.
    pub fn geared(&mut self, held: &Held, gear: Gear, now: Mono) -> bool {
        match (self.0.get(held).copied(), gear) {
            (Some(Span { until: None, .. }), Gear::Free) => self.let_go(held, now),
            (Some(Span { until: None, .. }), _) | (_, Gear::Free) => return false,
            (before, _) => {
                let goes_on = before.filter(|span| span.until.is_some_and(|until| until + WAKE >= now));
                let since = goes_on.map_or(now, |span| span.since);
                self.0.insert(held.clone(), Span { since, until: None });
            }
        }
        true
    }

    fn let_go(&mut self, held: &Held, now: Mono) {
        if let Some(span) = self.0.get_mut(held) {
            span.until = Some(now);
        }
        let long_gone = |span: &Span| span.until.is_some_and(|until| now.since(until) > FORGET_AFTER);
        self.keep(|_, span| !long_gone(span));
    }

    /// Whether some went.
    fn keep(&mut self, keep: impl Fn(&Held, &Span) -> bool) -> bool {
        let gone: Vec<Held> =
            self.0.iter().filter(|(held, span)| !keep(held, span)).map(|(held, _)| held.clone()).collect();
        for held in &gone {
            self.0.remove(held);
        }
        !gone.is_empty()
    }

    /// Nobody is held any more.
    pub fn all_were_let_go(&mut self, now: Mono) -> bool {
        let held: Vec<Held> =
            self.0.iter().filter(|(_, span)| span.until.is_none()).map(|(held, _)| held.clone()).collect();
        for held in &held {
            self.let_go(held, now);
        }
        !held.is_empty()
    }

    /// Nothing is left of the pod.
    pub fn forget(&mut self, uid: &PodUid) -> bool {
        self.keep(|held, _| held.pod != *uid)
    }

    /// The container, or its pod, was held between the two, or had been until shortly before.
    #[must_use]
    pub fn between(&self, uid: &PodUid, container: &ContainerInstance, from: Mono, to: Mono) -> bool {
        let overlaps = |held: &Held| {
            let span = self.0.get(held);
            span.is_some_and(|s| s.since <= to && s.until.is_none_or(|until| until + WAKE >= from))
        };
        !self.0.is_empty() && (overlaps(&Held::pod(uid)) || overlaps(&Held::container(uid, container)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_with_their_wake() {
        let (uid, ms) = (PodUid::from("p"), Mono::from_millis);
        let container = |id: &str| ContainerInstance { name: "c".into(), id: id.into() };
        let c1 = container("c1");
        let mut held = HeldPods::default();
        let pod = Held::pod(&uid);
        assert!(!held.geared(&pod, Gear::Free, ms(0)));
        assert!(held.geared(&pod, Gear::Frozen, ms(1000)));
        assert!(!held.geared(&pod, Gear::Throttled { room_bytes: 0 }, ms(1100)));
        let asked = |held: &HeldPods, from, to| held.between(&uid, &c1, ms(from), ms(to));
        assert!(!asked(&held, 500, 999) && asked(&held, 999, 1000) && asked(&held, 9000, 9001));
        assert!(held.geared(&pod, Gear::Free, ms(1300)));
        assert!(asked(&held, 900, 1500) && asked(&held, 2300, 2400) && !asked(&held, 2301, 2400));
        // Held again within the wake: one span.
        assert!(held.geared(&pod, Gear::Frozen, ms(1900)) && asked(&held, 1100, 1200));
        assert!(held.all_were_let_go(ms(2000)) && !held.all_were_let_go(ms(2001)));
        assert!(asked(&held, 2900, 2950) && !asked(&held, 3001, 3002));
        // One container of several.
        held.geared(&Held::container(&uid, &c1), Gear::Frozen, ms(5000));
        assert!(asked(&held, 5000, 5001) && !held.between(&uid, &container("c2"), ms(5000), ms(5001)));
        assert!(held.forget(&uid) && !held.forget(&uid) && !asked(&held, 0, 9000));
    }
}
