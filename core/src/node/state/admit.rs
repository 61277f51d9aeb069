//! Admission, and adoption of what already runs. When sources and runtime have spoken, and again whenever something
//! happens to pods.

use std::cmp::Reverse;
use std::time::Duration;

use super::pod::PodState;
use super::{Mode, State};
use crate::clock::Mono;
use crate::eviction::resources::Condition;
use crate::node::event::PodSource;
use crate::node::published::Failure;
use crate::pod::admission::{Rejection, Taken, admit};
use crate::pod::qos::{Amounts, pod_requests};
use crate::pod::runtime_status::ContainerState;
use crate::pod::{Pod, PodRef, PodUid};
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

/// Whether a pod may run now.
#[derive(Debug)]
pub(super) enum Verdict {
    Fits,
    /// It would, were it not for pods that are ending; or for a pressure that it has caused before.
    Later,
    No(Rejection),
}

impl State {
    /// Admits pending pods once it is known what already runs: that first, for it has its place, then by priority.
    pub(super) fn admit(&mut self, now: Mono) {
        if !self.may_admit() {
            return;
        }
        let mut pending: Vec<_> = self
            .pods
            .pending()
            .map(|p| {
                (Reverse(self.runs(p)), Reverse(crate::pod::qos::priority(&p.pod)), p.source, p.id.clone())
            })
            .collect();
        pending.sort();
        for (.., id) in pending {
            if !self.name_is_taken(&id, now) {
                self.admit_one(&id, now);
            }
        }
    }

    /// The runtime and a source have spoken. A source that does not answer keeps no other source's pods from running; what it
    /// may name ends only once it has spoken, see [`super::sources`].
    pub(super) fn may_admit(&self) -> bool {
        self.relisted && !(self.spoken.is_empty() && self.resumed.is_empty())
    }

    /// What runs and may be wanted by a source that has not spoken yet: it has its place.
    fn not_named_yet(&self) -> Taken {
        if self.sources_ready() {
            return Taken::default();
        }
        let unnamed = self.saved.values().filter(|saved| self.found.contains_key(&saved.uid()));
        unnamed.fold(Taken::default(), |taken, saved| taken.plus(pod_requests(&saved.pod)))
    }

    /// A static pod of the same name that has not ended keeps it waiting. One that has been edited, and is its
    /// predecessor by that, is told to end once this one could be admitted in its place.
    fn name_is_taken(&mut self, id: &PodRef, now: Mono) -> bool {
        let Some(pod) = self.pods.get(&id.uid).filter(|p| p.is_static()) else { return false };
        // One that has ended has no use for its name, unless it is the one that was edited.
        let may_run =
            |m: &Mode| m.is_ending() || matches!(m, Mode::Active | Mode::Completed { stopped: false, .. });
        let has_the_name = |p: &&PodState| {
            p.has_name_of(id) && (may_run(&p.mode) || p.superseded) && (p.is_static() || p.source.is_none())
        };
        let others: Vec<&PodState> = self.pods.named(&id.namespace, &id.name).filter(has_the_name).collect();
        let Some(first) = others.first() else { return false };
        let predecessor = others.iter().find(|p| p.superseded && !p.mode.is_ending());
        let Some((old, active)) = predecessor.map(|p| (p.id.clone(), p.mode == Mode::Active)) else {
            if let (Some(theirs), true) =
                (first.source, first.source != pod.source && !first.mode.is_ending())
            {
                let message = format!(
                    "a pod of its name from another source ({}) is on the node: it waits until that one has ended",
                    theirs.as_str()
                );
                self.tell_waiting(id, "name", Kind::Warning, Reason::PodNameTaken, &message, now);
            }
            return true;
        };
        let verdict = if active { self.verdict(pod) } else { Verdict::Fits };
        match verdict {
            Verdict::Fits => {
                if let Some(mut old) = self.pods.get_mut(&old.uid) {
                    old.remove(Reason::PodReplaced);
                }
                let message = "its manifest changed: the new pod starts when this one is gone";
                self.record_pod(now, Kind::Pod, Reason::PodReplaced, &old, message);
            }
            Verdict::Later => {}
            Verdict::No(no) => self.tell_kept(id, &old, &no, now),
        }
        true
    }

    /// The new pod would be refused, so the old one is left alone. `new`: whoever remembers that it was told.
    pub(super) fn tell_kept(&mut self, new: &PodRef, old: &PodRef, no: &Rejection, now: Mono) {
        let message = format!(
            "the manifest of {old} changed, and what it is now would be refused: {}: the pod runs on as it is until that \
             has gone",
            no.message
        );
        self.tell_waiting(new, no.reason.as_str(), Kind::Warning, no.reason, &message, now);
    }

    /// Once, until it waits for something else.
    fn tell_waiting(
        &mut self,
        id: &PodRef,
        what: &str,
        kind: Kind,
        reason: Reason,
        message: &str,
        now: Mono,
    ) {
        let Some(mut pod) = self.pods.get_mut(&id.uid) else { return };
        if pod.waits_for.as_deref() != Some(what) {
            pod.waits_for = Some(what.to_owned());
            drop(pod);
            self.record_pod(now, kind, reason, id, message);
        }
    }

    /// It runs, by the worker's or the runtime's account.
    pub(super) fn runs(&self, pod: &PodState) -> bool {
        let found = self.found.get(&pod.id.uid);
        pod.containers.any_running()
            || found.is_some_and(|f| f.containers.iter().any(|c| c.state == ContainerState::Running))
    }

    /// For an eviction that was not at its end when the last agent was: the SIGTERM handler may still be at work. Should
    /// memory run out before it is done, the eviction manager cuts it short.
    fn resumed_grace(&self, running: bool, own: Duration) -> Duration {
        let most = self.config.eviction.max_pod_grace;
        match (running, most.is_zero()) {
            (false, _) => Duration::ZERO,
            (true, true) => own,
            (true, false) => own.min(most),
        }
    }

    /// The pod had ended by itself when it was last saved; whether it succeeded. It stays so, whatever room there is now and
    /// whatever is left of it in the runtime: without its containers' word it would run once more.
    pub(super) fn ended_before(&self, id: &PodRef) -> Option<bool> {
        let saved = self.saved.get(&id.uid).filter(|s| s.failure.is_none())?;
        ended(&saved.pod)
    }

    /// Whether the node takes the pod beside those that it has. A pod that it is to replace is not counted.
    pub(super) fn verdict(&self, pod: &PodState) -> Verdict {
        let mut facts = self.config.node.clone();
        facts.memory_pressure = self.conditions.memory_pressure;
        facts.disk_pressure = self.conditions.resources.contains(&Condition::DiskPressure);
        facts.pid_pressure = self.conditions.resources.contains(&Condition::PidPressure);
        facts.is_static_pod = pod.is_static();
        facts.critical = pod.is_static() && self.config.static_pods_critical;
        let replaced = self.pods.named(&pod.id.namespace, &pod.id.name).filter(|p| p.superseded);
        let without: Vec<PodUid> = replaced.map(|p| p.id.uid.clone()).chain([pod.id.uid.clone()]).collect();
        let unnamed = self.not_named_yet();
        let taken = |(requests, pods): (Amounts, usize)| Taken {
            requests: unnamed.requests.plus(requests),
            pods: unnamed.pods + pods,
        };
        let (all, staying) = (taken(self.pods.admitted(&without)), taken(self.pods.staying(&without)));
        match admit(&pod.pod, &facts, &all) {
            Ok(()) if self.retries.had_to_go(&pod.id.uid) && !self.is_at_ease() => Verdict::Later,
            Ok(()) => Verdict::Fits,
            Err(no) if no.reason.is_lack_of_room() && admit(&pod.pod, &facts, &staying).is_ok() => {
                Verdict::Later
            }
            Err(no) => Verdict::No(no),
        }
    }

    fn admit_one(&mut self, id: &PodRef, now: Mono) {
        if self.settle_edit(id, now) {
            return;
        }
        let Some(state) = self.pods.get(&id.uid) else { return };
        let running = self.runs(state);
        let own_grace = state.grace_period();
        let before = self.saved.get(&id.uid).and_then(|s| s.failure.clone());
        let refused = state.refused.clone();
        // The status that it has is that of a pod which was refused.
        let anew = refused.is_some() || before.as_ref().is_some_and(|f| !f.had_run() && state.is_static());
        if before.as_ref().is_some_and(|f| f.reason == Reason::Evicted) && state.is_static() {
            self.retries.was_kept_out(&id.uid);
        }
        let (mode, record) = if let Some(failure) = before.filter(|f| f.had_run() || !state.is_static()) {
            let message = format!("failed before the agent started: {}", failure.message);
            (
                if failure.had_run() {
                    Mode::Evicted { failure, grace: self.resumed_grace(running, own_grace), stopped: false }
                } else {
                    Mode::Rejected(failure)
                },
                Some(Record::new(now, Kind::Pod, Reason::PodAdopted, message)),
            )
        } else if let Some(succeeded) = state.ended_by_its_source() {
            let message = "it has ended, by the API server's account: it does not run again";
            let stopped = !running && !state.containers.is_there() && !self.found.contains_key(&id.uid);
            (
                Mode::Completed { succeeded, stopped },
                Some(Record::new(now, Kind::Pod, Reason::PodAdopted, message)),
            )
        } else if running {
            (
                Mode::Active,
                Some(Record::new(now, Kind::Pod, Reason::PodAdopted, "it runs already and is taken over")),
            )
        } else if let Some(succeeded) = self.ended_before(id) {
            // A sandbox, dead containers, volumes may be left of it.
            let stopped = !state.containers.is_there() && !self.found.contains_key(&id.uid);
            let message = "it ended before the agent started";
            (
                Mode::Completed { succeeded, stopped },
                Some(Record::new(now, Kind::Pod, Reason::PodAdopted, message)),
            )
        } else {
            let verdict = match self.verdict(state) {
                Verdict::No(no) if self.make_room_for(id, &no, now) => Verdict::Later,
                verdict => verdict,
            };
            match verdict {
                Verdict::Fits => {
                    let message = refused.as_ref().map_or_else(
                        || "admitted".to_owned(),
                        |f| format!("admitted: what spoke against it has gone ({})", f.reason),
                    );
                    (Mode::Active, Some(Record::new(now, Kind::Pod, Reason::PodAdded, message)))
                }
                Verdict::Later => {
                    // Once, or its start time would be that of the last look.
                    let first =
                        self.pods.get(&id.uid).is_some_and(|p| p.waits_for.as_deref() != Some("room"));
                    if let (true, Some(mut state)) = (first && refused.is_some(), self.pods.get_mut(&id.uid))
                    {
                        state.status = None;
                        state.unsaved = true;
                    }
                    let message =
                        "it waits for pods that are ending to be gone, or for a pressure to be over";
                    return self.tell_waiting(id, "room", Kind::Pod, Reason::PodAdded, message, now);
                }
                Verdict::No(no) => {
                    let known = refused.as_ref().is_some_and(|f| f.reason == no.reason);
                    let record = Record::new(now, Kind::Warning, no.reason, no.message.clone());
                    let failure = Failure { reason: no.reason, message: no.message, disruption: false };
                    (Mode::Rejected(failure), (!known).then_some(record))
                }
            }
        };
        self.saved.remove(&id.uid);
        if let Some(record) = record {
            self.record(record.pod(id));
        }
        if let Some(mut state) = self.pods.get_mut(&id.uid) {
            if mode == Mode::Active {
                state.sync_wanted = Some(Reason::PodAdded);
                state.admitted_at = Some(now);
                state.refused = None;
                if anew {
                    state.status = None;
                }
            }
            state.waits_for = None;
            state.cgroups_stale = running;
            state.mode = mode;
            state.unsaved = true;
        }
    }
}

/// Whether the pod has ended for good by its own status, and well.
fn ended(pod: &Pod) -> Option<bool> {
    match pod.status.as_ref()?.phase.as_deref()? {
        "Succeeded" => Some(true),
        "Failed" => Some(false),
        _ => None,
    }
}

impl PodState {
    /// A pod of the API server that has ended there ran on this node once, or was refused by it.
    fn ended_by_its_source(&self) -> Option<bool> {
        (self.source == Some(PodSource::Api)).then(|| ended(&self.pod)).flatten()
    }
}
