//! Which pod or container is held in which gear. Owns the holds and their growth budgets; reads the headroom of node,
//! `kubepods`, and of containers and pods with a limit; emits [`BrakeStep`]s by `plan`, which changes nothing. The SyncLoop
//! tells what it did of a plan by [`Brakes::ordered`].

mod budget;
mod hold;
mod neighbour;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Mono;
use crate::pod::{ContainerInstance, PodUid};
use crate::reason::Reason;
use crate::signal::Domain;
pub use budget::room_bytes;
use hold::Hold;
pub use hold::{FREEZE_SETTLES, KILL_TAKES, LONGEST_FREEZE};
pub use neighbour::LONGEST_NEIGHBOUR_THROTTLE;
use neighbour::NeighbourThrottle;

/// Who is held: a pod, or one of its containers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    pub pod: PodUid,
    /// `None`: the pod as a whole.
    pub container: Option<ContainerInstance>,
}

impl Held {
    #[must_use]
    pub fn pod(pod: &PodUid) -> Held {
        Held { pod: pod.clone(), container: None }
    }

    #[must_use]
    pub fn container(pod: &PodUid, container: &ContainerInstance) -> Held {
        Held { pod: pod.clone(), container: Some(container.clone()) }
    }

    /// `pod` or `container`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        if self.container.is_some() { "container" } else { "pod" }
    }
}

/// A gear that could not be set is tried again.
const RETRY: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gear {
    /// All its threads stand still.
    Frozen,
    /// It runs, and its growth is bounded.
    Throttled {
        /// What it may grow by from here on, where the kernel can be told (`memory.high`). 0: the kernel is not told.
        room_bytes: u64,
    },
    /// Nothing holds it.
    Free,
}

impl Gear {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Gear::Frozen => "frozen",
            Gear::Throttled { .. } => "throttled",
            Gear::Free => "free",
        }
    }
}

/// One change of gear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrakeStep {
    pub held: Held,
    pub gear: Gear,
    pub reason: Reason,
    /// The domain that runs out of memory: node or kubepods; for a container its own, or its pod's.
    pub domain: Domain,
    /// Of that domain, as read last.
    pub headroom_bytes: u64,
    /// How often it has been frozen, this time included, and for how long in all before.
    pub freezes: u32,
    pub frozen: Duration,
    /// It is not evicted itself: it is held so that this pod can end, which is.
    pub neighbour_of: Option<PodUid>,
}

/// Whether a grace can last by somebody being held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    NobodyHeld,
    Helps,
    /// Memory goes to others although those who are held stand still.
    OthersTakeIt,
    /// More is gone than could be given, or nobody will be held for much longer.
    InVain,
}

#[derive(Clone, Debug, Default)]
pub struct Brakes {
    holds: BTreeMap<Held, Hold>,
}

impl Brakes {
    /// A pod or container that is stopped because `domain` runs out is held until `ends_at`, the end of its grace: frozen
    /// until it has its stop signal, or, where it has it already (`signalled`), on its budget. One that is held already
    /// stays so.
    pub fn hold(
        &mut self,
        held: &Held,
        (domain, headroom_bytes): (Domain, u64),
        ends_at: Mono,
        signalled: bool,
        now: Mono,
    ) {
        if self.holds_to_its_end(held) {
            return;
        }
        // Earlier runs of the container that nothing holds any more.
        let same = |other: &Held| {
            let name = |held: &Held| held.container.as_ref().map(|c| c.name.clone());
            other.container.is_some() && other.pod == held.pod && name(other) == name(held)
        };
        self.holds.retain(|other, hold| hold.gear != Some(Gear::Free) || !same(other));
        let mut hold = Hold::frozen((domain, headroom_bytes), ends_at, now);
        if signalled {
            hold.run(now);
        }
        self.holds.insert(held.clone(), hold);
    }

    /// A pod that is not evicted itself, and grows so fast that `victim` could not end in order, is held until that has
    /// stopped or its kill has had its effect, for [`LONGEST_NEIGHBOUR_THROTTLE`] at most: on a budget from the beginning.
    pub fn throttle_neighbour(
        &mut self,
        pod: &PodUid,
        (victim, grace_ends): (&PodUid, Mono),
        (domain, headroom_bytes): (Domain, u64),
        now: Mono,
    ) {
        let held = Held::pod(pod);
        let before = self.holds.get(&held).and_then(|hold| Some((hold.neighbour.as_ref()?, hold.frozen)));
        let neighbour = NeighbourThrottle::new(victim, grace_ends, headroom_bytes, before, now);
        let ends_at = (grace_ends + KILL_TAKES).min(now + neighbour.longest());
        let mut hold = Hold::frozen((domain, headroom_bytes), ends_at, now);
        hold.neighbour = Some(neighbour);
        hold.run(now);
        self.holds.insert(held, hold);
    }

    /// Who is held for the sake of another is from now on for the sake of this one.
    pub fn hold_for(&mut self, victim: &PodUid) {
        let others = self.holds.iter_mut().filter(|(held, hold)| held.pod != *victim && hold.is_neighbour());
        for (_, hold) in others {
            hold.neighbour.iter_mut().for_each(|neighbour| neighbour.victim = victim.clone());
        }
    }

    /// It may be held for the sake of another: it is not held already, the last time was no false alarm or is some time
    /// ago, and it can be held at all.
    #[must_use]
    pub fn may_throttle_neighbour(&self, pod: &PodUid, now: Mono) -> bool {
        self.holds.get(&Held::pod(pod)).is_none_or(|hold| hold.may_follow(now))
    }

    /// What it helps `victim` that it, and others for the sake of anybody, are held because this domain runs out.
    #[must_use]
    pub fn help(&self, victim: &PodUid, domain: &Domain, now: Mono) -> Help {
        let own = self.holds.get(&Held::pod(victim));
        let own = own.filter(|h| self.holds_to_its_end(&Held::pod(victim)) && h.domain == *domain);
        let mut neighbours =
            self.holds.values().filter(|h| h.is_neighbour() && h.domain == *domain).peekable();
        let alone = neighbours.peek().is_none();
        let in_vain = |hold: &Hold| hold.is_overdrawn() || hold.is_nearly_over(now);
        if own.is_some_and(in_vain) || neighbours.any(in_vain) {
            return Help::InVain;
        }
        match own {
            None if alone => Help::NobodyHeld,
            // What the others are given is no failure.
            Some(own) if alone && own.fails() => Help::OthersTakeIt,
            _ => Help::Helps,
        }
    }

    /// When somebody was held last for the sake of another.
    #[must_use]
    pub fn neighbours_since(&self) -> Option<Mono> {
        self.holds.values().filter(|hold| hold.is_neighbour()).map(|hold| hold.since).max()
    }

    /// It is held until it has ended: not for the sake of another.
    #[must_use]
    pub fn holds_to_its_end(&self, held: &Held) -> bool {
        self.state(held).is_some()
    }

    /// For which domain's sake it is held until it has ended, and whether that does not help.
    #[must_use]
    pub fn state(&self, held: &Held) -> Option<(&Domain, bool)> {
        let hold = self.holds.get(held).filter(|hold| self.holds(held) && hold.neighbour.is_none())?;
        Some((&hold.domain, hold.fails()))
    }

    /// It has its stop signal.
    pub fn signalled(&mut self, held: &Held, now: Mono) {
        if let Some(hold) = self.holds.get_mut(held)
            && hold.budget.is_none()
        {
            hold.budget = Some(hold.begin(now));
        }
    }

    /// The grace ends now.
    pub fn cut(&mut self, held: &Held, now: Mono) {
        if let Some(hold) = self.holds.get_mut(held) {
            (hold.ends_at, hold.is_over) = (hold.ends_at.min(now), true);
        }
    }

    /// What there is to do once [`Brakes::cut`] has been told: what runs does not grow on until it is killed.
    #[must_use]
    pub fn after_cut(&self, held: &Held, now: Mono) -> Option<BrakeStep> {
        self.after(held, now, |alone| alone.cut(held, now))
    }

    /// What there is to do once [`Brakes::let_go`] has been told.
    #[must_use]
    pub fn after_let_go(&self, held: &Held, now: Mono) -> Option<BrakeStep> {
        self.after(held, now, |alone| alone.let_go(held, now))
    }

    fn after(&self, held: &Held, now: Mono, told: impl FnOnce(&mut Brakes)) -> Option<BrakeStep> {
        let hold = self.holds.get(held)?.clone();
        let mut alone = Brakes { holds: BTreeMap::from([(held.clone(), hold)]) };
        told(&mut alone);
        alone.plan(now).pop()
    }

    /// It, or all its containers, have ended: what is left of it must be able to, and nobody is held for its sake.
    pub fn let_go(&mut self, held: &Held, now: Mono) {
        for (other, hold) in &mut self.holds {
            let for_its_sake =
                held.container.is_none() && hold.neighbour.as_ref().is_some_and(|b| b.victim == held.pod);
            if other == held || for_its_sake {
                hold.let_go_at.get_or_insert(now);
            }
        }
    }

    /// Its gear could not be set: it is let go, again and again until that succeeds. `true`: it is not evicted itself, and
    /// this is the first time.
    pub fn failed(&mut self, held: &Held, now: Mono) -> bool {
        let Some(hold) = self.holds.get_mut(held) else { return false };
        let first = hold.neighbour.is_some() && !hold.has_failed;
        (hold.gear, hold.let_go_at, hold.has_failed) = (None, Some(now + RETRY), true);
        first
    }

    /// Somebody has let go of all: the guard, which took the agent for stuck.
    pub fn all_were_let_go(&mut self) {
        for hold in self.holds.values_mut().filter(|hold| hold.gear != Some(Gear::Free)) {
            hold.gear = None;
        }
    }

    /// Nothing is left of the pod, or of its containers.
    pub fn forget(&mut self, pod: &PodUid) {
        self.holds.retain(|held, _| held.pod != *pod);
    }

    /// As read at `at`.
    pub fn observe(&mut self, domain: &Domain, headroom_bytes: u64, at: Mono) {
        for hold in self.holds.values_mut().filter(|hold| hold.domain == *domain) {
            hold.observe(headroom_bytes, at);
        }
    }

    /// Anybody is held.
    #[must_use]
    pub fn any(&self) -> bool {
        self.holds.values().any(|hold| hold.gear != Some(Gear::Free))
    }

    #[must_use]
    pub fn holds(&self, held: &Held) -> bool {
        self.holds.get(held).is_some_and(|hold| hold.gear != Some(Gear::Free))
    }

    /// It has been let run on its budget.
    #[must_use]
    pub fn has_run(&self, held: &Held) -> bool {
        self.holds(held) && self.holds.get(held).is_some_and(|hold| hold.has_run)
    }

    /// Somebody runs on a budget for the sake of such a domain: what is taken of it is to be seen at once.
    #[must_use]
    pub fn any_running(&self, of: impl Fn(&Domain) -> bool) -> bool {
        let running = |hold: &Hold| matches!(hold.gear, Some(Gear::Throttled { .. }));
        self.holds.values().any(|hold| running(hold) && of(&hold.domain))
    }

    /// How long it has stood still.
    #[must_use]
    pub fn frozen(&self, held: &Held, now: Mono) -> Duration {
        self.holds.get(held).map_or(Duration::ZERO, |hold| hold.frozen_until(now))
    }

    /// The gears that are to be changed now.
    #[must_use]
    pub fn plan(&self, now: Mono) -> Vec<BrakeStep> {
        let step = |(held, hold): (&Held, &Hold)| {
            let (gear, reason) = match hold.wanted(now) {
                (Gear::Free, _) if held.container.is_some() => (Gear::Free, Reason::MemoryLimitForestalled),
                wanted => wanted,
            };
            let due = hold.let_go_at.is_none_or(|at| now >= at);
            // Once more at the end, whatever has been thawed for the kill.
            let ends = !hold.is_over && now >= hold.ends_at && hold.let_go_at.is_none();
            (ends || (due && hold.gear != Some(gear))).then(|| BrakeStep {
                held: held.clone(),
                gear,
                reason,
                domain: hold.domain.clone(),
                headroom_bytes: hold.headroom_bytes,
                freezes: hold.freezes + u32::from(gear == Gear::Frozen && hold.gear != Some(gear)),
                frozen: hold.frozen_until(now),
                neighbour_of: hold.neighbour.as_ref().map(|neighbour| neighbour.victim.clone()),
            })
        };
        self.holds.iter().filter_map(step).collect()
    }

    /// The SyncLoop has had the gear changed.
    pub fn ordered(&mut self, step: &BrakeStep, now: Mono) {
        let Some(hold) = self.holds.get_mut(&step.held) else { return };
        hold.budget = hold.budget_at(now);
        if let (Some(neighbour), Gear::Throttled { .. }) = (&mut hold.neighbour, step.gear) {
            neighbour.runs(hold.headroom_bytes);
        }
        (hold.freezes, hold.frozen) = (step.freezes, step.frozen);
        (hold.gear, hold.geared_at, hold.settled_bytes) = (Some(step.gear), now, None);
        hold.has_run |= step.gear != Gear::Frozen;
        hold.is_over |= now >= hold.ends_at;
        if step.gear == Gear::Free {
            hold.let_go_at.get_or_insert(now);
        }
    }

    /// When `plan` has something to do next, if no reading says so before.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Mono> {
        let held = self.holds.values().filter(|hold| hold.gear != Some(Gear::Free));
        held.map(|hold| match (hold.let_go_at, hold.gear) {
            (Some(at), _) => at,
            (None, None) => Mono::ZERO,
            (None, Some(_)) => hold.next_change(),
        })
        .min()
    }
}

#[cfg(test)]
mod tests;
