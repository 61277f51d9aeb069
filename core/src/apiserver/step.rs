//! What is to be written next about one pod: its status, a deletion that the node has carried out, or the mirror pod that
//! stands for a static one. One write at a time; what it changed is seen before the next is chosen.

use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::Value;

use super::mirror::{is_current, is_mirror, mirror_of};
use super::pod_status::status_patch;
use crate::node::event::PodSource;
use crate::node::published::{NodeSnapshot, PublishedPod};
use crate::pod::{Pod, PodRef, PodUid};

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Of the status, strategic merge. It may wait so long for the next of the same pod; zero: told at once.
    Patch {
        pod: PodRef,
        patch: Value,
        may_wait: Duration,
    },
    /// At once: nothing of the pod runs on the node any more, or it is a mirror of what is not there.
    Delete(PodRef),
    Create(Box<Pod>),
}

/// What there is on both sides.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub snapshot: &'a NodeSnapshot,
    /// This node's pods as the API server has them.
    pub pods: &'a OrdMap<PodUid, Arc<Pod>>,
    pub node_name: &'a str,
    /// Of the Node object; `None`: there is none yet.
    pub node_uid: Option<&'a str>,
}

impl View<'_> {
    /// About the pod with this UID, be it one of the API server's, a static one, or a mirror. `None`: all is said.
    #[must_use]
    pub fn step(&self, uid: &PodUid) -> Option<Step> {
        if let Some(ended) = self.snapshot.ended.get(uid) {
            let there = self.pods.get(uid)?;
            return patch(there, ended, AT_ONCE).or_else(|| Some(Step::Delete(PodRef::of(there))));
        }
        match self.snapshot.pods.get(uid) {
            Some(pod) if pod.source.is_some_and(PodSource::is_static) => self.step_of_static(uid, pod),
            Some(pod) if pod.as_saved => None,
            Some(pod) => {
                let there = self.pods.get(uid)?;
                let goes = there.metadata.deletion_timestamp.is_some();
                patch(there, pod, if goes { may_wait(there, pod) } else { AT_ONCE })
            }
            None => {
                let there = self.pods.get(uid).filter(|pod| is_mirror(pod))?;
                let shows_nothing = self.statics(there).next().is_none();
                (self.snapshot.node.sources_ready && shows_nothing).then(|| Step::Delete(PodRef::of(there)))
            }
        }
    }

    /// Everything that a change of this pod of the API server's may have a step for.
    pub fn concerned<'a>(&'a self, changed: &'a Pod) -> impl Iterator<Item = PodUid> + 'a {
        let statics = is_mirror(changed).then(|| self.statics(changed)).into_iter().flatten();
        statics.map(|(uid, _)| uid.clone()).chain([PodRef::of(changed).uid])
    }

    fn step_of_static(&self, uid: &PodUid, pod: &PublishedPod) -> Option<Step> {
        let mirror = self.pods.values().find(|there| is_mirror(there) && same_name(there, &pod.pod));
        // After an edit there may be two: the new one waits until the old one has ended, which is shown until then.
        let shown = |p: &PublishedPod| {
            let current = mirror.is_some_and(|mirror| is_current(mirror, &p.pod));
            (current, p.status.phase.as_deref() != Some("Pending"))
        };
        if self.statics(&pod.pod).any(|(other, p)| other != uid && (shown(p), other) > (shown(pod), uid)) {
            return None;
        }
        match mirror {
            None => Some(Step::Create(Box::new(mirror_of(&pod.pod, self.node_name, self.node_uid?)))),
            Some(mirror) if !is_current(mirror, &pod.pod) => Some(Step::Delete(PodRef::of(mirror))),
            Some(_) if pod.as_saved => None,
            Some(mirror) => patch(mirror, pod, AT_ONCE),
        }
    }

    /// Static pods with the name of this one.
    fn statics<'a>(&'a self, named: &'a Pod) -> impl Iterator<Item = (&'a PodUid, &'a Arc<PublishedPod>)> {
        let is_static = |p: &PublishedPod| p.source.is_some_and(PodSource::is_static);
        self.snapshot.pods.iter().filter(move |(_, p)| is_static(p) && same_name(&p.pod, named))
    }
}

const AT_ONCE: Duration = Duration::ZERO;
/// Nothing of the pod runs any more, and its last status follows once it is cleared away; a Service may still send it
/// traffic for want of better, until it hears that the pod is not ready.
const CLEARING_AWAY: Duration = Duration::from_secs(3);
/// The deletion was seen, and nothing else is new. Whoever deleted the pod waits for its end.
const DELETION_SEEN: Duration = Duration::from_secs(30);

/// Of a pod that is to be deleted.
fn may_wait(there: &Pod, pod: &PublishedPod) -> Duration {
    let all = [&pod.status.init_container_statuses, &pod.status.container_statuses];
    let runs = |c: &ContainerStatus| c.state.as_ref().is_some_and(|state| state.running.is_some());
    if !all.into_iter().flatten().flatten().any(runs) {
        return CLEARING_AWAY;
    }
    let Some(current) = &there.status else { return AT_ONCE };
    let mut but_for_the_generation = pod.status.as_ref().clone();
    but_for_the_generation.observed_generation = current.observed_generation;
    for condition in but_for_the_generation.conditions.iter_mut().flatten() {
        let same = current.conditions.iter().flatten().find(|c| c.type_ == condition.type_);
        condition.observed_generation = same.and_then(|c| c.observed_generation);
    }
    if status_patch("", current, &but_for_the_generation).is_none() { DELETION_SEEN } else { AT_ONCE }
}

fn patch(there: &Pod, pod: &PublishedPod, may_wait: Duration) -> Option<Step> {
    let who = PodRef::of(there);
    let none = Default::default();
    let patch = status_patch(who.uid.as_str(), there.status.as_ref().unwrap_or(&none), &pod.status)?;
    Some(Step::Patch { pod: who, patch, may_wait })
}

fn same_name(a: &Pod, b: &Pod) -> bool {
    a.metadata.name == b.metadata.name && a.metadata.namespace == b.metadata.namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::mirror::MIRROR;
    use crate::node::published::PublishedNode;
    use serde_json::json;

    fn pod(name: &str, uid: &str, annotations: Value, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "d", "uid": uid, "annotations": annotations},
            "spec": {"containers": []}, "status": status,
        }))
        .unwrap()
    }

    fn published(source: PodSource, name: &str, uid: &str, phase: &str) -> Arc<PublishedPod> {
        Arc::new(PublishedPod {
            pod: Arc::new(pod(name, uid, json!({"kubernetes.io/config.hash": uid}), json!(null))),
            status: Arc::new(serde_json::from_value(json!({"phase": phase})).unwrap()),
            source: Some(source),
            ..PublishedPod::default()
        })
    }

    #[derive(Default)]
    struct Case {
        snapshot: NodeSnapshot,
        pods: OrdMap<PodUid, Arc<Pod>>,
    }

    impl Case {
        fn runs(mut self, source: PodSource, name: &str, uid: &str, phase: &str) -> Case {
            self.snapshot.pods.insert(uid.into(), published(source, name, uid, phase));
            self
        }

        fn ended(mut self, name: &str, uid: &str, phase: &str) -> Case {
            self.snapshot.ended.insert(uid.into(), published(PodSource::Api, name, uid, phase));
            self
        }

        fn api(mut self, name: &str, uid: &str, phase: &str) -> Case {
            let pod = pod(name, uid, json!({}), json!({"phase": phase}));
            self.pods.insert(uid.into(), Arc::new(pod));
            self
        }

        fn mirror(mut self, name: &str, uid: &str, of: &str) -> Case {
            let pod = pod(name, uid, json!({ MIRROR: of }), json!({"phase": "Running"}));
            self.pods.insert(uid.into(), Arc::new(pod));
            self
        }

        fn ready(mut self) -> Case {
            self.snapshot.node = PublishedNode { sources_ready: true, ..PublishedNode::default() };
            self
        }

        fn step(&self, uid: &str) -> String {
            let view =
                View { snapshot: &self.snapshot, pods: &self.pods, node_name: "n", node_uid: Some("node") };
            match view.step(&uid.into()) {
                None => "nothing".into(),
                Some(Step::Patch { pod, patch, may_wait }) => {
                    let later = match may_wait {
                        AT_ONCE => "",
                        CLEARING_AWAY => " soon",
                        _ => " later",
                    };
                    format!("patch {} {}{later}", pod.uid, patch["status"]["phase"])
                }
                Some(Step::Delete(pod)) => format!("delete {}", pod.uid),
                Some(Step::Create(pod)) => format!("create {}", pod.metadata.name.unwrap_or_default()),
            }
        }
    }

    #[test]
    fn pods_of_the_api_server() {
        use PodSource::Api;
        let case = Case::default;
        assert_eq!(case().api("a", "1", "Pending").step("1"), "nothing", "the loop has not seen it");
        let running = case().api("a", "1", "Pending").runs(Api, "a", "1", "Running");
        assert_eq!(running.step("1"), "patch 1 \"Running\"");
        assert_eq!(case().api("a", "1", "Running").runs(Api, "a", "1", "Running").step("1"), "nothing");
        assert_eq!(case().runs(Api, "a", "1", "Running").step("1"), "nothing", "it was deleted by force");
        let mut saved = case().api("a", "1", "Pending").runs(Api, "a", "1", "Running");
        Arc::make_mut(saved.snapshot.pods.get_mut(&PodUid::from("1")).unwrap()).as_saved = true;
        assert_eq!(saved.step("1"), "nothing", "what was before the agent started");
        let ended = case().api("a", "1", "Running").ended("a", "1", "Failed");
        assert_eq!(ended.step("1"), "patch 1 \"Failed\"", "how it ended comes before its end");
        assert_eq!(case().api("a", "1", "Failed").ended("a", "1", "Failed").step("1"), "delete 1");
        assert_eq!(case().ended("a", "1", "Failed").step("1"), "nothing");
    }

    /// A pod that is to be deleted: what it is at the API server, what it is on the node.
    #[test]
    fn what_nobody_acts_on_may_wait_for_what_follows() {
        let container = |state: Value| json!([{ "name": "c", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0 }]);
        let status = |generation: i64, ready: &str, state: Value| {
            json!({ "phase": "Running", "observedGeneration": generation, "containerStatuses": container(state),
                "conditions": [{ "type": "Ready", "status": ready, "observedGeneration": generation }] })
        };
        let (running, ended) = (json!({ "running": {} }), json!({ "terminated": { "exitCode": 0 } }));
        let there = status(1, "True", running.clone());
        for (now, expected) in [
            (there.clone(), "nothing"),
            (status(2, "True", running.clone()), "patch 1 null later"),
            (status(2, "False", running), "patch 1 null"),
            (status(2, "False", ended), "patch 1 null soon"),
        ] {
            let at_once = expected.trim_end_matches(" later").trim_end_matches(" soon");
            for (deleted, expected) in [(true, expected), (false, at_once)] {
                let mut case = Case::default().api("a", "1", "").runs(PodSource::Api, "a", "1", "");
                let mut pod = pod("a", "1", json!({}), there.clone());
                if deleted {
                    let at = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
                    pod.metadata.deletion_timestamp = Some(at);
                }
                case.pods.insert("1".into(), Arc::new(pod));
                let shown = case.snapshot.pods.get_mut(&PodUid::from("1")).unwrap();
                Arc::make_mut(shown).status = Arc::new(serde_json::from_value(now.clone()).unwrap());
                assert_eq!(case.step("1"), expected, "{now}, deleted: {deleted}");
            }
        }
    }

    #[test]
    fn static_pods_and_their_mirrors() {
        use PodSource::File;
        let case = Case::default;
        assert_eq!(case().runs(File, "a", "s", "Running").step("s"), "create a");
        assert_eq!(case().runs(File, "a", "s", "Running").mirror("a", "m", "s").step("s"), "nothing");
        let outdated = case().runs(File, "a", "s2", "Running").mirror("a", "m", "s");
        assert_eq!(outdated.step("s2"), "delete m");
        assert_eq!(outdated.step("m"), "nothing", "the static pod's turn");
        let failed = case().runs(File, "a", "s", "Failed").mirror("a", "m", "s");
        assert_eq!(failed.step("s"), "patch m \"Failed\"");
        assert_eq!(case().mirror("a", "m", "s").step("m"), "nothing", "its source has not spoken");
        assert_eq!(case().mirror("a", "m", "s").ready().step("m"), "delete m");
        // Somebody's pod that has the name and is no mirror is left alone.
        assert_eq!(case().runs(File, "a", "s", "Running").api("a", "x", "Running").step("s"), "create a");
    }

    #[test]
    fn after_an_edit_the_old_pod_is_shown_until_it_has_ended() {
        use PodSource::File;
        let both = Case::default().runs(File, "a", "s1", "Running").runs(File, "a", "s2", "Pending");
        let both = both.mirror("a", "m", "s1");
        assert_eq!([both.step("s1"), both.step("s2")], ["nothing", "nothing"]);
        let unshown = Case::default().runs(File, "a", "s1", "Running").runs(File, "a", "s2", "Pending");
        assert_eq!([unshown.step("s1"), unshown.step("s2")], ["create a", "nothing"]);
    }
}
