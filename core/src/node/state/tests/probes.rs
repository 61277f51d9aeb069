//! What the prober tells, and what follows from it.

use serde_json::json;

use super::*;
use crate::node::published::Probing;
use crate::pod::probe::{ProbeKind, ProbeMessage, ProbeReport};
use ProbeKind::{Liveness, Readiness, Startup};

fn probed_pod() -> Arc<Pod> {
    let mut pod = (*pod("a", "1")).clone();
    let probe = || serde_json::from_value(json!({"exec": {"command": ["true"]}})).unwrap();
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.startup_probe = Some(probe());
    container.readiness_probe = Some(probe());
    container.liveness_probe = Some(probe());
    Arc::new(pod)
}

fn named(pod: Arc<Pod>) -> Event {
    let pods = vec![SourcePod { path: "/m/a.yaml".into(), pod, own_uid: false }];
    Event::Pods(PodUpdate { source: PodSource::File, pods, rejected: Vec::new() })
}

fn told(kind: ProbeKind, verdict: Option<bool>, message: Option<&str>) -> Event {
    let container = ContainerInstance { name: "c".into(), id: "1-c".into() };
    let message = message.map(|text| ProbeMessage::Unhealthy(text.into()));
    Event::Probe(ProbeReport { pod: "1".into(), container, kind, verdict, message })
}

fn running_node(config: StateConfig) -> Node {
    let mut node = Node::new(config);
    node.step(relist(&[]));
    node.step(named(probed_pod()));
    node.step(synced("1"));
    node.records();
    node
}

impl Node {
    /// `started` and `ready` of the container, Ready of the pod, as published.
    fn health(&self) -> (bool, bool, bool) {
        let published = self.state.pod(&"1".into()).unwrap().published().unwrap();
        let container = &published.status.container_statuses.as_ref().unwrap()[0];
        let conditions = published.status.conditions.as_ref().unwrap();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        (container.started == Some(true), container.ready, ready)
    }

    fn probing(&self) -> Probing {
        self.state.pod(&"1".into()).unwrap().published().unwrap().probing
    }
}

#[test]
fn verdicts_become_status() {
    let mut node = running_node(config());
    assert_eq!((node.health(), node.probing()), ((false, false, false), Probing::All));
    assert_eq!(
        node.step(told(Startup, Some(true), None)),
        ["sync 1"],
        "a sidecar's successor may wait for it"
    );
    node.step(synced("1"));
    assert_eq!(node.health(), (true, false, false));
    assert_eq!(node.step(told(Readiness, Some(true), None)), [""; 0], "a status is all that changes");
    assert_eq!(node.health(), (true, true, true));
    assert_eq!(node.records(), []);
    let text = "Readiness probe failed: no";
    assert_eq!(node.step(told(Readiness, Some(false), Some(text))), [""; 0]);
    assert_eq!(node.health(), (true, false, false));
    assert_eq!(node.records(), [(Kind::Warning, Reason::Unhealthy, text.to_owned())]);
}

/// kubelet ran the pod until now.
#[test]
fn another_agents_verdicts_go_on() {
    let mut pod = (*probed_pod()).clone();
    pod.status = serde_json::from_value(json!({
        "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        "containerStatuses": [{ "name": "c", "image": "i", "imageID": "i", "restartCount": 0,
            "containerID": "containerd://1-c", "started": true, "ready": true, "state": { "running": {} } }],
    }))
    .unwrap();
    let mut node = Node::new(StateConfig { sources: [PodSource::Api].into(), ..config() });
    node.step(relist(&[("a", "1")]));
    let named = SourcePod { path: "/p".into(), pod: Arc::new(pod), own_uid: false };
    node.step(Event::Pods(PodUpdate { source: PodSource::Api, pods: vec![named], rejected: Vec::new() }));
    assert_eq!(node.health(), (true, true, true));
    node.step(synced("1"));
    assert_eq!(node.health(), (true, true, true));
    let conditions = node.state.pod(&"1".into()).unwrap().published().unwrap().status.conditions.clone();
    let since = conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Ready")
        .and_then(|c| c.last_transition_time.as_ref());
    assert!(since.is_some_and(|at| at.0.to_string().starts_with("2026-01-01")), "{since:?}");
}

#[test]
fn a_container_that_failed_is_ended_by_the_next_sync() {
    for (kind, reason, word) in [
        (Liveness, Reason::LivenessProbeFailed, "liveness"),
        (Startup, Reason::StartupProbeFailed, "startup"),
    ] {
        let mut node = running_node(config());
        node.now = node.now + Duration::from_millis(1);
        node.state.apply(told(kind, Some(false), None), node.now);
        let sent = plan(&node.state, node.now).into_iter().find_map(|a| match a.kind {
            ActionKind::Pod(PodAction::Dispatch { order: WorkOrder::Sync { probes, .. }, .. }) => {
                Some((a.reason, probes.failed("1-c")))
            }
            _ => None,
        });
        assert_eq!(sent, Some((reason, Some(kind))));
        let message = format!("Container c failed {word} probe, will be restarted");
        assert_eq!(node.records(), [(Kind::Pod, reason, message)]);
        // An order that has not been answered is not overtaken; what it did not have comes with the next.
        node.step(Event::Tick);
        assert_eq!(node.step(told(kind, Some(false), None)), [""; 0]);
        assert_eq!(node.step(synced("1")), ["sync 1"]);
    }
}

#[test]
fn nothing_follows_for_a_pod_that_ends_or_an_instance_that_has_gone() {
    let mut node = running_node(config());
    let gone = ContainerInstance { name: "c".into(), id: "old".into() };
    let message = Some(ProbeMessage::Unhealthy("late".into()));
    let late =
        ProbeReport { pod: "1".into(), container: gone, kind: Liveness, verdict: Some(false), message };
    assert_eq!(node.step(Event::Probe(late)), [""; 0]);
    assert_eq!(node.records(), []);
    node.step(source(&[]));
    assert_eq!(node.probing(), Probing::Readiness);
    node.records();
    assert_eq!(node.step(told(Liveness, Some(false), None)), [""; 0]);
    assert_eq!(node.records(), []);
    // It is out of its Services as soon as it does not answer.
    node.step(told(Readiness, Some(false), Some("no")));
    assert_eq!(node.records().len(), 1);
}

/// kubernetes#100277.
#[test]
fn an_agent_that_starts_again_takes_the_last_verdicts_over() {
    let status = json!({"phase": "Running", "containerStatuses": [{"name": "c", "image": "i", "imageID": "i",
        "restartCount": 0, "containerID": "containerd://1-c", "started": true, "ready": true,
        "state": {"running": {}}}], "conditions": [{"type": "Ready", "status": "True"}]});
    let mut known = saved("a", "1", None);
    known.pod = (*probed_pod()).clone();
    known.pod.status = serde_json::from_value(status).unwrap();
    let mut node = Node::new(StateConfig { saved: vec![known], ..config() });
    node.step(relist(&[("a", "1")]));
    node.step(named(probed_pod()));
    assert_eq!(node.health(), (true, true, true), "before its worker has read");
    node.step(synced("1"));
    assert_eq!(node.health(), (true, true, true), "after it has");
    node.step(told(Readiness, Some(false), None));
    assert_eq!(node.health(), (true, false, false), "its own word counts");
    // Another instance begins anew.
    let mut restarted = running("1", 43);
    restarted.containers[0].id = "1-d".into();
    node.step(report("1", done(), restarted));
    assert_eq!(node.health(), (false, false, false));
}

#[test]
fn a_gate_opens_without_a_sync() {
    let gated = |status: Option<&str>| {
        let mut pod = (*pod("a", "1")).clone();
        pod.spec.as_mut().unwrap().readiness_gates =
            serde_json::from_value(json!([{"conditionType": "g"}])).unwrap();
        let conditions: Vec<_> = status.map(|s| json!({"type": "g", "status": s})).into_iter().collect();
        pod.status = serde_json::from_value(json!({ "conditions": conditions })).unwrap();
        Arc::new(pod)
    };
    let mut node = running_node(config());
    node.step(source(&[]));
    node.step(report("1", WorkerOutcome::Removed, PodRuntimeStatus::default()));
    node.step(named(gated(None)));
    node.step(synced("1"));
    node.records();
    assert_eq!(node.health(), (true, true, false));
    for (status, ready) in [("True", true), ("False", false)] {
        assert_eq!(node.step(named(gated(Some(status)))), [""; 0]);
        assert_eq!((node.health().2, node.records()), (ready, Vec::new()), "{status}");
    }
}
