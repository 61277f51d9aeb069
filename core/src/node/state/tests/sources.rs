//! Pods from several sources, and of one name.

use serde_json::{Value, json};

use super::*;

/// `spec` is laid over that of [`pod`]; `labels` go into the metadata.
pub(super) fn pod_with(name: &str, uid: &str, meta: Value, spec: Value) -> Arc<Pod> {
    let mut value = serde_json::to_value(&*pod(name, uid)).unwrap();
    for (key, laid) in [("metadata", meta), ("spec", spec)] {
        for (field, laid) in laid.as_object().into_iter().flatten() {
            value[key][field] = laid.clone();
        }
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

/// One container that asks for so much memory and a hundredth of a CPU.
pub(super) fn asks(name: &str, uid: &str, mib: u64) -> Arc<Pod> {
    let resources = json!({ "requests": { "memory": format!("{mib}Mi"), "cpu": "10m" } });
    let spec = json!({ "containers": [{ "name": "c", "image": "i", "resources": resources }] });
    pod_with(name, uid, json!({}), spec)
}

pub(super) fn list(source: PodSource, pods: &[Arc<Pod>]) -> Event {
    let named = |pod: &Arc<Pod>| {
        let path = format!("/m/{}.yaml", pod.metadata.name.as_ref().unwrap()).into();
        SourcePod { path, pod: Arc::clone(pod), own_uid: true }
    };
    Event::Pods(PodUpdate { source, pods: pods.iter().map(named).collect(), rejected: Vec::new() })
}

fn changes(source: PodSource, pods: &[Arc<Pod>], gone: &[&str]) -> Event {
    let Event::Pods(PodUpdate { pods: named, .. }) = list(source, pods) else { unreachable!() };
    Event::PodsChanged(PodChanges { source, named, gone: gone.iter().map(|uid| (*uid).into()).collect() })
}

pub(super) fn gone(uid: &str) -> Event {
    report(uid, WorkerOutcome::Removed, PodRuntimeStatus::default())
}

pub(super) fn has_stopped(uid: &str) -> Event {
    let stopped = WorkerOutcome::Stopped { took: Duration::from_millis(80), killed: false };
    report(uid, stopped, PodRuntimeStatus::default())
}

pub(super) fn mode(node: &Node, uid: &str) -> Mode {
    node.state.pod(&uid.into()).unwrap_or_else(|| panic!("pod {uid} is not known")).mode.clone()
}

fn of(sources: &[PodSource]) -> Node {
    Node::new(StateConfig { sources: sources.iter().copied().collect(), ..config() })
}

use PodSource::{Api, File, Http};

#[test]
fn nothing_unwanted_ends_before_every_configured_source_has_spoken() {
    let mut node = of(&[File, Http]);
    node.step(Event::Leftovers(vec!["7".into()]));
    node.step(relist(&[("old", "9"), ("b", "2")]));
    assert_eq!(node.step(list(File, &[pod("a", "1")])), ["sync 1"], "the server may want what runs");
    assert_eq!(node.step(list(File, &[pod("a", "1")])), [""; 0]);
    let done = node.step(list(Http, &[pod("b", "2")]));
    assert_eq!(done, ["sync 2", "map 2", "remove 7 grace 30", "remove 9 grace 30", "map 9"]);
}

#[test]
fn without_a_source_what_runs_is_left_alone() {
    let mut node = of(&[]);
    assert_eq!(node.step(Event::Leftovers(vec!["7".into()])), [""; 0]);
    assert_eq!(node.step(relist(&[("old", "9")])), [""; 0]);
}

#[test]
fn a_pod_is_removed_by_its_own_source_only() {
    let mut node = of(&[File, Http]);
    node.step(relist(&[]));
    assert_eq!(node.step(list(File, &[pod("a", "1")])), ["sync 1"]);
    assert_eq!(node.step(list(Http, &[pod("b", "2")])), ["sync 2"]);
    assert_eq!(node.step(list(Http, &[])), ["remove 2 grace 5"]);
    assert_eq!(node.step(list(Http, &[])), [""; 0]);
    assert_eq!(node.step(list(File, &[])), ["remove 1 grace 5"]);
}

#[test]
fn of_one_uid_in_two_sources_the_first_counts() {
    let mut node = of(&[File, Http]);
    node.step(relist(&[]));
    node.step(list(File, &[pod("a", "1")]));
    node.step(list(Http, &[pod("z", "1")]));
    let told: Vec<_> =
        node.records().into_iter().filter(|(_, r, _)| *r == Reason::ManifestRejected).collect();
    assert!(told.len() == 1 && told[0].2.contains("from another source (file)"), "{told:?}");
    assert_eq!(node.state.pod(&"1".into()).unwrap().id.name, "a");
    // When the file goes, the server's next list has it.
    assert_eq!(node.step(list(File, &[])), ["remove 1 grace 5"]);
    node.step(list(Http, &[pod("z", "1")]));
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 1"]);
    assert_eq!(node.state.pod(&"1".into()).unwrap().id.name, "z");
}

#[test]
fn of_one_name_in_two_sources_one_static_pod_runs_at_a_time() {
    let mut node = of(&[File, Http]);
    node.step(relist(&[]));
    assert_eq!(node.step(list(File, &[pod("a", "1")])), ["sync 1"]);
    assert_eq!(node.step(list(Http, &[pod("a", "2")])), [""; 0]);
    assert_eq!(node.step(list(Http, &[pod("a", "2")])), [""; 0]);
    let told: Vec<_> = node.records().into_iter().filter(|(_, r, _)| *r == Reason::PodNameTaken).collect();
    assert_eq!(told.len(), 1, "once: {told:?}");
    assert_eq!(node.step(list(File, &[])), ["remove 1 grace 5"]);
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 2"]);

    // One that has ended needs its name no more.
    let mut node = of(&[File, Http]);
    node.step(relist(&[]));
    node.step(list(File, &[pod("a", "1")]));
    node.step(list(Http, &[pod("a", "2")]));
    node.step(report("1", WorkerOutcome::Completed { succeeded: true }, PodRuntimeStatus::default()));
    assert_eq!(node.step(has_stopped("1")), ["sync 2"]);
}

#[test]
fn a_pod_of_the_api_server_runs_beside_a_static_one_and_a_mirror_is_never_run() {
    let mut node = of(&[File, Api]);
    node.step(relist(&[]));
    assert_eq!(node.step(list(File, &[pod("a", "1")])), ["sync 1"]);
    let mirror = pod_with("a", "3", json!({"annotations": {"kubernetes.io/config.mirror": "1"}}), json!({}));
    assert_eq!(node.step(list(Api, &[pod("a", "2"), mirror])), ["sync 2"]);
    assert!(node.state.pod(&"3".into()).is_none());
}

#[test]
fn what_a_change_does_not_speak_of_is_as_it_was() {
    let mut node = of(&[File, Api]);
    node.step(relist(&[]));
    node.step(list(File, &[pod("f", "9")]));
    node.step(list(Api, &[pod("a", "1"), pod("b", "2")]));
    assert_eq!(node.step(changes(Api, &[pod("c", "3")], &[])), ["sync 3"]);
    assert_eq!(node.step(changes(Api, &[pod("d", "4")], &["1"])), ["remove 1 grace 5", "sync 4"]);
    // Nobody else's, and nobody that there is.
    assert_eq!(node.step(changes(Api, &[], &["9", "77", "1"])), [""; 0]);
    let mirror = pod_with("f", "5", json!({"annotations": {"kubernetes.io/config.mirror": "1"}}), json!({}));
    assert_eq!(node.step(changes(Api, &[mirror], &[])), [""; 0]);
    // Its UID is that of a file's pod, which is told once.
    for _ in 0..2 {
        assert_eq!(node.step(changes(Api, &[pod("z", "9")], &[])), [""; 0]);
    }
    let told = node.records();
    assert_eq!(told.iter().filter(|(_, r, _)| *r == Reason::ManifestRejected).count(), 1, "{told:?}");
    // Another of its name takes its place, and the reason says so.
    assert_eq!(node.step(changes(Api, &[pod("b", "6")], &["2"])), ["remove 2 grace 5", "sync 6"]);
    assert!(node.records().iter().any(|(_, reason, _)| *reason == Reason::PodReplaced));
    // The next list says the same, and nothing follows.
    let all = [pod("b", "6"), pod("c", "3"), pod("d", "4"), pod("z", "9")];
    assert_eq!(node.step(list(Api, &all)), [""; 0]);
}

/// A deleted pod is not run again while its object is there, and its end is known once that has gone.
#[test]
fn a_deleted_pod_is_forgotten_when_the_watch_says_so() {
    let mut node = of(&[Api]);
    node.step(relist(&[]));
    node.step(list(Api, &[pod("a", "1")]));
    let deleted = || pod_with("a", "1", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({}));
    assert_eq!(node.step(changes(Api, &[deleted()], &[])), ["remove 1 grace 5"]);
    node.step(gone("1"));
    assert_eq!(node.step(changes(Api, &[deleted()], &[])), [""; 0]);
    assert_eq!(node.state.unlisted().count(), 0);
    node.state.apply(changes(Api, &[], &["1"]), node.now);
    assert_eq!(node.state.unlisted().map(PodUid::as_str).collect::<Vec<_>>(), ["1"]);
}

/// Somebody deletes it with `--force` while it ends: nothing will speak of it once it is gone.
#[test]
fn a_pod_whose_object_has_gone_before_it_is_forgotten_with_its_end() {
    let mut node = of(&[Api]);
    node.step(relist(&[]));
    node.step(list(Api, &[pod("a", "1")]));
    let deleted = pod_with("a", "1", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({}));
    node.step(changes(Api, &[deleted], &[]));
    assert_eq!(node.step(changes(Api, &[], &["1"])), [""; 0]);
    assert_eq!(node.step(gone("1")), ["forget 1", "unlist 1"]);
    assert!(node.state.deleted.is_empty());
}

/// A pod that was to be deleted when the agent stopped is not run again because the API server is away at the start.
#[test]
fn a_saved_pod_that_was_being_deleted_ends_while_its_source_is_silent() {
    let metadata = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let (ending, stays) = (pod_with("a", "1", metadata, json!({})), pod("b", "2"));
    let of_api = |pod: &Arc<Pod>| SavedPod { pod: (**pod).clone(), source: Some(Api), ..saved("", "", None) };
    let saved = vec![of_api(&ending), of_api(&stays)];
    let mut node = of(&[Api]);
    node.state = State::new(StateConfig { saved, sources: [Api].into(), ..config() });
    node.step(relist(&[("a", "1"), ("b", "2")]));
    assert_eq!(node.step(Event::SourceSilent(Api)), ["remove 1 grace 5", "map 1", "sync 2", "map 2"]);
    assert_eq!(node.step(list(Api, &[ending, stays])), [""; 0]);
}

#[test]
fn what_an_agent_before_saved_is_of_the_files() {
    let mut node = of(&[File, Http]);
    let old = SavedPod { source: None, ..saved("a", "1", None) };
    node.state = State::new(StateConfig { saved: vec![old], sources: [File, Http].into(), ..config() });
    node.step(relist(&[("a", "1")]));
    let Event::Pods(mut broken) = list(File, &[]) else { unreachable!() };
    let path = "/m/a.yaml".into();
    broken.rejected = vec![RejectedManifest { path, error: "broken".into(), duplicate: false }];
    assert_eq!(
        node.step(Event::Pods(broken.clone())),
        ["sync 1", "map 1"],
        "its manifest cannot be read: it runs on"
    );
    node.step(list(Http, &[]));
    // A file that another one has taken the place of keeps nothing.
    broken.rejected[0].duplicate = true;
    assert_eq!(node.step(Event::Pods(broken)), ["remove 1 grace 5"]);
}

#[test]
fn the_switch_makes_static_pods_critical_and_no_others() {
    let config = StateConfig { static_pods_critical: true, sources: [File, Api].into(), ..config() };
    let mut node = Node::new(config);
    node.step(relist(&[]));
    node.step(list(File, &[pod("a", "1")]));
    node.step(list(Api, &[pod("b", "2")]));
    for (uid, critical) in [("1", true), ("2", false)] {
        let pod = node.state.pod(&uid.into()).unwrap();
        assert_eq!((pod.candidate.critical, pod.resource_candidate.critical), (critical, critical), "{uid}");
    }
    // Kept also when the manifest changes, and admitted under pressure.
    node.step(list(File, &[pod_with("a", "1", json!({"labels": {"x": "y"}}), json!({}))]));
    assert!(node.state.pod(&"1".into()).unwrap().candidate.critical);
    node.state.conditions.memory_pressure = true;
    node.state.apply(list(File, &[pod("a", "1"), pod("late", "3")]), node.now);
    assert_eq!(mode(&node, "3"), Mode::Active);
    node.state.conditions.memory_pressure = true;
    node.state.apply(list(Api, &[pod("b", "2"), pod("later", "4")]), node.now);
    assert!(matches!(mode(&node, "4"), Mode::Rejected(_)) || !node.state.conditions.memory_pressure);
}
