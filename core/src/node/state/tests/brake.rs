//! A victim is held: what the loop orders, and what the trace tells.

use super::*;

/// Pod `hog` takes what there is, and is evicted.
fn evicted() -> Node {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("hog", "1"), ("idle", "2")]));
    node.step(synced("1"));
    node.step(synced("2"));
    for usage in [200, 210, 220, 235, 245, 245] {
        if use_of(&mut node, usage).iter().any(|action| action == "evict 1") {
            return node;
        }
    }
    panic!("nobody is evicted");
}

/// As read now; all but 10 MiB is the hog's.
fn use_of(node: &mut Node, usage_mib: u64) -> Vec<String> {
    let pods = [("1", (usage_mib - 10) * MIB), ("2", 10 * MIB)];
    let event = reading(node.now + Duration::from_millis(1), Reason::SampleDue, usage_mib * MIB, &pods);
    node.step(event)
}

fn told(node: &mut Node, kind: Kind) -> Vec<(Reason, String)> {
    let records = node.records().into_iter().filter(|(k, ..)| *k == kind);
    records.map(|(_, reason, message)| (reason, message)).collect()
}

fn signalled() -> Event {
    report("1", WorkerOutcome::Signalled, running("1", 42))
}

#[test]
fn a_victim_that_grows_alone_is_held_until_it_has_stopped() {
    let mut node = evicted();
    assert!(node.state.eviction().holds_any());
    let begun = told(&mut node, Kind::Brake);
    assert!(
        matches!(&begun[..], [(Reason::GrowthOutrunsGrace, m)] if m.contains("stands still")),
        "{begun:?}"
    );
    assert_eq!(node.step(signalled()), ["throttled 1"]);
    assert_eq!(use_of(&mut node, 256), ["frozen 1"], "ahead of its budget");
    let stopped = WorkerOutcome::Stopped { took: Duration::from_millis(80), killed: false };
    let ended = node.step(report("1", stopped, PodRuntimeStatus::default()));
    assert!(ended.contains(&"free 1".to_owned()), "{ended:?}");
    assert!(!node.state.eviction().holds_any());
    let reasons: Vec<Reason> = told(&mut node, Kind::Brake).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, [Reason::StopSignalSent, Reason::Evicted], "what lies between is not told");
}

#[test]
fn a_pod_that_cannot_be_held_is_told_of_once_and_is_let_go() {
    let mut node = evicted();
    node.records();
    let failed = || Event::BrakeFailed { held: Held::pod(&"1".into()), error: "no freezer".into() };
    assert_eq!(node.step(failed()), [""; 0]);
    node.now = node.now + Duration::from_millis(10);
    assert_eq!(node.step(failed()), [""; 0], "not at once");
    node.now = node.now + Duration::from_millis(10);
    assert_eq!(node.step(Event::Tick), ["free 1"]);
    assert_eq!(told(&mut node, Kind::Warning), [(Reason::BrakeFailed, "no freezer".to_owned())]);
    assert_eq!(node.step(signalled()), [""; 0]);
}

#[test]
fn what_the_guard_has_let_go_is_held_again() {
    let mut node = evicted();
    node.state.all_were_let_go();
    assert_eq!(node.step(Event::Tick), ["frozen 1"]);
}
