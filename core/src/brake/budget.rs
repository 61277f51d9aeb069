//! What a held pod may take of its domain's headroom as its grace goes by.

use std::time::Duration;

use crate::clock::Mono;
use crate::signal::Domain;

/// Of the headroom, in quarters, what a held pod may take in all its grace; the rest is its neighbours'. What is held for the
/// sake of its own limit has none: there the rest is but for what one look misses.
const BUDGET_QUARTERS: u64 = 2;
const OWN_BUDGET_QUARTERS: u64 = 3;

/// Of the budget, what is there at once: for the SIGTERM handler to begin with.
const FIRST_SHARE: u64 = 4;

/// Of the budget, what must have been earned before a frozen pod runs again: a shorter run is over before all its threads
/// had their turn.
const RUN_SHARE: u64 = 8;

/// However early the budget is used up, who stands still runs once more each time half of what was left of its grace is
/// over, as often as this: many a handler is done but for the moment in which it exits. Such a run may take this part of what
/// is left then, and all of them a third of what is its neighbours'. Where there are none, for the sake of its own limit, what
/// is left is too little for that.
const LAST_RUNS: u32 = 3;
const LAST_RUN_SHARE: u64 = 8;
const LAST_RUNS_SHARE: u64 = 3;

/// A budget is spread over no less than this.
const SHORTEST_GRACE: Duration = Duration::from_millis(100);

fn budget_bytes(domain: &Domain, headroom_bytes: u64) -> u64 {
    let quarters = match domain {
        Domain::Node | Domain::Kubepods => BUDGET_QUARTERS,
        Domain::Pod(_) | Domain::Container(..) => OWN_BUDGET_QUARTERS,
    };
    headroom_bytes / 4 * quarters
}

/// What a pod or container that is held may take at once of what its domain has left, in bytes. Above that `memory.high`
/// slows the threads that allocate, so that the handler seldom has to stand still with them.
#[must_use]
pub fn room_bytes(domain: &Domain, headroom_bytes: u64) -> u64 {
    budget_bytes(domain, headroom_bytes) / FIRST_SHARE
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    from: Mono,
    over: Duration,
    /// At the beginning.
    headroom_bytes: u64,
    bytes: u64,
    /// How many of [`LAST_RUNS`] are to come, and the latest.
    last_runs: u32,
    last_run: Option<LastRun>,
}

#[derive(Clone, Copy, Debug)]
struct LastRun {
    /// What was left when it was due. With more than that there is no need of it.
    due_with: u64,
    /// What must be left after it.
    floor: u64,
    /// It begins with this much or more: others may have taken a little since it was due.
    begins_with: u64,
}

impl Budget {
    pub fn new(from: Mono, until: Mono, domain: &Domain, headroom_bytes: u64) -> Budget {
        let (over, bytes) = (until.since(from).max(SHORTEST_GRACE), budget_bytes(domain, headroom_bytes));
        let last_runs = match domain {
            Domain::Node | Domain::Kubepods => LAST_RUNS,
            Domain::Pod(_) | Domain::Container(..) => 0,
        };
        Budget { from, over, headroom_bytes, bytes, last_runs, last_run: None }
    }

    /// Of one that is to live on: it has not to end in time.
    pub fn without_last_runs(self) -> Budget {
        Budget { last_runs: 0, ..self }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn first(&self) -> u64 {
        self.bytes / FIRST_SHARE
    }

    /// What must be left when the budget is used up.
    fn rest(&self) -> u64 {
        self.headroom_bytes - self.bytes
    }

    /// What must be left whatever it was given.
    fn least(&self) -> u64 {
        let may_have_more = self.last_runs > 0 || self.last_run.is_some();
        self.rest() - if may_have_more { self.rest() / LAST_RUNS_SHARE } else { 0 }
    }

    /// The headroom that must be left at `now` while the budget lasts.
    fn floor(&self, now: Mono) -> u64 {
        let passed = now.since(self.from).as_secs_f64() / self.over.as_secs_f64();
        let earned = ((self.bytes() - self.first()) as f64 * passed.min(1.0)) as u64;
        self.headroom_bytes - self.first() - earned
    }

    /// When the next of the last runs begins.
    fn last_run_at(&self) -> Option<Mono> {
        let nth = LAST_RUNS - self.last_runs + 1;
        (self.last_runs > 0).then(|| self.from + (self.over - self.over / 2u32.pow(nth)))
    }

    /// With the last run that is due.
    pub fn at(mut self, now: Mono, headroom_bytes: u64) -> Budget {
        while self.last_run_at().is_some_and(|at| now >= at) {
            let floor = (headroom_bytes - headroom_bytes / LAST_RUN_SHARE).max(self.least());
            if self.last_run.is_none_or(|last| floor <= last.floor) {
                let begins_with = u64::midpoint(floor, headroom_bytes.max(floor));
                self.last_run = Some(LastRun { due_with: headroom_bytes, floor, begins_with });
            }
            self.last_runs -= 1;
        }
        self
    }

    /// More is gone than the pod could ever be given.
    pub fn is_overdrawn(&self, headroom_bytes: u64) -> bool {
        headroom_bytes < self.least()
    }

    /// What the floor must come down to for a frozen pod to run.
    fn runs_below(&self, headroom_bytes: u64) -> u64 {
        let run = self.bytes() / RUN_SHARE;
        headroom_bytes.saturating_sub(run).max(self.rest())
    }

    /// With this headroom the pod may run.
    pub fn allows(&self, headroom_bytes: u64, frozen: bool, now: Mono) -> bool {
        if self.is_overdrawn(headroom_bytes) {
            return false;
        }
        let floor = self.floor(now);
        let last = self.last_run.filter(|last| headroom_bytes <= last.due_with);
        let (by_budget, by_last_run) = if frozen {
            (floor <= self.runs_below(headroom_bytes), last.is_some_and(|l| headroom_bytes >= l.begins_with))
        } else {
            (floor <= headroom_bytes, last.is_some_and(|l| headroom_bytes >= l.floor))
        };
        by_budget || by_last_run
    }

    /// From when on [`Budget::allows`] lets a frozen pod run, should the headroom stay as it is; `None`: never.
    pub fn allows_from(&self, headroom_bytes: u64) -> Option<Mono> {
        if self.is_overdrawn(headroom_bytes) {
            return None;
        }
        let most = self.bytes() - self.first();
        let taken = (self.headroom_bytes - self.first()).saturating_sub(self.runs_below(headroom_bytes));
        let share = if most == 0 { 0.0 } else { (taken as f64 / most as f64).min(1.0) };
        // A little more: the floor is rounded.
        let earned_at = self.from + self.over.mul_f64(share) + Duration::from_micros(10);
        Some(self.last_run_at().map_or(earned_at, |at| at.min(earned_at)))
    }
}
