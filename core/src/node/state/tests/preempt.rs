//! A critical pod, and no room for it.

use super::*;
use serde_json::json;

fn asks(name: &str, uid: &str, cpu: &str, priority: i32) -> SourcePod {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {"priority": priority, "terminationGracePeriodSeconds": 7,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]},
    }));
    SourcePod { path: format!("/{name}").into(), pod: Arc::new(pod.unwrap()), own_uid: false }
}

fn api(pods: Vec<SourcePod>) -> Event {
    Event::Pods(PodUpdate { source: PodSource::Api, pods, rejected: Vec::new() })
}

fn of_api() -> StateConfig {
    StateConfig { sources: BTreeSet::from([PodSource::Api]), ..config() }
}

#[test]
fn others_make_room_for_a_critical_pod() {
    let mut node = Node::new(of_api());
    node.step(relist(&[]));
    let (small, large) = (asks("small", "s", "500m", 0), asks("large", "l", "1", 10));
    node.step(api(vec![small.clone(), large.clone()]));
    node.step(synced("s"));
    node.step(synced("l"));
    let critical = asks("critical", "x", "1", 2_000_000_000);
    let steps = node.step(api(vec![small.clone(), large.clone(), critical.clone()]));
    assert!(
        steps.contains(&"stop s grace 7".to_owned()) && !steps.iter().any(|s| s.contains("sync x")),
        "{steps:?}"
    );
    let published = node.state.pod(&"s".into()).unwrap().published().unwrap().clone();
    assert_eq!(published.status.reason.as_deref(), Some("Preempting"));
    let conditions = published.status.conditions.as_ref().unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "True"));
    let stopped = WorkerOutcome::Stopped { took: Duration::ZERO, killed: false };
    let steps = node.step(report("s", stopped, PodRuntimeStatus::default()));
    assert!(steps.contains(&"sync x".to_owned()), "{steps:?}");
    assert!(!steps.iter().any(|s| s.contains(" l ")), "the other stays: {steps:?}");
}

#[test]
fn nobody_goes_where_it_would_not_help_or_is_not_for_a_critical_pod() {
    for (cpu, priority, expected) in
        [("3", 2_000_000_000, Reason::OutOfcpu), ("2", 1_000_000, Reason::OutOfcpu)]
    {
        let mut node = Node::new(of_api());
        node.step(relist(&[]));
        let other = asks("other", "o", "1", 2_000_000);
        node.step(api(vec![other.clone()]));
        node.step(synced("o"));
        node.step(api(vec![other, asks("wanted", "w", cpu, priority)]));
        let mode = node.state.pod(&"w".into()).unwrap().mode.clone();
        assert!(matches!(&mode, Mode::Rejected(f) if f.reason == expected), "{mode:?}");
        assert_eq!(node.state.pod(&"o".into()).unwrap().mode, Mode::Active);
    }
}
