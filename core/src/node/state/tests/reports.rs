//! What workers and the kernel tell of a pod.

use super::*;

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
