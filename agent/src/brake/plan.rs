//! Which pod or container is held in which gear. Owns the holds and their growth budgets; reads the headroom of node,
//! `kubepods`, and of containers and pods with a limit; emits [`BrakeStep`]s by `plan`, which changes nothing. The SyncLoop
//! tells what it did of a plan by [`Brakes::ordered`].

mod budget;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Mono;
use crate::pod::{ContainerInstance, PodUid};
use crate::reason::Reason;
use crate::signal::Domain;
use budget::Budget;
pub use budget::room_bytes;

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

/// A frozen pod answers nobody. Where its stop signal has not been sent by then (the runtime has to do it), it runs
/// again, on its budget.
pub const LONGEST_FREEZE: Duration = Duration::from_millis(300);

/// How long after the end of the grace SIGKILL has had its effect: a task in v1's freezer does not die of it.
const KILL_TAKES: Duration = Duration::from_millis(100);

/// A freezer stops threads as they return to user space: growth within this time after the order is still theirs.
const FREEZE_SETTLES: Duration = Duration::from_millis(2);

/// A gear that could not be set is tried again.
const RETRY: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gear {
    /// All its threads stand still.
    Frozen,
    /// It runs, and its growth is bounded.
    Throttled {
        /// What it may grow by from here on, where the kernel can be told (`memory.high`).
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
}

#[derive(Clone, Debug)]
struct Hold {
    domain: Domain,
    since: Mono,
    /// SIGKILL comes then.
    ends_at: Mono,
    /// From the stop signal on.
    budget: Option<Budget>,
    headroom_bytes: u64,
    /// `None`: it could not be set, or somebody else has changed it.
    gear: Option<Gear>,
    geared_at: Mono,
    /// The headroom once the pod really stood still: what goes after that, others take.
    settled_bytes: Option<u64>,
    freezes: u32,
    frozen: Duration,
    /// It has run on its budget before.
    has_run: bool,
    /// Its grace is: no budget lets it run any more.
    is_over: bool,
    /// Nothing is to hold it any more, from then on.
    let_go_at: Option<Mono>,
}

impl Hold {
    /// From the stop signal on, or from when waiting for it is over.
    fn budget_at(&self, now: Mono) -> Option<Budget> {
        let waited = || (now >= self.since + LONGEST_FREEZE).then(|| self.begin(self.since + LONGEST_FREEZE));
        self.budget.or_else(waited)
    }

    fn begin(&self, from: Mono) -> Budget {
        Budget::new(from, self.ends_at, &self.domain, self.headroom_bytes)
    }

    fn wanted(&self, now: Mono) -> (Gear, Reason) {
        if self.let_go_at.is_some() || now >= self.ends_at + KILL_TAKES {
            return (Gear::Free, Reason::Evicted);
        }
        if now >= self.ends_at {
            // SIGKILL is on its way, and thaws what it meets frozen.
            return (Gear::Frozen, Reason::GrowthOutrunsGrace);
        }
        let frozen = self.gear == Some(Gear::Frozen);
        match self.budget_at(now) {
            Some(budget) if budget.allows(self.headroom_bytes, frozen, now) => {
                let reason =
                    if self.budget.is_some() { Reason::StopSignalSent } else { Reason::StopSignalAwaited };
                (Gear::Throttled { room_bytes: budget.first() }, reason)
            }
            _ => (Gear::Frozen, Reason::GrowthOutrunsGrace),
        }
    }

    /// When the gear changes by the clock alone.
    fn next_change(&self) -> Mono {
        let ends = if self.gear == Some(Gear::Frozen) { self.ends_at + KILL_TAKES } else { self.ends_at };
        let by_budget = match &self.budget {
            None => Some(self.since + LONGEST_FREEZE),
            Some(budget) if self.gear == Some(Gear::Frozen) => budget.allows_from(self.headroom_bytes),
            Some(_) => None,
        };
        by_budget.filter(|at| !self.is_over && *at < self.ends_at).map_or(ends, |at| at.min(ends))
    }

    fn frozen_until(&self, now: Mono) -> Duration {
        let standing = self.gear == Some(Gear::Frozen);
        self.frozen + if standing { now.since(self.geared_at) } else { Duration::ZERO }
    }

    /// Memory goes although the pod stands still, or more of it than the pod could be given.
    fn fails(&self) -> bool {
        let budget = self.budget.unwrap_or_else(|| self.begin(self.since));
        let others = self.settled_bytes.unwrap_or(0).saturating_sub(self.headroom_bytes);
        budget.is_overdrawn(self.headroom_bytes) || others > budget.bytes() / 4
    }
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
        if self.holds(held) {
            return;
        }
        // Earlier runs of the container that nothing holds any more.
        let same = |other: &Held| {
            let name = |held: &Held| held.container.as_ref().map(|c| c.name.clone());
            other.container.is_some() && other.pod == held.pod && name(other) == name(held)
        };
        self.holds.retain(|other, hold| hold.gear != Some(Gear::Free) || !same(other));
        let mut hold = Hold {
            domain,
            since: now,
            ends_at,
            budget: None,
            headroom_bytes,
            gear: Some(Gear::Frozen),
            geared_at: now,
            settled_bytes: None,
            freezes: 1,
            frozen: Duration::ZERO,
            has_run: false,
            is_over: false,
            let_go_at: None,
        };
        if signalled {
            hold.budget = Some(hold.begin(now));
            let room_bytes = room_bytes(&hold.domain, headroom_bytes);
            hold.gear = Some(Gear::Throttled { room_bytes });
            (hold.freezes, hold.has_run) = (0, true);
        }
        self.holds.insert(held.clone(), hold);
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

    /// It, or all its containers, have ended: what is left of it must be able to.
    pub fn let_go(&mut self, held: &Held, now: Mono) {
        if let Some(hold) = self.holds.get_mut(held) {
            hold.let_go_at.get_or_insert(now);
        }
    }

    /// Its gear could not be set: it is let go, again and again until that succeeds.
    pub fn failed(&mut self, held: &Held, now: Mono) {
        if let Some(hold) = self.holds.get_mut(held) {
            (hold.gear, hold.let_go_at) = (None, Some(now + RETRY));
        }
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
            hold.headroom_bytes = headroom_bytes;
            hold.is_over |= at >= hold.ends_at;
            if hold.gear != Some(Gear::Frozen) {
                hold.settled_bytes = None;
            } else if at >= hold.geared_at + FREEZE_SETTLES {
                let settled = hold.settled_bytes.get_or_insert(headroom_bytes);
                *settled = headroom_bytes.max(*settled);
            }
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
        self.holds.get(held).is_some_and(|hold| hold.has_run)
    }

    /// Somebody runs on a budget for the sake of such a domain: what is taken of it is to be seen at once.
    #[must_use]
    pub fn any_running(&self, of: impl Fn(&Domain) -> bool) -> bool {
        let running = |hold: &Hold| matches!(hold.gear, Some(Gear::Throttled { .. }));
        self.holds.values().any(|hold| running(hold) && of(&hold.domain))
    }

    /// For which domain's sake it is held, and whether that does not help.
    #[must_use]
    pub fn state(&self, held: &Held) -> Option<(&Domain, bool)> {
        self.holds.get(held).filter(|_| self.holds(held)).map(|hold| (&hold.domain, hold.fails()))
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
            })
        };
        self.holds.iter().filter_map(step).collect()
    }

    /// The SyncLoop has had the gear changed.
    pub fn ordered(&mut self, step: &BrakeStep, now: Mono) {
        let Some(hold) = self.holds.get_mut(&step.held) else { return };
        hold.budget = hold.budget_at(now);
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
