//! What happens when events cross each other, and when the agent ends in the middle of something.

use super::*;
use crate::node::action::Action;
use crate::node::event::{PodLifecycleEvent, PodLifecycleEventKind};
use crate::pod::order::ContainerWaiting;

fn nothing() -> PodRuntimeStatus {
    PodRuntimeStatus::default()
}

fn failed(uid: &str) -> Event {
    let retry_in = Duration::from_secs(10);
    let outcome = WorkerOutcome::Failed {
        reason: Reason::RetryAfterError,
        error: "no".into(),
        retry_in,
        waiting: Vec::new(),
    };
    report(uid, outcome, running(uid, 42))
}

fn stopped(uid: &str) -> Event {
    report(uid, WorkerOutcome::Stopped { took: Duration::from_millis(80), killed: false }, nothing())
}

fn evicted() -> Option<Failure> {
    Some(Failure { reason: Reason::Evicted, message: "low on memory".into(), disruption: true })
}

/// One active pod, `1`, that runs.
fn node_with_a_pod() -> Node {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1")]));
    node.step(synced("1"));
    node
}

#[test]
fn the_last_words_of_a_sync_change_nothing_for_a_pod_that_is_to_end() {
    let words = [
        synced("1"),
        failed("1"),
        report("1", WorkerOutcome::Completed { succeeded: true }, running("1", 42)),
    ];
    for last_words in words {
        let mut node = node_with_a_pod();
        // Both in one batch: the removal has not been planned yet.
        node.state.apply(source(&[]), node.now);
        assert_eq!(node.step(last_words), ["remove 1 grace 5"]);
    }
}

/// What comes after the stop fails, and is tried again without keeping the loop awake.
#[test]
fn a_stopped_pod_whose_clean_up_fails_is_seen_to_again_and_the_loop_sleeps() {
    let mut node = Node::new(StateConfig { saved: vec![saved("a", "1", evicted())], ..config() });
    node.step(relist(&[]));
    assert_eq!(node.step(source(&[("a", "1")])), ["stop 1 grace 0"]);
    node.step(stopped("1"));
    node.step(failed("1"));
    let wakeup = |node: &Node| node.state.pod(&"1".into()).unwrap().next_wakeup();
    assert_eq!(wakeup(&node), Some(node.now + Duration::from_secs(10)));
    node.now = node.now + Duration::from_secs(10);
    assert_eq!(node.step(Event::Tick), ["stop 1 grace 0"]);
    assert_eq!(wakeup(&node), None, "the worker has its order");
    let told = node.records().iter().filter(|(_, _, m)| m == "stopping the pod").count();
    assert_eq!(told, 1);
}

#[test]
fn what_goes_to_disk_after_a_decision_knows_of_it() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("hog", "1")]));
    node.step(synced("1"));
    let mut seen = false;
    for usage in [200, 210, 220, 235, 245, 245] {
        node.now = node.now + Duration::from_millis(1);
        let now = node.now;
        node.state.apply(reading(now, Reason::SampleDue, usage * MIB, &[("1", usage * MIB)]), now);
        // Something is to be saved in the very turn in which the pod is evicted.
        node.state.apply(synced("1"), now);
        for _ in 0..3 {
            for action in plan(&node.state, now) {
                node.state.note(&action, now);
                seen |= matches!(action.kind, ActionKind::Memory(MemoryAction::Evict { .. }));
                if let ActionKind::Pod(PodAction::Publish(published)) = &action.kind {
                    assert_eq!(published.failure.is_some(), seen);
                }
            }
        }
    }
    assert!(seen, "it was evicted");
    assert!(node.state.unpublished().next().is_none());
}

#[test]
fn leftovers_of_a_pod_that_the_source_is_about_to_name_are_its_own() {
    let mut node = Node::new(config());
    assert_eq!(node.step(Event::Leftovers(vec!["1".into(), "9".into()])), [""; 0]);
    node.step(relist(&[("a", "1")]));
    assert_eq!(node.step(source(&[("a", "1")])), ["sync 1", "map 1", "remove 9 grace 30"]);
}

#[test]
fn a_pod_whose_manifest_went_while_the_agent_was_down_leaves_nothing() {
    // Refused or ended: the runtime may have nothing of it, only the agent's own file is left.
    let refused = Failure { reason: Reason::OutOfpods, message: "full".into(), disruption: false };
    let saved = vec![saved("a", "1", Some(refused)), saved("b", "2", None)];
    let mut node = Node::new(StateConfig { saved, ..config() });
    node.step(relist(&[]));
    assert_eq!(node.step(source(&[("b", "2")])), ["remove 1 grace 5", "sync 2"]);
    assert_eq!(node.step(report("1", WorkerOutcome::Removed, nothing())), ["forget 1"]);
}

#[test]
fn a_list_from_before_a_removal_does_not_bring_the_pod_back() {
    let mut node = node_with_a_pod();
    let began = node.now;
    node.step(source(&[]));
    assert_eq!(node.step(report("1", WorkerOutcome::Removed, nothing())), ["forget 1"]);
    let Event::Relisted(mut list) = relist(&[("a", "1")]) else { unreachable!() };
    list.listed_at = began;
    assert_eq!(node.step(Event::Relisted(list.clone())), [""; 0]);
    list.listed_at = node.now + Duration::from_millis(1);
    assert_eq!(node.step(Event::Relisted(list)), ["remove 1 grace 30", "map 1"], "it is there indeed");
}

#[test]
fn an_eviction_goes_on_over_a_restart_and_nobody_else_is_evicted_meanwhile() {
    let saved = vec![saved("a", "1", evicted())];
    let mut node = Node::new(StateConfig { saved, ..config() });
    node.step(source(&[("a", "1")]));
    let pending = node.state.pod(&"1".into()).unwrap();
    assert_eq!(
        pending.published().unwrap().to_saved().failure,
        evicted(),
        "before the runtime is listed, too"
    );
    assert_eq!(node.step(relist(&[("a", "1")])), ["stop 1 grace 5", "map 1"]);
    assert_eq!(node.state.eviction().evicting().collect::<Vec<_>>(), [&PodUid::from("1")]);
    node.step(stopped("1"));
    assert_eq!(node.state.eviction().evicting().count(), 0);
}

#[test]
fn what_runs_is_counted_before_what_is_new() {
    let mut small = config();
    small.node.max_pods = 1;
    let mut node = Node::new(small);
    node.step(relist(&[("z", "9")]));
    // By name and UID the new one would come first.
    assert_eq!(node.step(source(&[("a", "1"), ("z", "9")])), ["sync 9", "map 9"]);
    let refused = node.state.pod(&"1".into()).unwrap();
    assert!(matches!(refused.mode, Mode::Rejected(_)), "{:?}", refused.mode);
}

#[test]
fn without_the_ring_buffer_samples_come_as_close_as_without_the_programs() {
    let mut node = Node::new(config());
    node.step(Event::KernelSilent("gone".into()));
    let records = node.records();
    assert!(records[0].2.contains("sampler alone"), "{records:?}");
}

#[test]
fn a_manifest_that_moves_keeps_its_pod_and_the_next_start_knows_where_it_is() {
    let mut node = node_with_a_pod();
    let Event::Pods(mut update) = source(&[("a", "1")]) else { unreachable!() };
    update.pods[0].path = "/m/renamed.yaml".into();
    node.state.apply(Event::Pods(update), node.now);
    let moved = node.state.pod(&"1".into()).unwrap();
    assert!(node.state.unpublished().any(|pod| Arc::ptr_eq(pod, moved.published().unwrap())));
    assert_eq!(moved.published().unwrap().to_saved().manifest_path, Some("/m/renamed.yaml".into()));
}

/// A report without a read: the worker panicked, or could not reach the runtime.
fn failed_without_a_read(uid: &str) -> Event {
    let Event::Worker(failed) = failed(uid) else { unreachable!() };
    Event::Worker(WorkerReport { runtime: None, ..failed })
}

/// Behind an API server the pod would lose its endpoints.
#[test]
fn a_worker_that_panics_says_nothing_of_its_pod() {
    let mut node = node_with_a_pod();
    let status = |node: &Node| {
        node.state.pod(&"1".into()).unwrap().published().unwrap().to_saved().pod.status.unwrap()
    };
    let waiting =
        vec![ContainerWaiting { container: "c".into(), reason: "r".into(), message: String::new() }];
    let outcome = WorkerOutcome::Synced { next_sync_in: None, waiting, settled: false };
    node.step(report("1", outcome, running("1", 42)));
    let before = status(&node);
    assert_eq!(before.phase.as_deref(), Some("Running"));
    assert_eq!(node.step(failed_without_a_read("1")), [""; 0], "nothing new to map or to watch");
    let pod = node.state.pod(&"1".into()).unwrap();
    assert_eq!((status(&node), pod.waiting.len()), (before, 1));
    node.now = node.now + Duration::from_secs(10);
    assert_eq!(node.step(Event::Tick), ["sync 1"], "it is tried again");
}

/// The manifest has gone, somebody has frozen the pod's cgroup, and lets go of it.
#[test]
fn what_happens_in_a_pod_that_could_not_be_ended_has_it_tried_at_once() {
    let mut node = node_with_a_pod();
    node.step(source(&[]));
    assert_eq!(node.step(failed("1")), [""; 0]);
    let died =
        PodLifecycleEvent { pod: "1".into(), kind: PodLifecycleEventKind::ContainerDied, id: "1-c".into() };
    assert_eq!(node.step(Event::Lifecycle(died.clone())), ["remove 1 grace 5"]);
    assert_eq!(node.step(Event::Lifecycle(died)), [""; 0], "it is being tried");
}

/// As the executor has it: each action is noted, then done.
#[test]
fn nothing_is_published_of_a_pod_after_it_is_forgotten() {
    let mut node = node_with_a_pod();
    node.step(source(&[]));
    node.state.apply(report("1", WorkerOutcome::Removed, nothing()), node.now);
    let (mut shown, mut forgotten) = (BTreeSet::from(["1".to_owned()]), false);
    for _ in 0..4 {
        let actions = plan(&node.state, node.now);
        node.state.planned();
        for action in actions {
            node.state.note(&action, node.now);
            match action.kind {
                ActionKind::Pod(PodAction::Publish(pod)) => {
                    shown.insert(PodRef::of(&pod.pod).uid.to_string());
                }
                ActionKind::Pod(PodAction::Forget(uid)) => {
                    forgotten = true;
                    shown.remove(uid.as_str());
                }
                _ => {}
            }
        }
    }
    assert!(forgotten && shown.is_empty(), "{shown:?}");
}

/// The plan held what one of its own actions has overtaken.
#[test]
fn what_is_newer_than_what_was_published_is_published_too() {
    let mut node = node_with_a_pod();
    let before = Arc::clone(node.state.pod(&"1".into()).unwrap().published().unwrap());
    node.state.apply(report("1", WorkerOutcome::Completed { succeeded: true }, nothing()), node.now);
    let publish = Action::pod(PodAction::Publish(before), Reason::PodLifecycleEvent);
    node.state.note(&publish, node.now);
    let newest = node.state.unpublished().next().unwrap();
    assert_ne!(newest.status.phase.as_deref(), Some("Running"));
}

/// Whoever looks at the node meanwhile would take a running pod for one that is only being made.
#[test]
fn a_restarted_agent_keeps_a_pods_status_until_the_runtime_has_been_asked() {
    let status = |node: &Node| {
        let pod = node.state.pod(&"1".into()).unwrap();
        pod.published().unwrap().to_saved().pod.status.unwrap()
    };
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1")]));
    assert_eq!(status(&node).phase.as_deref(), Some("Pending"), "a pod that is new");
    node.step(synced("1"));
    let before = status(&node);
    assert_eq!(before.phase.as_deref(), Some("Running"));

    let saved = Pod { status: Some(before.clone()), ..(*pod("a", "1")).clone() };
    let saved = SavedPod { pod: saved, ..super::saved("a", "1", None) };
    let mut node = Node::new(StateConfig { saved: vec![saved], ..config() });
    node.step(relist(&[("a", "1")]));
    node.step(source(&[("a", "1")]));
    assert_eq!(status(&node), before);
    node.step(failed_without_a_read("1"));
    assert_eq!(status(&node), before, "its first read failed");
    let nothing = done();
    node.step(report("1", nothing, PodRuntimeStatus::default()));
    assert_eq!(status(&node).phase.as_deref(), Some("Pending"), "it is gone, and the worker says so");
}
