//! What workers and the kernel tell of a pod.

use super::*;
use crate::node::event::{PodLifecycleEvent, PodLifecycleEventKind};
use crate::pod::runtime_status::SandboxStatus;

#[test]
fn a_failed_sync_is_retried_after_its_back_off_and_told_once() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1")]));
    let failed = || {
        let retry_in = Duration::from_secs(10);
        let error = "image nope is not there".to_owned();
        report(
            "1",
            WorkerOutcome::Failed { reason: Reason::RetryAfterError, error, retry_in, waiting: vec![] },
            PodRuntimeStatus::default(),
        )
    };
    node.records();
    assert_eq!(node.step(failed()), [""; 0]);
    assert_eq!(node.records().len(), 1);
    node.now = node.now + Duration::from_secs(10);
    assert_eq!(node.step(Event::Tick), ["sync 1"]);
    node.step(failed());
    assert_eq!(node.records(), []);
}

#[test]
fn an_exit_seen_by_the_kernel_kicks_pleg() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1")]));
    node.step(synced("1"));
    let kind = KernelEventKind::InitExit { pid: 42 };
    let event = Event::Kernel(KernelEvent { at: node.now, read_at: node.now, kind });
    assert_eq!(node.step(event), ["kick"]);
}

/// PLEG tells of what the worker has made itself, before or after the worker's own report.
#[test]
fn what_its_worker_has_seen_and_has_nothing_to_do_for_is_no_news_of_a_pod() {
    let sandbox =
        SandboxStatus { id: "s".into(), ready: true, created_at_ns: 0, attempt: 0, ips: Vec::new() };
    let read = PodRuntimeStatus { sandboxes: vec![sandbox], ..running("1", 42) };
    let change = |kind| Event::Lifecycle(PodLifecycleEvent { pod: "1".into(), kind, id: "1-c".into() });
    let outcome = |settled| WorkerOutcome::Synced { next_sync_in: None, waiting: Vec::new(), settled };
    for (settled, listed_first) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut node = Node::new(config());
        node.step(relist(&[]));
        node.step(source(&[("a", "1")]));
        let listed = [relist(&[("a", "1")]), change(PodLifecycleEventKind::ContainerStarted)];
        let reported = [report("1", outcome(settled), read.clone())];
        let events: Vec<Event> = if listed_first {
            listed.into_iter().chain(reported).collect()
        } else {
            reported.into_iter().chain(listed).collect()
        };
        let done: Vec<String> = events.into_iter().flat_map(|event| node.step(event)).collect();
        let synced = done.iter().any(|done| done == "sync 1");
        assert_eq!(synced, !settled, "settled {settled}, listed first {listed_first}: {done:?}");
        if settled && listed_first {
            node.now = node.now + Duration::from_secs(600);
            assert_eq!(node.step(Event::Tick), [""; 0], "PLEG would tell");
            let Event::Relisted(mut ended) = relist(&[("a", "1")]) else { unreachable!() };
            ended.pods[0].containers[0].state = ContainerState::Exited;
            node.step(Event::Relisted(ended));
            assert_eq!(node.step(change(PodLifecycleEventKind::ContainerDied)), ["sync 1"]);
        }
    }
}

/// A deleted pod's last status comes from what its worker has read, also where PLEG has not listed since.
#[test]
fn a_list_from_before_keeps_no_pod_from_having_ended() {
    for exit_code in [0, 1] {
        let mut node = Node::new(config());
        node.step(relist(&[]));
        node.step(source(&[("a", "1")]));
        node.step(synced("1"));
        node.step(relist(&[("a", "1")]));
        node.step(source(&[]));
        let mut read = running("1", 42);
        read.containers[0].state = ContainerState::Exited;
        read.containers[0].exit_code = exit_code;
        let stopped = WorkerOutcome::Stopped { took: Duration::from_millis(80), killed: false };
        node.step(report("1", stopped, read));
        let shown = node.state.pod(&"1".into()).unwrap().published().unwrap();
        let expected = if exit_code == 0 { "Succeeded" } else { "Failed" };
        assert_eq!(shown.status.phase.as_deref(), Some(expected));
    }
}
