//! One pod or container that is held: which gear it wants, until when, and whether holding it helps.

use std::time::Duration;

use super::Gear;
use super::budget::Budget;
use super::neighbour::{BACK_OFF, NeighbourThrottle, SHORTEST_RUN};
use crate::clock::Mono;
use crate::reason::Reason;
use crate::signal::Domain;

/// A frozen pod answers nobody. Where its stop signal has not been sent by then (the runtime has to do it), it runs
/// again, on its budget; and so does one that is held for the sake of another.
pub const LONGEST_FREEZE: Duration = Duration::from_millis(300);

/// What SIGKILL takes, runtime included, until memory is back. A task in v1's freezer does not die of it.
pub const KILL_TAKES: Duration = Duration::from_millis(100);

/// A freezer stops threads as they return to user space: growth within this time after the order is still theirs.
pub const FREEZE_SETTLES: Duration = Duration::from_millis(2);

#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub domain: Domain,
    pub since: Mono,
    /// SIGKILL comes then, or nothing holds it any more.
    pub ends_at: Mono,
    /// From the stop signal on.
    pub budget: Option<Budget>,
    pub headroom_bytes: u64,
    /// `None`: it could not be set, or somebody else has changed it.
    pub gear: Option<Gear>,
    pub geared_at: Mono,
    /// The headroom once the pod really stood still: what goes after that, others take.
    pub settled_bytes: Option<u64>,
    pub freezes: u32,
    pub frozen: Duration,
    /// It has run on its budget before.
    pub has_run: bool,
    /// Its grace is: no budget lets it run any more.
    pub is_over: bool,
    /// Nothing is to hold it any more, from then on.
    pub let_go_at: Option<Mono>,
    /// A gear could not be set.
    pub has_failed: bool,
    /// It is not evicted itself.
    pub neighbour: Option<NeighbourThrottle>,
}

impl Hold {
    /// Begun now.
    pub fn frozen((domain, headroom_bytes): (Domain, u64), ends_at: Mono, now: Mono) -> Hold {
        Hold {
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
            has_failed: false,
            neighbour: None,
        }
    }

    /// On its budget from the beginning.
    pub fn run(&mut self, now: Mono) {
        let budget = self.begin(now);
        self.gear = Some(self.throttled(&budget));
        (self.budget, self.freezes, self.has_run) = (Some(budget), 0, true);
    }

    pub fn begin(&self, from: Mono) -> Budget {
        let until = self.neighbour.as_ref().map_or(self.ends_at, |neighbour| neighbour.grace_ends);
        let budget = Budget::new(from, until, &self.domain, self.headroom_bytes);
        if self.neighbour.is_some() { budget.without_last_runs() } else { budget }
    }

    /// The freezer alone, where it is to live on: the kernel makes a thread sleep for up to two seconds that is above
    /// `memory.high`, and nothing wakes it.
    fn throttled(&self, budget: &Budget) -> Gear {
        Gear::Throttled { room_bytes: if self.neighbour.is_some() { 0 } else { budget.first() } }
    }

    /// From the stop signal on, or from when waiting for it is over.
    pub fn budget_at(&self, now: Mono) -> Option<Budget> {
        let waited = || (now >= self.since + LONGEST_FREEZE).then(|| self.begin(self.since + LONGEST_FREEZE));
        self.budget.or_else(waited).map(|budget| budget.at(now, self.headroom_bytes))
    }

    /// Nothing holds it from then on.
    fn freed_at(&self) -> Mono {
        if self.neighbour.is_some() { self.ends_at } else { self.ends_at + KILL_TAKES }
    }

    /// It has stood still for as long as one may who is not to end. Not where more is gone than it could ever be given.
    fn runs_again_at(&self) -> Option<Mono> {
        let stands = self.gear == Some(Gear::Frozen) && !self.is_overdrawn();
        (self.neighbour.is_some() && stands).then_some(self.geared_at + LONGEST_FREEZE)
    }

    /// Whatever its budget says, for one that is not to end: it does not grow, or has stood still for long enough.
    fn must_run(&self, now: Mono) -> bool {
        let Some(neighbour) = &self.neighbour else { return false };
        if !matches!(self.gear, Some(Gear::Throttled { .. })) {
            return self.runs_again_at().is_some_and(|at| now >= at);
        }
        let has_begun = self.freezes > 0 && now < self.geared_at + SHORTEST_RUN;
        has_begun || !neighbour.has_grown(self.headroom_bytes)
    }

    pub fn wanted(&self, now: Mono) -> (Gear, Reason) {
        let (ended, holds) = match &self.neighbour {
            Some(_) => (Reason::GrowthOutrunsOthersGrace, Reason::GrowthOutrunsOthersGrace),
            None => (Reason::Evicted, Reason::GrowthOutrunsGrace),
        };
        if self.let_go_at.is_some() || now >= self.freed_at() {
            return (Gear::Free, ended);
        }
        if now >= self.ends_at {
            // SIGKILL is on its way, and thaws what it meets frozen.
            return (Gear::Frozen, holds);
        }
        let frozen = self.gear == Some(Gear::Frozen);
        match self.budget_at(now) {
            Some(budget) if self.must_run(now) || budget.allows(self.headroom_bytes, frozen, now) => {
                let reason = match (&self.neighbour, self.budget) {
                    (Some(_), _) => holds,
                    (None, Some(_)) => Reason::StopSignalSent,
                    (None, None) => Reason::StopSignalAwaited,
                };
                (self.throttled(&budget), reason)
            }
            _ => (Gear::Frozen, holds),
        }
    }

    /// When the gear changes by the clock alone.
    pub fn next_change(&self) -> Mono {
        let ends = if self.gear == Some(Gear::Frozen) { self.freed_at() } else { self.ends_at };
        let by_budget = match &self.budget {
            None => Some(self.since + LONGEST_FREEZE),
            Some(budget) if self.gear == Some(Gear::Frozen) => budget.allows_from(self.headroom_bytes),
            Some(_) => None,
        };
        let runs = by_budget.into_iter().chain(self.runs_again_at()).min();
        runs.filter(|at| !self.is_over && *at < self.ends_at).map_or(ends, |at| at.min(ends))
    }

    pub fn frozen_until(&self, now: Mono) -> Duration {
        let standing = self.gear == Some(Gear::Frozen);
        self.frozen + if standing { now.since(self.geared_at) } else { Duration::ZERO }
    }

    pub fn observe(&mut self, headroom_bytes: u64, at: Mono) {
        self.headroom_bytes = headroom_bytes;
        self.budget = self.budget.map(|budget| budget.at(at, headroom_bytes));
        self.is_over |= at >= self.ends_at;
        if let Some(neighbour) = &mut self.neighbour {
            neighbour.observe(headroom_bytes);
        }
        if self.gear != Some(Gear::Frozen) {
            self.settled_bytes = None;
        } else if at >= self.geared_at + FREEZE_SETTLES {
            let settled = self.settled_bytes.get_or_insert(headroom_bytes);
            *settled = headroom_bytes.max(*settled);
        }
    }

    /// Memory goes although the pod stands still, or more of it than the pod could be given.
    pub fn fails(&self) -> bool {
        let others = self.settled_bytes.unwrap_or(0).saturating_sub(self.headroom_bytes);
        self.is_overdrawn() || others > self.latest_budget().bytes() / 4
    }

    pub fn is_overdrawn(&self) -> bool {
        self.latest_budget().is_overdrawn(self.headroom_bytes)
    }

    fn latest_budget(&self) -> Budget {
        self.budget.unwrap_or_else(|| self.begin(self.since))
    }

    /// It is not to end, will not be held for much longer than a kill takes, and grows on.
    pub fn is_nearly_over(&self, now: Mono) -> bool {
        let Some(neighbour) = &self.neighbour else { return false };
        let grows = self.gear == Some(Gear::Frozen) || neighbour.has_grown(self.headroom_bytes);
        grows && neighbour.is_short(self.headroom_bytes) && now + KILL_TAKES >= self.ends_at
    }

    /// Not held any more, it may be held for the sake of another.
    pub fn may_follow(&self, now: Mono) -> bool {
        let Some(over) = self.let_go_at.filter(|_| self.gear == Some(Gear::Free)) else { return false };
        let Some(neighbour) = &self.neighbour else { return false };
        let soon = !self.has_failed && neighbour.may_follow(self.frozen, KILL_TAKES);
        soon || now.since(over) >= BACK_OFF
    }

    pub fn is_neighbour(&self) -> bool {
        self.neighbour.is_some() && self.let_go_at.is_none() && self.gear != Some(Gear::Free)
    }
}
