//! Pod lists arrive from the sources: new, gone, replaced. And what is on the node and no source wants.
//!
//! Each source has a set of its own. A pod belongs to the source that named its UID first, and that source alone removes
//! it: by a list in which it no longer is, or by saying so. What earlier runs of the agent left (pods in the runtime,
//! cgroups, volumes) ends once every configured source has spoken, for until then nobody knows whether it is wanted.
//!
//! Two pods of one name, as kubelet has it:
//! - Two files of `staticPodPath`: the last in the alphabet counts (in `crate::manifest`).
//! - Two static pods of one name from different sources, or after an edit: one runs at a time, the other waits until it
//!   has ended (kubelet: `allowStaticPodStart`). After an edit the old one ends once the new one could be admitted, see
//!   [`super::admit`]; of two sources the one that came first runs on.
//! - One UID from two sources: the first source has it. The other's manifest does not count, with a warning.
//! - A pod of the API server that mirrors a static one (annotation `kubernetes.io/config.mirror`) is never run. Any other
//!   of the API server's starts whatever runs under its name: its UID is another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pod::PodState;
use super::{Mode, State};
use crate::apiserver::mirror::is_mirror;
use crate::clock::Mono;
use crate::node::event::{PodChanges, PodSource, PodUpdate, RejectedManifest, SourcePod};
use crate::node::published::SavedPod;
use crate::pod::admission;
use crate::pod::probe::ProbeResults;
use crate::pod::spec::same_content;
use crate::pod::{Pod, PodRef, PodUid};
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

const NOT_NAMED: &str = "it is on the node, and no manifest names it";

impl State {
    /// All configured sources have named their pods. Without a source nobody ever says what is not wanted.
    pub(super) fn sources_ready(&self) -> bool {
        !self.config.sources.is_empty() && self.config.sources.is_subset(&self.spoken)
    }

    pub(super) fn apply_pod_update(&mut self, update: PodUpdate, now: Mono) {
        let PodUpdate { source, pods, rejected } = update;
        let mut told = rejected.clone();
        let mut kept = self.kept_by_rejected(source, &rejected);
        // A pod of a file that cannot be read any more, and that this agent has not seen: its last start knew it.
        let critical = self.config.static_pods_critical;
        for saved in self.saved.values().filter(|s| kept.contains(&s.uid())) {
            if !self.pods.contains_key(&saved.uid()) {
                self.pods.insert(from_saved(saved, critical));
            }
        }
        for named in pods {
            let uid = PodRef::of(&named.pod).uid;
            match self.take_named(source, named, now) {
                Ok(true) => _ = kept.insert(uid),
                Ok(false) => {}
                Err(rejected) => told.push(rejected),
            }
        }
        let told = told.into_iter().map(|rejected| (rejected.path, rejected.error)).collect();
        self.tell_rejected(source, told, now);
        let gone = self.deleted.extract_if(.., |uid, of| *of == source && !kept.contains(uid));
        self.unlisted.extend(gone.map(|(uid, _)| uid));
        self.remove_unnamed(source, &kept, now);
        self.spoken.insert(source);
        self.end_unwanted(now);
    }

    /// The same for a source that says what has changed: what it does not speak of is as it was.
    pub(super) fn apply_pod_changes(&mut self, changes: PodChanges, now: Mono) {
        let PodChanges { source, named, gone } = changes;
        let mut told = self.rejected.get(&source).cloned().unwrap_or_default();
        for named in named {
            told.remove(&named.path);
            if let Err(rejected) = self.take_named(source, named, now) {
                told.insert(rejected.path, rejected.error);
            }
        }
        self.tell_rejected(source, told, now);
        for uid in gone {
            if self.deleted.get(&uid) == Some(&source) {
                self.deleted.remove(&uid);
                self.unlisted.insert(uid.clone());
            }
            let Some(pod) = self.pods.get(&uid) else { continue };
            let (namespace, name) = (pod.id.namespace.clone(), pod.id.name.clone());
            let replaced =
                self.pods.named(&namespace, &name).any(|p| p.id.uid != uid && p.source == Some(source));
            self.remove_one(source, &uid, replaced, now);
        }
        self.end_unwanted(now);
    }

    /// The source that has the pod, or will have it once it is gone.
    fn owner(&self, uid: &PodUid) -> Option<PodSource> {
        let pod = self.pods.get(uid)?;
        match &pod.mode {
            Mode::Removing { .. } | Mode::Removed => pod.comes_back.as_ref().map(|(source, _)| *source),
            _ => pod.source,
        }
    }

    /// Whether it is the source's to run.
    ///
    /// # Errors
    /// Another source has it.
    fn take_named(
        &mut self,
        source: PodSource,
        named: SourcePod,
        now: Mono,
    ) -> Result<bool, RejectedManifest> {
        let uid = PodRef::of(&named.pod).uid;
        if source == PodSource::Api && is_mirror(&named.pod) {
            return Ok(false);
        }
        if let Some(owner) = self.owner(&uid).filter(|owner| *owner != source) {
            let error = format!(
                "the pod's UID {uid} is that of a pod from another source ({}), which counts; give it another",
                owner.as_str()
            );
            return Err(RejectedManifest { path: named.path, error, duplicate: true });
        }
        self.take_own(source, named, now);
        Ok(true)
    }

    fn take_own(&mut self, source: PodSource, named: SourcePod, now: Mono) {
        let uid = PodRef::of(&named.pod).uid;
        if self.pods.get(&uid).is_some_and(|known| is_named_as_before(known, &named)) {
            return;
        }
        let Some(mut known) = self.pods.get_mut(&uid) else {
            if !self.deleted.contains_key(&uid) {
                self.add(source, named, now);
            }
            return;
        };
        known.superseded = false;
        known.unnamed = false;
        if matches!(known.mode, Mode::Removing { .. } | Mode::Removed) {
            if is_to_be_deleted(&named.pod) {
                known.comes_back = None;
                drop(known);
                self.shorten_deletion(&uid, named.pod);
            } else {
                known.comes_back = Some((source, named));
            }
            return;
        }
        // The next start must know where to look for it.
        known.unsaved |= known.path.as_ref() != Some(&named.path);
        known.path = Some(named.path.clone());
        let same = same_content(&known.pod, &named.pod);
        drop(known);
        if !same {
            self.update_pod(source, named, now);
        }
    }

    pub(super) fn add(&mut self, source: PodSource, named: SourcePod, now: Mono) {
        let critical = source.is_static() && self.config.static_pods_critical;
        let from = format!("from {}", named.path.display());
        let mut state = PodState::new(named.pod, Some(source), Some(named.path), critical);
        state.own_uid = named.own_uid;
        // Start time and times of conditions go on: as the last run saved them, else as the API server has them.
        if let Some(saved) = self.saved.get(&state.id.uid) {
            take_over(&mut state, saved);
        } else if source == PodSource::Api {
            resume(&mut state);
        }
        let id = state.id.clone();
        let ignored = admission::unsupported(&state.pod);
        if is_to_be_deleted(&state.pod) {
            state.remove(Reason::PodRemoved);
        }
        self.pods.insert(state);
        self.record_pod(now, Kind::Pod, Reason::PodAdded, &id, from);
        for field in ignored {
            self.record_pod(now, Kind::Warning, Reason::UnsupportedFeature, &id, field);
        }
    }

    /// The source cannot be reached, and has not been since the start: its pods go on as the last run of the agent knew
    /// them. What it names differently ends once it speaks.
    pub(super) fn resume_saved(&mut self, source: PodSource, now: Mono) {
        if self.spoken.contains(&source) {
            return;
        }
        let critical = source.is_static() && self.config.static_pods_critical;
        let of_source = self.saved.values().filter(|saved| saved.source() == source);
        let unknown: Vec<PodState> = of_source
            .filter(|saved| !self.pods.contains_key(&saved.uid()))
            .map(|saved| from_saved(saved, critical))
            .collect();
        for mut state in unknown {
            let id = state.id.clone();
            if is_to_be_deleted(&state.pod) {
                state.remove(Reason::PodRemoved);
            }
            self.pods.insert(state);
            let message = format!(
                "the source of the pod ({}) does not answer: it goes on as it was when the agent last ran",
                source.as_str()
            );
            self.record_pod(now, Kind::Pod, Reason::PodAdopted, &id, message);
        }
        self.resumed.insert(source);
    }

    /// Nothing of the pod is left. It may be named again meanwhile.
    pub(super) fn forget_pod(&mut self, pod: PodState, now: Mono) {
        if let (true, Some(source)) = (is_to_be_deleted(&pod.pod), pod.source) {
            let uid = pod.id.uid.clone();
            if pod.unnamed {
                self.unlisted.insert(uid);
            } else {
                self.deleted.insert(uid, source);
            }
        }
        self.retries.look_again();
        match pod.comes_back {
            Some((source, named)) => self.add(source, named, now),
            None => self.retries.forget(&pod.id.uid),
        }
    }

    /// Pods that their source no longer names end. One that was edited ends once its successor could be admitted.
    fn remove_unnamed(&mut self, source: PodSource, kept: &BTreeSet<PodUid>, now: Mono) {
        let unnamed: Vec<PodRef> =
            self.pods.values().map(|p| &p.id).filter(|id| !kept.contains(&id.uid)).cloned().collect();
        if unnamed.is_empty() {
            return;
        }
        let names: BTreeSet<(String, String)> = self
            .pods
            .values()
            .filter(|p| kept.contains(&p.id.uid))
            .map(|p| (p.id.namespace.clone(), p.id.name.clone()))
            .collect();
        for PodRef { uid, namespace, name } in unnamed {
            self.remove_one(source, &uid, names.contains(&(namespace, name)), now);
        }
    }

    /// The source names the pod no more. `replaced`: it names another one of that name.
    fn remove_one(&mut self, source: PodSource, uid: &PodUid, replaced: bool, now: Mono) {
        let Some(mut pod) = self.pods.get_mut(uid) else { return };
        if matches!(pod.mode, Mode::Removing { .. } | Mode::Removed) {
            pod.comes_back.take_if(|(of, _)| *of == source);
            pod.unnamed |= pod.source == Some(source);
            return;
        }
        if pod.source != Some(source) {
            return;
        }
        if replaced && source.is_static() && pod.mode == Mode::Active {
            pod.superseded = true;
            return;
        }
        let (reason, message) = if replaced {
            (Reason::PodReplaced, "its manifest changed: the new pod starts when this one is gone")
        } else {
            (Reason::PodRemoved, "its manifest is gone")
        };
        pod.remove(reason);
        let id = pod.id.clone();
        drop(pod);
        self.record_pod(now, Kind::Pod, reason, &id, message);
    }

    /// `current`: by path, all that do not count, and why.
    fn tell_rejected(&mut self, source: PodSource, current: BTreeMap<PathBuf, String>, now: Mono) {
        let before = self.rejected.remove(&source).unwrap_or_default();
        for (path, error) in current.iter().filter(|(path, error)| before.get(*path) != Some(*error)) {
            let message = format!("{}: {error}", path.display());
            self.record(Record::new(now, Kind::Warning, Reason::ManifestRejected, message));
        }
        self.rejected.insert(source, current);
    }

    /// Pods whose manifest has become unreadable run on as they are.
    fn kept_by_rejected(&self, source: PodSource, rejected: &[RejectedManifest]) -> BTreeSet<PodUid> {
        let unreadable: Vec<&Path> =
            rejected.iter().filter(|r| !r.duplicate).map(|r| r.path.as_path()).collect();
        let is_unreadable = |path: Option<&Path>| path.is_some_and(|p| unreadable.contains(&p));
        let ending = |m: &Mode| matches!(m, Mode::Removing { .. } | Mode::Removed);
        let known = self
            .pods
            .values()
            .filter(|p| p.source == Some(source) && is_unreadable(p.path.as_deref()) && !ending(&p.mode))
            .map(|p| p.id.uid.clone());
        let saved = self
            .saved
            .values()
            .filter(|s| s.source() == source && is_unreadable(s.manifest_path.as_deref()))
            .map(SavedPod::uid)
            .filter(|uid| self.pods.get(uid).is_none_or(|p| !ending(&p.mode)));
        known.chain(saved).collect()
    }

    /// What earlier runs left and no source names, once all have spoken and the runtime has been listed; from then on what
    /// turns up in the runtime.
    pub(super) fn end_unwanted(&mut self, now: Mono) {
        if !self.knows_its_pods() {
            return;
        }
        if !std::mem::replace(&mut self.swept, true) {
            let critical = self.config.static_pods_critical;
            let unnamed = self.saved.values().filter(|s| !self.pods.contains_key(&s.uid()));
            for saved in unnamed.cloned().collect::<Vec<_>>() {
                let state = from_saved(&saved, critical);
                if saved.failure.is_none() && self.runs(&state) && self.successor_of(&state) {
                    self.adopt_predecessor(state, now);
                } else {
                    self.add_orphan(state, now);
                }
            }
            for uid in std::mem::take(&mut self.leftovers) {
                self.add_leftover(uid, now);
            }
        }
        let unknown = self.found.values().filter(|found| !self.pods.contains_key(&found.pod.uid));
        for id in unknown.map(|found| found.pod.clone()).collect::<Vec<_>>() {
            self.add_orphan(unnamed(&id), now);
        }
    }

    /// The manifest was edited while no agent ran.
    fn successor_of(&self, pod: &PodState) -> bool {
        let mut named = self.pods.named(&pod.id.namespace, &pod.id.name);
        pod.is_static() && named.any(|p| p.source == pod.source && p.has_name_of(&pod.id))
    }

    fn adopt_predecessor(&mut self, mut state: PodState, now: Mono) {
        state.mode = Mode::Active;
        state.superseded = true;
        state.cgroups_stale = true;
        state.sync_wanted = Some(Reason::PodAdded);
        let id = state.id.clone();
        self.saved.remove(&id.uid);
        self.pods.insert(state);
        let message = "it runs already and is taken over; its manifest has changed meanwhile";
        self.record_pod(now, Kind::Pod, Reason::PodAdopted, &id, message);
    }

    /// Before the sources have spoken nobody knows whether they are wanted.
    pub(super) fn apply_leftovers(&mut self, leftovers: Vec<PodUid>, now: Mono) {
        if !self.swept {
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
        state.source = None;
        state.remove(Reason::OrphanedPod);
        let id = state.id.clone();
        self.pods.insert(state);
        self.record_pod(now, Kind::Pod, Reason::OrphanedPod, &id, NOT_NAMED);
    }
}

/// A list names all pods, and most of them have not changed: those are not looked at again.
fn is_named_as_before(known: &PodState, named: &SourcePod) -> bool {
    let ending = matches!(known.mode, Mode::Removing { .. } | Mode::Removed);
    let same = Arc::ptr_eq(&known.pod, &named.pod) && known.path.as_ref() == Some(&named.path);
    same && !known.superseded && known.comes_back.is_none() && ending == is_to_be_deleted(&named.pod)
}

pub(super) fn is_to_be_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// As the last run of the agent left it.
pub(super) fn from_saved(saved: &SavedPod, static_critical: bool) -> PodState {
    let source = saved.source();
    let critical = source.is_static() && static_critical;
    let pod = Arc::new(saved.pod.clone());
    let mut state = PodState::new(pod, Some(source), saved.manifest_path.clone(), critical);
    take_over(&mut state, saved);
    state
}

/// What the agent's last run knew of it.
fn take_over(state: &mut PodState, saved: &SavedPod) {
    state.status = saved.pod.status.clone().map(Arc::new);
    state.forestalled.clone_from(&saved.forestalled);
    state.probes = saved.pod.status.as_ref().map(ProbeResults::of_status).unwrap_or_default();
}

/// What the API server knows of it, who has not run here before: another agent may have run it, and its probes go on.
fn resume(state: &mut PodState) {
    state.status = state.pod.status.clone().map(Arc::new);
    state.probes = state.status.as_deref().map(ProbeResults::of_status).unwrap_or_default();
}

/// Of a pod that nothing but its name is known of.
fn unnamed(id: &PodRef) -> PodState {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(id.uid.to_string());
    pod.metadata.namespace = Some(id.namespace.clone());
    pod.metadata.name = Some(id.name.clone());
    PodState::new(Arc::new(pod), None, None, false)
}
