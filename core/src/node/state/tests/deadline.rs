//! Pods that may be active for so long only.

use super::*;

/// `a`, with two seconds.
fn named(seconds: i64) -> Event {
    let mut pod = (*pod("a", "1")).clone();
    pod.spec.as_mut().unwrap().active_deadline_seconds = Some(seconds);
    let named = SourcePod { path: "/m/a.yaml".into(), pod: Arc::new(pod), own_uid: true };
    Event::Pods(PodUpdate { source: PodSource::File, pods: vec![named], rejected: Vec::new() })
}

fn ended() -> PodRuntimeStatus {
    let mut ended = running("1", 42);
    (ended.containers[0].state, ended.containers[0].pid) = (ContainerState::Exited, None);
    ended
}

fn told(node: &Node) -> (String, String) {
    let status = node.state.pod(&"1".into()).unwrap().published().unwrap().status.clone();
    (status.phase.clone().unwrap_or_default(), status.reason.clone().unwrap_or_default())
}

#[test]
fn a_pod_whose_time_is_over_ends_and_has_failed_when_it_has() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    // From the second in which it was first seen on.
    assert_eq!(node.step(named(2)), ["sync 1"]);
    node.step(synced("1"));
    assert!(node.state.next_wakeup() <= Mono::from_millis(3000));
    node.now = Mono::from_millis(2990);
    assert_eq!(node.step(Event::Tick), [""; 0]);
    node.records();
    node.now = Mono::from_millis(2999);
    assert_eq!(node.step(Event::Tick), ["stop 1 grace 5"]);
    let records = node.records();
    assert!(
        records.iter().any(|(kind, r, _)| (*kind, *r) == (Kind::Pod, Reason::DeadlineExceeded)),
        "{records:?}"
    );
    assert_eq!(told(&node), ("Running".into(), String::new()), "a controller replaces it only then");

    let stopped = WorkerOutcome::Stopped { took: Duration::from_millis(80), killed: false };
    assert_eq!(node.step(report("1", stopped, ended())), [""; 0]);
    assert_eq!(told(&node), ("Failed".into(), "DeadlineExceeded".into()));
    node.step(report("1", WorkerOutcome::CleanedUp, ended()));
    node.now = node.now + Duration::from_secs(3600);
    let later = node.step(Event::Tick);
    assert!(!later.iter().any(|action| action.contains('1')), "a static pod does not come back: {later:?}");
    assert_eq!(node.step(source(&[])), ["remove 1 grace 5", "map 1"]);
    assert_eq!(told(&node), ("Failed".into(), "DeadlineExceeded".into()), "also while it is removed");
}

#[test]
fn a_deadline_may_come_later_or_be_over_when_the_agent_starts() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(named(3600));
    node.step(synced("1"));
    assert_eq!(node.step(named(1)), ["sync 1"], "not yet over");
    node.step(synced("1"));
    node.now = Mono::from_millis(2000);
    assert_eq!(node.step(Event::Tick), ["stop 1 grace 5"]);

    // It was at it when the last agent ended.
    let failure = Failure { reason: Reason::DeadlineExceeded, message: "over".into(), disruption: false };
    let saved = SavedPod { manifest_path: Some("/m/a.yaml".into()), ..saved("a", "1", Some(failure)) };
    let mut node = Node::new(StateConfig { saved: vec![saved], ..config() });
    node.step(relist(&[("a", "1")]));
    assert_eq!(node.step(source(&[("a", "1")])), ["stop 1 grace 5", "map 1"]);
}
