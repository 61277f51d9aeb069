use serde_json::{Value, json};

use super::*;
use crate::brake::{Gear, Held};
use crate::pod::probe::ProbeMessage;

const OFFSET: i64 = 1_700_000_000 * 1_000_000_000;
const T0: Mono = Mono::from_millis(1_000_000);

fn at(s: u64) -> Mono {
    T0 + Duration::from_secs(s)
}

fn second(at: Mono) -> u64 {
    at.since(T0).as_secs()
}

fn published(uid: &str, probes: Value, id: &str, probing: Probing) -> PublishedPod {
    let mut container = json!({"name": "c"});
    for (name, probe) in probes.as_object().unwrap() {
        container[name] = probe.clone();
    }
    let pod = json!({"metadata": {"uid": uid, "namespace": "ns", "name": uid}, "spec": {"containers": [container]}});
    let status = json!({"podIP": "10.0.0.1", "containerStatuses": [{"name": "c", "image": "", "imageID": "",
        "restartCount": 0, "containerID": format!("containerd://{id}"), "ready": false, "started": true,
        "state": {"running": {"startedAt": "2023-11-14T22:30:00Z"}}}]});
    PublishedPod {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        status: Arc::new(serde_json::from_value(status).unwrap()),
        probing,
        ..PublishedPod::default()
    }
}

fn snapshot(pods: Vec<PublishedPod>) -> NodeSnapshot {
    let pods = pods.into_iter().map(|p| (PodRef::of(&p.pod).uid, Arc::new(p))).collect();
    NodeSnapshot { pods, ..NodeSnapshot::default() }
}

fn tcp() -> Value {
    json!({"tcpSocket": {"port": 80}, "periodSeconds": 5, "failureThreshold": 1})
}

/// An agent that has been up for long.
fn prober() -> Prober {
    Prober::new(Mono::ZERO, OFFSET)
}

#[test]
fn what_is_due_and_what_comes_of_it() {
    let (mut prober, held) = (prober(), HeldPods::default());
    let both = json!({"livenessProbe": tcp(), "readinessProbe": tcp()});
    prober.observe(&snapshot(vec![published("p", both, "c1", Probing::All)]), at(0));
    // Both have a tick just now.
    let runs = prober.begin_due(&held, at(0));
    let kinds: Vec<ProbeKind> = runs.iter().map(|r| r.kind).collect();
    assert_eq!(kinds, [ProbeKind::Liveness, ProbeKind::Readiness]);
    assert_eq!((runs[0].address.as_deref(), runs[0].container.id.as_str()), (Some("10.0.0.1"), "c1"));
    assert_eq!(prober.next_wakeup(), None, "both are under way");
    let report = prober.ended(&runs[1], ProbeOutcome::Success, &held, at(0)).unwrap();
    assert_eq!((report.kind, report.verdict, report.message), (ProbeKind::Readiness, Some(true), None));
    assert_eq!(prober.next_wakeup().map(second), Some(5));
    let report = prober.ended(&runs[0], ProbeOutcome::Failure("no".into()), &held, at(0)).unwrap();
    assert_eq!(report.verdict, Some(false));
    assert_eq!(report.message, Some(ProbeMessage::Unhealthy("Liveness probe failed: no".into())));
    // The container is ended for it, and asked nothing more by that probe.
    assert_eq!(prober.begin_due(&held, at(5)).len(), 1);
    assert!(prober.begin_due(&held, at(5)).is_empty());
}

#[test]
fn who_is_probed() {
    let both = || json!({"livenessProbe": tcp(), "readinessProbe": tcp()});
    let held = HeldPods::default();
    for (probing, expected) in [(Probing::Nothing, 0), (Probing::Readiness, 1), (Probing::All, 2)] {
        let mut prober = prober();
        prober.observe(&snapshot(vec![published("p", both(), "c1", probing)]), at(0));
        assert_eq!(prober.begin_due(&held, at(0)).len(), expected, "{probing:?}");
        prober.observe(&NodeSnapshot::default(), at(1));
        assert_eq!(prober.next_wakeup(), None);
    }
    let mut prober = prober();
    prober.observe(&snapshot(vec![published("p", json!({}), "c1", Probing::All)]), at(0));
    assert!(prober.pods.is_empty() && prober.next_wakeup().is_none());
}

#[test]
fn a_pod_that_is_held_does_not_fail() {
    let (mut prober, mut held) = (prober(), HeldPods::default());
    let liveness = json!({"livenessProbe": tcp()});
    prober.observe(&snapshot(vec![published("p", liveness, "c1", Probing::All)]), at(0));
    let pod = Held::pod(&"p".into());
    let run = prober.begin_due(&held, at(0)).remove(0);
    held.geared(&pod, Gear::Frozen, at(0));
    held.geared(&pod, Gear::Free, at(1));
    let failed = || ProbeOutcome::Failure("timed out".into());
    assert_eq!(prober.ended(&run, failed(), &held, at(1)), None);
    // Not even asked while it stands still: its turn is the next tick.
    held.geared(&pod, Gear::Frozen, at(4));
    assert!(prober.begin_due(&held, at(5)).is_empty());
    assert_eq!(prober.next_wakeup().map(second), Some(10));
    held.geared(&pod, Gear::Free, at(6));
    let run = prober.begin_due(&held, at(10)).remove(0);
    assert_eq!(prober.ended(&run, failed(), &held, at(11)).and_then(|r| r.verdict), Some(false));
}

/// A success while held counts, and so does what another pod fails.
#[test]
fn a_hold_excuses_failures_of_its_own_pod_alone() {
    let (mut prober, mut held) = (prober(), HeldPods::default());
    let pods = ["p", "q"].map(|uid| published(uid, json!({"readinessProbe": tcp()}), "c1", Probing::All));
    prober.observe(&snapshot(pods.to_vec()), at(0));
    let runs = prober.begin_due(&held, at(0));
    held.geared(&Held::pod(&"p".into()), Gear::Frozen, at(0));
    let verdicts: Vec<Option<bool>> = [ProbeOutcome::Success, ProbeOutcome::Failure("no".into())]
        .into_iter()
        .zip(&runs)
        .map(|(outcome, run)| prober.ended(run, outcome, &held, at(0)).and_then(|r| r.verdict))
        .collect();
    assert_eq!(verdicts, [Some(true), Some(false)]);
}

#[test]
fn a_restarted_agent_spreads_its_probes() {
    let mut prober = Prober::new(at(0), OFFSET);
    let pods: Vec<_> = (0..50)
        .map(|n| published(&format!("pod-{n}"), json!({"livenessProbe": tcp()}), "c1", Probing::All))
        .collect();
    prober.observe(&snapshot(pods), at(0));
    let held = HeldPods::default();
    let by_second: Vec<usize> = (0..=5).map(|s| prober.begin_due(&held, at(s)).len()).collect();
    assert_eq!(by_second.iter().sum::<usize>(), 50, "{by_second:?}");
    assert!(by_second.iter().all(|n| *n < 30), "{by_second:?}");
}

#[test]
fn a_new_instance_and_a_new_manifest() {
    let (mut prober, held) = (prober(), HeldPods::default());
    let readiness = |id| published("p", json!({"readinessProbe": tcp()}), id, Probing::All);
    prober.observe(&snapshot(vec![readiness("c1")]), at(0));
    let run = prober.begin_due(&held, at(0)).remove(0);
    // Another object of the same content, as after an update; and another container.
    prober.observe(&snapshot(vec![readiness("c2")]), at(1));
    assert!(prober.begin_due(&held, at(1)).is_empty(), "one run at a time");
    assert_eq!(prober.ended(&run, ProbeOutcome::Success, &held, at(2)), None, "of the instance before");
    let run = prober.begin_due(&held, at(2)).remove(0);
    assert_eq!(run.container.id, "c2");
    assert!(prober.ended(&run, ProbeOutcome::Success, &held, at(2)).is_some());
}
