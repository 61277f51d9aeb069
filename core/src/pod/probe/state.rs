//! One probe of one container: when it is due, and what its results come to (pkg/kubelet/prober/worker.go).
//!
//! Runs come at the ticks of a period that began when the pod was first seen; before the first run of a container its
//! initial delay is over. Readiness is asked at once when a container has started: nobody waits a period to be Ready.

use super::spec::ProbeSpec;
use super::{ProbeKind, ProbeMessage, ProbeOutcome};
use crate::clock::Mono;

/// A container that runs, as its pod's status has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub id: String,
    pub since: Mono,
    pub started: bool,
    pub ready: bool,
}

#[derive(Clone, Debug)]
pub struct ProbeState {
    kind: ProbeKind,
    /// The first tick.
    anchor: Mono,
    container: Option<Running>,
    /// When it is to run; `None`: not before something else happens.
    next: Option<Mono>,
    under_way: bool,
    /// The last result, and how often it came in a row.
    last: Option<bool>,
    in_a_row: u32,
    verdict: Option<bool>,
    /// It has failed, and the container is ended for that.
    on_hold: bool,
    /// The last message, so that one that repeats is not told without end.
    told: Option<ProbeMessage>,
}

/// What a result means to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    pub verdict: Option<bool>,
    pub message: Option<ProbeMessage>,
}

impl ProbeState {
    #[must_use]
    pub const fn new(kind: ProbeKind, anchor: Mono) -> ProbeState {
        ProbeState {
            kind,
            anchor,
            container: None,
            next: None,
            under_way: false,
            last: None,
            in_a_row: 0,
            verdict: None,
            on_hold: false,
            told: None,
        }
    }

    /// The container as it is now; `None`: it does not run, or is not to be probed any more.
    pub fn observe(&mut self, spec: &ProbeSpec, container: Option<Running>, now: Mono) {
        let asked_before = self.is_asked();
        let id = |running: &Option<Running>| running.as_ref().map(|r| r.id.clone());
        let another = id(&self.container) != id(&container);
        self.container = container;
        if another {
            (self.last, self.in_a_row, self.on_hold, self.told) = (None, 0, false, None);
            // A container is alive until it has failed.
            self.verdict = (self.kind == ProbeKind::Liveness).then_some(true);
        }
        self.next = match &self.container {
            Some(running) if self.is_asked() => match self.next {
                Some(next) if asked_before && !another => Some(next),
                _ => {
                    let earliest = now.max(running.since + spec.initial_delay);
                    let at_once = self.kind == ProbeKind::Readiness && !running.ready;
                    Some(if at_once { earliest } else { self.tick_from(spec, earliest) })
                }
            },
            _ => None,
        };
    }

    /// A startup probe until the container has started, the others from then on.
    fn is_asked(&self) -> bool {
        let of_kind = |running: &Running| running.started != (self.kind == ProbeKind::Startup);
        !self.on_hold && self.container.as_ref().is_some_and(of_kind)
    }

    /// When it is to run, if it is. Not while it does.
    #[must_use]
    pub fn due_at(&self) -> Option<Mono> {
        self.next.filter(|_| !self.under_way)
    }

    /// The container that it is about.
    #[must_use]
    pub fn container_id(&self) -> Option<&str> {
        self.container.as_ref().map(|running| running.id.as_str())
    }

    /// A run has begun.
    pub fn begin(&mut self, spec: &ProbeSpec, now: Mono) {
        self.under_way = true;
        self.skip(spec, now);
    }

    /// Now is no time for a run: the next tick will be.
    pub fn skip(&mut self, spec: &ProbeSpec, now: Mono) {
        self.next = self.next.map(|_| self.tick_from(spec, Mono(now.0.saturating_add(1))));
    }

    /// The run has ended, and says nothing.
    pub const fn discard(&mut self) {
        self.under_way = false;
    }

    /// The run of this container has ended.
    pub fn end(&mut self, spec: &ProbeSpec, id: &str, outcome: ProbeOutcome) -> News {
        self.under_way = false;
        if self.container_id() != Some(id) || !self.is_asked() {
            // Another container by now, or one that is being ended.
            return News::default();
        }
        let counting = self.verdict != Some(false);
        let (succeeded, message) = match outcome {
            ProbeOutcome::Success => (Some(true), None),
            ProbeOutcome::Warning(text) => {
                (Some(true), Some(ProbeMessage::Warning(format!("{} probe warning: {text}", self.kind))))
            }
            ProbeOutcome::Failure(text) => {
                (Some(false), Some(ProbeMessage::Unhealthy(format!("{} probe failed: {text}", self.kind))))
            }
            ProbeOutcome::Error(text) => {
                let text = format!("{} probe errored and resulted in unknown state: {text}", self.kind);
                (None, Some(ProbeMessage::Unhealthy(text)))
            }
        };
        let verdict = succeeded.and_then(|succeeded| self.count(spec, succeeded));
        // Each failure until its verdict stands; after that, and of the others, only what is new.
        let tell = message != self.told || (succeeded == Some(false) && counting);
        self.told.clone_from(&message);
        News { verdict, message: message.filter(|_| tell) }
    }

    /// `Some`: the verdict is another than before.
    fn count(&mut self, spec: &ProbeSpec, succeeded: bool) -> Option<bool> {
        self.in_a_row = if self.last == Some(succeeded) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(succeeded);
        if self.in_a_row < if succeeded { spec.success_threshold } else { spec.failure_threshold } {
            return None;
        }
        if !succeeded && self.kind.ends_the_container() {
            (self.on_hold, self.in_a_row, self.next) = (true, 0, None);
        }
        let before = self.verdict.replace(succeeded);
        (before != self.verdict).then_some(succeeded)
    }

    /// The first tick that is not before `at`.
    fn tick_from(&self, spec: &ProbeSpec, at: Mono) -> Mono {
        let period = u64::try_from(spec.period.as_nanos()).unwrap_or(u64::MAX).max(1);
        let ticks = at.0.saturating_sub(self.anchor.0).div_ceil(period);
        Mono(self.anchor.0.saturating_add(ticks.saturating_mul(period)))
    }
}

#[cfg(test)]
mod tests;
