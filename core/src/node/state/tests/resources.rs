//! Disks and process ids: from a reading to an eviction, and what ended pods leave.

use std::collections::BTreeMap;

use super::*;
use crate::eviction::resources::reading::{DiskUse, FileSystem, PodUse, Reclaimed};
use crate::eviction::resources::{Images, ResourceReading};

/// A file system of 1000 MiB that is both; what pods have in a volume, MiB. Read before any test begins.
pub(super) fn disk(available_mib: u64, pods: &[(&str, u64)]) -> Event {
    let fs = FileSystem {
        capacity_bytes: 1000 * MIB,
        available_bytes: available_mib * MIB,
        inodes: 1000,
        inodes_free: 900,
    };
    let used = |mib: &u64| PodUse {
        volumes: BTreeMap::from([("data".to_owned(), DiskUse { bytes: mib * MIB, inodes: 1 })]),
        ..PodUse::default()
    };
    let reading = ResourceReading {
        at: Mono::from_millis(500),
        nodefs: Some(fs),
        imagefs: Some(fs),
        shared: true,
        pids: None,
        pods: pods.iter().map(|(uid, mib)| ((*uid).into(), used(mib))).collect(),
        trouble: Vec::new(),
    };
    Event::Resources(ResourceAnswer::Reading(Box::new(reading)))
}

fn reclaimed(containers: usize) -> Event {
    Event::Resources(ResourceAnswer::Reclaimed(Reclaimed { containers, ..Reclaimed::default() }))
}

/// Two active pods that run, the first with a volume of at most 100 MiB.
pub(super) fn node() -> Node {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    let limited = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "a", "namespace": "default", "uid": "1"},
        "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "100Mi"}}],
            "terminationGracePeriodSeconds": 5
        }
    }));
    let pods = [("a", Arc::new(limited.unwrap())), ("b", pod("b", "2"))];
    let pods =
        pods.map(|(name, pod)| SourcePod { path: format!("/m/{name}.yaml").into(), pod, own_uid: false });
    node.step(Event::Pods(PodUpdate { source: PodSource::File, pods: pods.into(), rejected: Vec::new() }));
    node.step(synced("1"));
    node.step(synced("2"));
    node.records();
    node
}

fn shown(node: &Node, uid: &str) -> (String, String, bool) {
    let state = node.state.pod(&uid.into()).unwrap();
    let status = state.published().unwrap().to_saved().pod.status.unwrap();
    let conditions = status.conditions.unwrap_or_default();
    let disrupted = conditions.iter().any(|c| c.type_ == "DisruptionTarget");
    (status.reason.unwrap_or_default(), status.message.unwrap_or_default(), disrupted)
}

#[test]
fn a_full_disk_evicts_after_the_node_has_given_up_what_it_could() {
    let mut node = node();
    let use_of_pods = [("1", 50), ("2", 90)];
    assert_eq!(node.step(disk(95, &[])), ["reclaim [] images true"]);
    assert_eq!(node.step(reclaimed(1)), ["read all"]);
    assert_eq!(node.step(disk(96, &use_of_pods)), ["evict 2 for disk"]);
    let told = node.records();
    let decision = told.iter().find(|(kind, ..)| *kind == Kind::Decision).unwrap();
    assert_eq!(decision.1, Reason::ThresholdMet);
    assert!(
        told.iter().any(|(kind, reason, _)| (*kind, *reason) == (Kind::Node, Reason::DiskPressure)),
        "{told:?}"
    );
    assert!(
        told.iter().any(|(.., message)| message.starts_with("1 dead containers and 0 images")),
        "{told:?}"
    );
    let (reason, message, disrupted) = shown(&node, "2");
    assert_eq!((reason.as_str(), disrupted), ("Evicted", true));
    assert_eq!(
        message,
        "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 96Mi. "
    );
    assert!(!node.state.eviction().evicting().any(|_| true), "memory is not concerned");

    // Nobody comes in meanwhile.
    node.step(source(&[("a", "1"), ("b", "2"), ("late", "3")]));
    assert_eq!(shown(&node, "3").1, "The node had condition: [DiskPressure]. ");

    // Its end alone gives nothing back; when its volumes are gone it is looked again, at once.
    let stopped = WorkerOutcome::Stopped { took: Duration::from_millis(80), killed: false };
    node.step(report("2", stopped, PodRuntimeStatus::default()));
    assert!(node.state.resources().next_wakeup(Images::Known) > node.now);
    node.step(report("2", WorkerOutcome::CleanedUp, PodRuntimeStatus::default()));
    assert_eq!(node.step(disk(97, &[])), ["reclaim [\"2\", \"3\"] images true"]);
    node.step(reclaimed(1));
    assert_eq!(node.step(disk(600, &use_of_pods)), [""; 0]);
    assert_eq!(node.records().iter().filter(|(kind, ..)| *kind == Kind::Decision).count(), 0);
}

#[test]
fn a_pod_beyond_its_own_limit_is_evicted_and_not_disrupted() {
    let mut node = node();
    assert_eq!(node.step(disk(900, &[("1", 101)])), ["evict 1 for disk"]);
    let (reason, message, disrupted) = shown(&node, "1");
    assert_eq!(reason, "Evicted");
    assert_eq!(message, "Usage of EmptyDir volume \"data\" exceeds the limit \"100Mi\". ");
    assert!(!disrupted, "it has itself to blame");
    assert!(node.state.resource_conditions().is_empty());

    // An agent that starts anew knows it as evicted.
    let saved = node.state.pod(&"1".into()).unwrap().published().unwrap().to_saved();
    let mut again = Node::new(StateConfig { saved: vec![saved], ..config() });
    again.step(relist(&[]));
    assert_eq!(again.step(source(&[("a", "1")])), ["stop 1 grace 0"]);
    assert_eq!(shown(&again, "1").0, "Evicted");
}

#[test]
fn trouble_is_told_once_while_it_lasts() {
    let mut node = node();
    let trouble = |lines: &[&str]| {
        let trouble = lines.iter().map(|l| (*l).to_owned()).collect();
        let reading = ResourceReading { trouble, ..ResourceReading::default() };
        Event::Resources(ResourceAnswer::Reading(Box::new(reading)))
    };
    for (lines, told) in [(&["a", "b"][..], 2), (&["a"], 0), (&["b", "a"], 1), (&[], 0), (&["a"], 1)] {
        node.step(trouble(lines));
        node.step(reclaimed(0));
        let warned = node.records().iter().filter(|(kind, ..)| *kind == Kind::Warning).count();
        assert_eq!(warned, told, "{lines:?}");
    }
    node.step(Event::Resources(ResourceAnswer::NotDone("no task".into())));
    assert_eq!(node.records().len(), 1);
}

/// Its containers went under disk pressure: nothing in the runtime says any more that it has run.
#[test]
fn a_pod_that_has_ended_does_not_run_again_when_nothing_of_it_is_left() {
    for (phase, runs_again) in [("Succeeded", false), ("Failed", false), ("Running", true), ("Pending", true)]
    {
        let mut ended = (*pod("a", "1")).clone();
        ended.status = Some(serde_json::from_value(serde_json::json!({ "phase": phase })).unwrap());
        let saved = SavedPod {
            pod: ended,
            source: None,
            manifest_path: Some("/m/a.yaml".into()),
            failure: None,
            forestalled: Default::default(),
        };
        let mut node = Node::new(StateConfig { saved: vec![saved.clone()], ..config() });
        node.step(relist(&[]));
        let done = node.step(source(&[("a", "1")]));
        assert_eq!(done == ["sync 1"], runs_again, "{phase}: {done:?}");
        let state = node.state.pod(&"1".into()).unwrap();
        let shown = state.published().unwrap().to_saved().pod.status.unwrap().phase.unwrap();
        assert_eq!(shown, phase);

        // What the runtime still has of one that has ended is cleared away.
        let mut node = Node::new(StateConfig { saved: vec![saved], ..config() });
        let mut listed = relist(&[("a", "1")]);
        if let Event::Relisted(pods) = &mut listed {
            pods.pods[0].containers[0].state = ContainerState::Exited;
        }
        node.step(listed);
        let expected = if runs_again { "sync 1" } else { "stop 1 grace 5" };
        assert_eq!(node.step(source(&[("a", "1")])), [expected]);
    }
}

/// What the agent does about the disk while the API server, or the runtime, or everybody has not spoken.
#[test]
fn a_silent_source_keeps_nobody_from_looking_at_the_disk() {
    use super::sources::list;
    use PodSource::{Api, File};
    fn read(node: &Node) -> bool {
        let reads = |a: &ActionKind| {
            matches!(a, ActionKind::Resources(ResourceAction::Order(ResourceOrder::Read(_))))
        };
        plan(&node.state, node.now).iter().any(|a| reads(&a.kind))
    }
    fn images(node: &Node) -> Option<BTreeSet<String>> {
        plan(&node.state, node.now).into_iter().find_map(|a| match a.kind {
            ActionKind::Resources(ResourceAction::Order(ResourceOrder::CollectImages { named })) => {
                Some(named)
            }
            _ => None,
        })
    }
    let mut unnamed = SavedPod { source: Some(Api), ..saved("of-the-server", "9", None) };
    unnamed.pod.spec.as_mut().unwrap().containers[0].image = Some("of-the-server-image".into());
    let fresh =
        || Node::new(StateConfig { sources: [File, Api].into(), saved: vec![unnamed.clone()], ..config() });
    // It is read from the start, every ten seconds, and the loop wakes for that alone.
    let mut node = fresh();
    assert!(read(&node) && node.state.next_wakeup() == Mono::ZERO);
    node.step(Event::Tick);
    node.step(disk(900, &[]));
    for spoken in [relist(&[]), list(File, &[pod("a", "1"), pod("b", "2")]), synced("1"), synced("2")] {
        assert!(!read(&node) && node.state.resources().next_wakeup(Images::NotYetKnown) > node.now);
        node.now = node.now + Duration::from_secs(10);
        assert!(read(&node));
        node.step(spoken);
        node.step(disk(900, &[]));
        assert_eq!(images(&node), None, "who needs which is not known");
    }

    // Evicted among those that are known; before that what they have left goes, and no image that somebody may need.
    node.state.apply(disk(95, &[]), node.now);
    let reclaims = |a: ActionKind| match a {
        ActionKind::Resources(ResourceAction::Order(ResourceOrder::Reclaim(reclaim))) => Some(reclaim),
        _ => None,
    };
    let reclaim = plan(&node.state, node.now).into_iter().find_map(|a| reclaims(a.kind)).unwrap();
    assert!(reclaim.images && reclaim.named.contains("of-the-server-image"), "{reclaim:?}");
    assert_eq!(node.step(Event::Tick), ["reclaim [] images true"]);
    assert_eq!(node.step(reclaimed(0)), ["read all"]);
    assert_eq!(node.step(disk(96, &[("1", 50), ("2", 90)])), ["evict 2 for disk"]);

    // Once all have spoken images are looked through as well.
    let mut node = fresh();
    node.step(relist(&[]));
    node.step(list(File, &[]));
    node.step(disk(900, &[]));
    node.state.apply(list(Api, &[]), node.now);
    assert_eq!(images(&node), Some(BTreeSet::new()), "what nobody wants any more needs none");
}
