//! Pod lists arrive: new, gone, replaced. Admission, and adoption of what already runs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::pod::PodState;
use super::{Mode, State};
use crate::clock::Mono;
use crate::eviction::resources::Condition;
use crate::node::event::{PodUpdate, RejectedManifest};
use crate::node::plan::{Failure, SavedPod};
use crate::pod::admission::{self, admit};
use crate::pod::{Pod, PodRef, PodUid};
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

impl State {
    pub(super) fn apply_pod_update(&mut self, update: PodUpdate, now: Mono) {
        self.tell_rejected(&update.rejected, now);
        let mut kept = self.kept_by_rejected(&update.rejected);
        // A pod of a file that cannot be read any more, and that this agent has not seen: its last start knew it.
        for saved in self.saved.values().filter(|s| kept.contains(&s.uid())) {
            self.pods.entry(saved.uid()).or_insert_with(|| from_saved(saved));
        }
        for named in update.pods {
            let id = PodRef::of(&named.pod);
            kept.insert(id.uid.clone());
            match self.pods.get_mut(&id.uid) {
                Some(known) if matches!(known.mode, Mode::Removing { .. } | Mode::Removed) => {
                    known.comes_back = Some(named);
                }
                Some(known) => {
                    // The next start must know where to look for it.
                    known.unsaved |= known.path.as_ref() != Some(&named.path);
                    known.path = Some(named.path);
                }
                None => self.add(named.pod, &named.path, now),
            }
        }
        self.remove_unnamed(&kept, now);
        if !std::mem::replace(&mut self.sources_ready, true) {
            self.end_unwanted(now);
        }
    }

    /// What earlier runs left and the source does not name, once it has spoken for the first time.
    fn end_unwanted(&mut self, now: Mono) {
        let unnamed = self.saved.values().filter(|s| !self.pods.contains_key(&s.uid()));
        for state in unnamed.map(from_saved).collect::<Vec<_>>() {
            self.add_orphan(state, now);
        }
        self.adopt_orphans(now);
        for uid in std::mem::take(&mut self.leftovers) {
            self.add_leftover(uid, now);
        }
    }

    pub(super) fn add(&mut self, pod: Arc<Pod>, path: &Path, now: Mono) {
        let mut state = PodState::new(pod, Some(path.to_owned()));
        // Start time and times of conditions go on.
        if let Some(saved) = self.saved.get(&state.id.uid) {
            state.status.clone_from(&saved.pod.status);
            state.forestalled.clone_from(&saved.forestalled);
        }
        let id = state.id.clone();
        let ignored = admission::unsupported(&state.pod);
        self.pods.insert(id.uid.clone(), state);
        self.record_pod(now, Kind::Pod, Reason::PodAdded, &id, format!("from {}", path.display()));
        for field in ignored {
            self.record_pod(now, Kind::Warning, Reason::UnsupportedFeature, &id, field);
        }
    }

    /// Pods that the source no longer names end; those it never named are told apart by their reason.
    fn remove_unnamed(&mut self, kept: &BTreeSet<PodUid>, now: Mono) {
        let names: BTreeSet<(String, String)> = self
            .pods
            .values()
            .filter(|p| kept.contains(&p.id.uid))
            .map(|p| (p.id.namespace.clone(), p.id.name.clone()))
            .collect();
        let mut told = Vec::new();
        for pod in self.pods.values_mut().filter(|p| !kept.contains(&p.id.uid)) {
            if matches!(pod.mode, Mode::Removing { .. } | Mode::Removed) {
                pod.comes_back = None;
                continue;
            }
            let name = (pod.id.namespace.clone(), pod.id.name.clone());
            let reason = match (pod.orphan, names.contains(&name)) {
                (true, _) => Reason::OrphanedPod,
                (false, true) => Reason::PodReplaced,
                (false, false) => Reason::PodRemoved,
            };
            pod.remove(reason);
            told.push((pod.id.clone(), reason));
        }
        for (id, reason) in told {
            let message = match reason {
                Reason::PodReplaced => "its manifest changed: the new pod starts when this one is gone",
                Reason::OrphanedPod => "it is on the node, and no manifest names it",
                _ => "its manifest is gone",
            };
            self.record_pod(now, Kind::Pod, reason, &id, message);
        }
    }

    fn tell_rejected(&mut self, rejected: &[RejectedManifest], now: Mono) {
        let current: BTreeMap<_, _> = rejected.iter().map(|r| (r.path.clone(), r.error.clone())).collect();
        for (path, error) in &current {
            if self.rejected.get(path) != Some(error) {
                let message = format!("{}: {error}", path.display());
                self.record(Record::new(now, Kind::Warning, Reason::ManifestRejected, message));
            }
        }
        self.rejected = current;
    }

    /// Pods whose manifest has become unreadable run on as they are.
    fn kept_by_rejected(&self, rejected: &[RejectedManifest]) -> BTreeSet<PodUid> {
        let is_rejected = |path: Option<&Path>| path.is_some_and(|p| rejected.iter().any(|r| r.path == p));
        let ending = |m: &Mode| matches!(m, Mode::Removing { .. } | Mode::Removed);
        let known = self
            .pods
            .values()
            .filter(|p| is_rejected(p.path.as_deref()) && !ending(&p.mode))
            .map(|p| p.id.uid.clone());
        let saved = self
            .saved
            .values()
            .filter(|s| is_rejected(s.manifest_path.as_deref()))
            .map(SavedPod::uid)
            .filter(|uid| self.pods.get(uid).is_none_or(|p| !ending(&p.mode)));
        known.chain(saved).collect()
    }

    /// Pods in the runtime that no source names are orphans. Only once the sources have spoken.
    pub(super) fn adopt_orphans(&mut self, now: Mono) {
        let unknown = self.found.values().filter(|found| !self.pods.contains_key(&found.pod.uid));
        for id in unknown.map(|found| found.pod.clone()).collect::<Vec<_>>() {
            self.add_orphan(unnamed(&id), now);
        }
    }

    /// Before the source has spoken nobody knows whether they are wanted.
    pub(super) fn apply_leftovers(&mut self, leftovers: Vec<PodUid>, now: Mono) {
        if !self.sources_ready {
            self.leftovers = leftovers;
            return;
        }
        for uid in leftovers {
            self.add_leftover(uid, now);
        }
    }

    fn add_leftover(&mut self, uid: PodUid, now: Mono) {
        if !self.pods.contains_key(&uid) {
            let id = PodRef { uid, namespace: String::new(), name: String::new() };
            self.add_orphan(unnamed(&id), now);
        }
    }

    fn add_orphan(&mut self, mut state: PodState, now: Mono) {
        state.orphan = true;
        state.remove(Reason::OrphanedPod);
        let id = state.id.clone();
        self.pods.insert(id.uid.clone(), state);
        let message = "it is on the node, and no manifest names it";
        self.record_pod(now, Kind::Pod, Reason::OrphanedPod, &id, message);
    }

    /// Admits pending pods once it is known what already runs: that first, for it has its place, then by priority.
    pub(super) fn admit(&mut self, now: Mono) {
        if !self.sources_ready || !self.relisted {
            return;
        }
        let mut pending: Vec<_> = self
            .pods
            .values()
            .filter(|p| p.mode == Mode::Pending)
            .map(|p| (Reverse(self.runs(p)), Reverse(crate::pod::qos::priority(&p.pod)), p.id.clone()))
            .collect();
        pending.sort();
        for (_, _, id) in pending {
            if !self.name_is_taken(&id) {
                self.admit_one(&id, now);
            }
        }
    }

    /// A pod of the same name that is still ending keeps its successor waiting, as kubelet does for static pods.
    fn name_is_taken(&self, id: &PodRef) -> bool {
        self.pods.values().any(|p| {
            p.id.uid != id.uid
                && p.id.name == id.name
                && p.id.namespace == id.namespace
                && p.mode != Mode::Pending
        })
    }

    fn runs(&self, pod: &PodState) -> bool {
        pod.containers.any_running()
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

    /// The pod had ended by itself when it was last saved, and under disk pressure its containers have gone since: without
    /// their word it would run once more. Whether it succeeded.
    fn ended_before(&self, id: &PodRef) -> Option<bool> {
        if self.pods.get(&id.uid).is_some_and(|pod| pod.containers.any_listed()) {
            return None;
        }
        let saved = self.saved.get(&id.uid).filter(|s| s.failure.is_none())?;
        match saved.pod.status.as_ref()?.phase.as_deref()? {
            "Succeeded" => Some(true),
            "Failed" => Some(false),
            _ => None,
        }
    }

    fn admit_one(&mut self, id: &PodRef, now: Mono) {
        let Some(state) = self.pods.get(&id.uid) else { return };
        let pod = Arc::clone(&state.pod);
        let running = self.runs(state);
        let own_grace = state.grace_period();
        let ended = self.ended_before(id);
        let saved = self.saved.remove(&id.uid).and_then(|s| s.failure);
        let (mode, record) = if let Some(failure) = saved {
            let message = format!("failed before the agent started: {}", failure.message);
            (
                if failure.disruption {
                    Mode::Evicted { failure, grace: self.resumed_grace(running, own_grace), stopped: false }
                } else {
                    Mode::Rejected(failure)
                },
                Record::new(now, Kind::Pod, Reason::PodAdopted, message),
            )
        } else if let Some(succeeded) = ended {
            (
                Mode::Completed { succeeded, stopped: true },
                Record::new(now, Kind::Pod, Reason::PodAdopted, "it ended before the agent started"),
            )
        } else if running {
            (
                Mode::Active,
                Record::new(now, Kind::Pod, Reason::PodAdopted, "it runs already and is taken over"),
            )
        } else {
            let mut facts = self.config.node.clone();
            facts.memory_pressure = self.under_pressure;
            facts.disk_pressure = self.resource_conditions.contains(&Condition::DiskPressure);
            facts.pid_pressure = self.resource_conditions.contains(&Condition::PidPressure);
            let active: Vec<Arc<Pod>> = self
                .pods
                .values()
                .filter(|p| p.mode.may_hold_memory() && !p.orphan)
                .map(|p| Arc::clone(&p.pod))
                .collect();
            match admit(&pod, &facts, &active) {
                Ok(()) => (Mode::Active, Record::new(now, Kind::Pod, Reason::PodAdded, "admitted")),
                Err(no) => {
                    let record = Record::new(now, Kind::Warning, no.reason, no.message.clone());
                    let failure = Failure { reason: no.reason, message: no.message, disruption: false };
                    (Mode::Rejected(failure), record)
                }
            }
        };
        self.record(record.pod(id));
        if let Some(state) = self.pods.get_mut(&id.uid) {
            state.sync_wanted = (mode == Mode::Active).then_some(Reason::PodAdded);
            state.cgroups_stale = running;
            state.mode = mode;
            state.unsaved = true;
        }
    }
}

/// As the last run of the agent left it.
fn from_saved(saved: &SavedPod) -> PodState {
    let mut state = PodState::new(Arc::new(saved.pod.clone()), saved.manifest_path.clone());
    state.status.clone_from(&saved.pod.status);
    state.forestalled.clone_from(&saved.forestalled);
    state
}

/// Of a pod that nothing but its name is known of.
fn unnamed(id: &PodRef) -> PodState {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(id.uid.to_string());
    pod.metadata.namespace = Some(id.namespace.clone());
    pod.metadata.name = Some(id.name.clone());
    PodState::new(Arc::new(pod), None)
}
