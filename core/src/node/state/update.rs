//! A pod that is known, and whose manifest has changed although its UID has not: a pod of the API server, or a static one
//! that gives itself its UID (`metadata.uid`).
//!
//! What the API server lets change of a pod is changed in place: the pod goes on with the new manifest, and its worker
//! restarts a container whose image is another. A deletion ends it, within the grace that the deletion says. Anything
//! else, which only a static pod's manifest can have, makes a new run under the old UID: the old one ends, once the new
//! one could be admitted. An edit while no agent runs is told by what the last agent has saved, and comes to the same.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodSpec;

use super::admit::Verdict;
use super::pod::{Outstanding, PodState};
use super::sources::{from_saved, is_to_be_deleted};
use super::{Mode, State};
use crate::clock::Mono;
use crate::node::event::{PodSource, SourcePod};
use crate::pod::qos::QosClass;
use crate::pod::spec::same_manifest;
use crate::pod::{Pod, PodRef, PodUid};
use crate::reason::Reason;
use crate::trace::record::Kind;

impl State {
    /// The pod is known, is not being removed, and its content is another now.
    pub(super) fn update_pod(&mut self, source: PodSource, named: SourcePod, now: Mono) {
        let id = PodRef::of(&named.pod);
        let critical = source.is_static() && self.config.static_pods_critical;
        let Some(runs) = self.pods.get(&id.uid).map(|known| self.runs(known)) else { return };
        let Some(mut known) = self.pods.get_mut(&id.uid) else { return };
        let known_id = known.id.clone();
        if is_to_be_deleted(&named.pod) {
            known.set_pod(named.pod, critical);
            known.remove(Reason::PodRemoved);
            let grace = known.grace_period().as_secs();
            drop(known);
            let message = format!("it is to be deleted, within {grace} s");
            self.record_pod(now, Kind::Pod, Reason::PodRemoved, &known_id, message);
            return;
        }
        if same_manifest(&known.pod, &named.pod) {
            // Others have said something of it.
            known.set_pod(named.pod, critical);
            return;
        }
        let in_place = known.id == id && changes_in_place(&known.pod, &named.pod);
        let spec_as_before = known.pod.spec == named.pod.spec;
        match &known.mode {
            // Nothing runs: whatever it is now, it has not begun.
            Mode::Pending | Mode::Rejected(_) if !runs && known.id == id => {
                known.set_pod(named.pod, critical);
                known.mode = Mode::Pending;
                known.refused = None;
                known.status = None;
                known.waits_for = None;
                drop(known);
                self.saved.remove(&id.uid);
            }
            // The manifest of a static pod that has ended stands for another run once it asks for something else.
            Mode::Evicted { .. } | Mode::Completed { .. } if source.is_static() && !spec_as_before => {
                drop(known);
                return self.replace_run(source, named, now);
            }
            _ if !in_place && source.is_static() => {
                drop(known);
                return self.replace_run(source, named, now);
            }
            mode => {
                if *mode == Mode::Active {
                    known.sync_wanted = Some(Reason::PodUpdated);
                }
                known.set_pod(named.pod, critical);
                drop(known);
            }
        }
        let message = "its manifest changed: it goes on with the new one";
        self.record_pod(now, Kind::Pod, Reason::PodUpdated, &known_id, message);
    }

    /// The pod ends and comes back as its manifest is now. It does not end for a successor that would be refused.
    fn replace_run(&mut self, source: PodSource, named: SourcePod, now: Mono) {
        let uid = PodRef::of(&named.pod).uid;
        let critical = source.is_static() && self.config.static_pods_critical;
        let successor =
            PodState::new(Arc::clone(&named.pod), Some(source), Some(named.path.clone()), critical);
        let Some(known) = self.pods.get(&uid) else { return };
        let id = known.id.clone();
        if known.mode == Mode::Active {
            match self.verdict(&successor) {
                Verdict::Fits => {}
                Verdict::Later => return,
                Verdict::No(no) => return self.tell_kept(&id, &id, &no, now),
            }
        }
        self.retries.forget(&uid);
        let Some(mut known) = self.pods.get_mut(&uid) else { return };
        known.remove(Reason::PodReplaced);
        known.comes_back = Some((source, named));
        drop(known);
        let message = "its manifest changed: it starts anew when this run of it is gone";
        self.record_pod(now, Kind::Pod, Reason::PodReplaced, &id, message);
    }

    /// Whether the pod's manifest was edited while no agent ran so that it asks for a run of its own: what the last run of the
    /// agent had, and what may still run, is then settled. Where the UID is a hash of the manifest, no edit has the same UID,
    /// and what differs are the defaults of another version of the agent.
    pub(super) fn settle_edit(&mut self, id: &PodRef, now: Mono) -> bool {
        let known = self.pods.get(&id.uid).filter(|pod| pod.own_uid && pod.is_static());
        let Some((pod, saved)) = known.zip(self.saved.get(&id.uid)) else { return false };
        let refused = saved.failure.as_ref().is_some_and(|failure| !failure.disruption);
        let runs = self.runs(pod);
        let has_ended = saved.failure.is_some() || (!runs && self.ended_before(id).is_some());
        let goes_on = PodRef::of(&saved.pod) == *id
            && if has_ended {
                saved.pod.spec == pod.pod.spec
            } else {
                changes_in_place(&saved.pod, &pod.pod)
            };
        let (Some(source), false) = (pod.source, refused || goes_on) else { return false };

        let path = pod.path.clone().unwrap_or_default();
        let named = SourcePod { path, pod: Arc::clone(&pod.pod), own_uid: true };
        let mut old = from_saved(saved, self.config.static_pods_critical);
        old.path.clone_from(&pod.path);
        old.own_uid = true;
        old.containers = pod.containers.clone();
        old.cgroups_stale = runs;
        self.saved.remove(&id.uid);
        let old_id = old.id.clone();
        if runs && !has_ended {
            old.mode = Mode::Active;
            old.admitted_at = Some(now);
            old.sync_wanted = Some(Reason::PodAdded);
            self.pods.insert(old);
            let message = "it runs already and is taken over; its manifest has changed meanwhile";
            self.record_pod(now, Kind::Pod, Reason::PodAdopted, &old_id, message);
            self.replace_run(source, named, now);
        } else {
            old.remove(Reason::PodReplaced);
            old.comes_back = Some((source, named));
            self.pods.insert(old);
            let message =
                "its manifest changed while no agent ran: it starts anew when what is left of it is gone";
            self.record_pod(now, Kind::Pod, Reason::PodReplaced, &old_id, message);
        }
        true
    }

    /// A pod that is being removed is to be deleted, perhaps sooner than it was.
    pub(super) fn shorten_deletion(&mut self, uid: &PodUid, pod: Arc<Pod>) {
        let critical = self.config.static_pods_critical;
        let Some(mut known) = self.pods.get_mut(uid) else { return };
        let before = known.grace_period();
        let critical = known.is_static() && critical;
        known.set_pod(pod, critical);
        if matches!(known.mode, Mode::Removing { .. }) && known.grace_period() < before {
            // Its worker has an order with a longer grace.
            known.outstanding = Outstanding::Nothing;
        }
    }
}

/// Only what the API server lets change (ValidatePodUpdate, pkg/apis/core/validation): metadata, images, tolerations,
/// the active deadline, the grace, ephemeral containers. The QoS class is the place of the pod's cgroup.
fn changes_in_place(old: &Pod, new: &Pod) -> bool {
    let (Some(before), Some(mut after)) = (&old.spec, new.spec.clone()) else { return false };
    after.tolerations.clone_from(&before.tolerations);
    after.ephemeral_containers.clone_from(&before.ephemeral_containers);
    after.active_deadline_seconds = before.active_deadline_seconds;
    after.termination_grace_period_seconds = before.termination_grace_period_seconds;
    with_images_of(&mut after, before);
    after == *before && QosClass::of(old) == QosClass::of(new)
}

fn with_images_of(spec: &mut PodSpec, other: &PodSpec) {
    let init = spec.init_containers.iter_mut().flatten().zip(other.init_containers.iter().flatten());
    for (container, other) in spec.containers.iter_mut().zip(&other.containers).chain(init) {
        container.image.clone_from(&other.image);
        // Where a manifest says nothing it follows from the image's tag.
        container.image_pull_policy.clone_from(&other.image_pull_policy);
    }
}
