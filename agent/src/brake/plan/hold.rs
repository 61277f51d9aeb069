//! One pod or container that is held: which gear it wants, until when, and whether holding it helps.

use std::time::Duration;

use super::Gear;
use super::budget::Budget;
use crate::clock::Mono;
use crate::pod::PodUid;
use crate::reason::Reason;
use crate::signal::Domain;

/// A frozen pod answers nobody. Where its stop signal has not been sent by then (the runtime has to do it), it runs
/// again, on its budget; and so does one that is held for the sake of another.
pub const LONGEST_FREEZE: Duration = Duration::from_millis(300);

/// For how long a pod is held for the sake of another: less than a second, the shortest timeout that a probe can have
/// (`timeoutSeconds`).
pub const LONGEST_BESIDE: Duration = Duration::from_millis(900);

/// And then it does run, whatever it takes: enough for all its threads to have had their turn.
const SHORTEST_RUN: Duration = Duration::from_millis(3);

/// One that would have taken nothing while it was held so was a false alarm, and is not held so again for this long: the
/// default period of a probe (`periodSeconds`).
const BACK_OFF: Duration = Duration::from_secs(10);

/// How long after the end of the grace SIGKILL has had its effect: a task in v1's freezer does not die of it.
pub(super) const KILL_TAKES: Duration = Duration::from_millis(100);

/// A freezer stops threads as they return to user space: growth within this time after the order is still theirs.
const FREEZE_SETTLES: Duration = Duration::from_millis(2);

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
    /// It is not evicted itself: it is held so that this pod can end, which is.
    pub beside: Option<PodUid>,
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
            beside: None,
        }
    }

    /// On its budget from the beginning.
    pub fn run(&mut self, now: Mono) {
        let budget = self.begin(now);
        self.gear = Some(Gear::Throttled { room_bytes: budget.first() });
        (self.budget, self.freezes, self.has_run) = (Some(budget), 0, true);
    }

    pub fn begin(&self, from: Mono) -> Budget {
        Budget::new(from, self.ends_at, &self.domain, self.headroom_bytes)
    }

    /// What others took so far is not held against it: they are held as well from now on.
    pub fn begin_anew(&mut self, now: Mono) {
        self.settled_bytes = None;
        self.budget = self.budget.map(|_| self.begin(now));
    }

    /// From the stop signal on, or from when waiting for it is over.
    pub fn budget_at(&self, now: Mono) -> Option<Budget> {
        let waited = || (now >= self.since + LONGEST_FREEZE).then(|| self.begin(self.since + LONGEST_FREEZE));
        self.budget.or_else(waited)
    }

    /// Nothing holds it from then on.
    fn freed_at(&self) -> Mono {
        if self.beside.is_some() { self.ends_at } else { self.ends_at + KILL_TAKES }
    }

    /// It has stood still for as long as one may who is not to end. Not where that would cost more than its budget.
    fn runs_again_at(&self) -> Option<Mono> {
        let stands = self.gear == Some(Gear::Frozen) && !self.fails();
        (self.beside.is_some() && stands).then_some(self.geared_at + LONGEST_FREEZE)
    }

    fn must_run(&self, now: Mono) -> bool {
        let runs = matches!(self.gear, Some(Gear::Throttled { .. })) && self.freezes > 0;
        let has_run = now >= self.geared_at + SHORTEST_RUN;
        (self.beside.is_some() && runs && !has_run) || self.runs_again_at().is_some_and(|at| now >= at)
    }

    pub fn wanted(&self, now: Mono) -> (Gear, Reason) {
        let (ended, holds) = match self.beside {
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
                let reason = match (&self.beside, self.budget) {
                    (Some(_), _) => holds,
                    (None, Some(_)) => Reason::StopSignalSent,
                    (None, None) => Reason::StopSignalAwaited,
                };
                (Gear::Throttled { room_bytes: budget.first() }, reason)
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
        self.is_over |= at >= self.ends_at;
        if self.gear != Some(Gear::Frozen) {
            self.settled_bytes = None;
        } else if at >= self.geared_at + FREEZE_SETTLES {
            let settled = self.settled_bytes.get_or_insert(headroom_bytes);
            *settled = headroom_bytes.max(*settled);
        }
    }

    /// Memory goes although the pod stands still, or more of it than the pod could be given.
    pub fn fails(&self) -> bool {
        let budget = self.budget.unwrap_or_else(|| self.begin(self.since));
        let others = self.settled_bytes.unwrap_or(0).saturating_sub(self.headroom_bytes);
        budget.is_overdrawn(self.headroom_bytes) || others > budget.bytes() / 4
    }

    /// It will not be held for much longer than a kill takes, and would have grown.
    pub fn is_nearly_over(&self, now: Mono) -> bool {
        self.freezes > 0 && now + KILL_TAKES >= self.ends_at
    }

    /// Held for the sake of another, or not any more, it may be so held again.
    pub fn may_follow(&self, now: Mono) -> bool {
        let Some(over) = self.let_go_at.filter(|_| self.gear == Some(Gear::Free)) else { return false };
        let false_alarm = self.freezes == 0 || self.has_failed;
        self.beside.is_some() && (!false_alarm || now.since(over) >= BACK_OFF)
    }
}
