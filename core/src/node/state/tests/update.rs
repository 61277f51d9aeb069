//! A known pod whose manifest changed under the same UID.

use serde_json::{Value, json};

use super::sources::{asks, gone, has_stopped, list, mode, pod_with};
use super::*;
use crate::node::action::Action;
use PodSource::{Api, File};

fn node_with(pods: &[Arc<Pod>]) -> Node {
    let mut node = Node::new(StateConfig { sources: [File, Api].into(), ..config() });
    node.step(relist(&[]));
    node.step(list(Api, &[]));
    node.step(list(File, pods));
    for pod in pods {
        node.step(synced(pod.metadata.uid.as_deref().unwrap()));
    }
    node.records();
    node
}

fn labelled(label: &str) -> Value {
    json!({ "labels": { "app": label } })
}

fn container(image: &str, command: &str) -> Value {
    json!({ "containers": [{ "name": "c", "image": image, "command": [command] }] })
}

#[test]
fn what_the_api_server_lets_change_is_changed_in_place() {
    let before = pod_with("a", "1", labelled("old"), container("i", "run"));
    for (what, meta, spec) in [
        ("labels", labelled("new"), container("i", "run")),
        (
            "annotations",
            json!({ "labels": {"app": "old"}, "annotations": {"k": "v"} }),
            container("i", "run"),
        ),
        ("image", labelled("old"), container("i:2", "run")),
        (
            "grace",
            labelled("old"),
            json!({ "containers": [{"name": "c", "image": "i", "command": ["run"]}], "terminationGracePeriodSeconds": 7 }),
        ),
    ] {
        let mut node = node_with(&[Arc::clone(&before)]);
        let after = pod_with("a", "1", meta, spec);
        node.now = node.now + Duration::from_millis(1);
        node.state.apply(list(File, &[Arc::clone(&after)]), node.now);
        let actions = plan(&node.state, node.now);
        let sent = actions.iter().find_map(|a| match &a.kind {
            ActionKind::Pod(PodAction::Dispatch { order: WorkOrder::Sync { pod, .. }, .. }) => {
                Some((pod.clone(), a.reason))
            }
            _ => None,
        });
        assert_eq!(sent, Some((Arc::clone(&after), Reason::PodUpdated)), "{what}");
        let saves = |a: &&Action| matches!(&a.kind, ActionKind::Pod(PodAction::Publish(p)) if p.pod.spec == after.spec);
        assert_eq!(actions.iter().filter(saves).count(), 1, "{what}: it is saved as it is now");
        assert_eq!(node.records().iter().filter(|(_, r, _)| *r == Reason::PodUpdated).count(), 1);
        let known = node.state.pod(&"1".into()).unwrap();
        assert_eq!(known.candidate.grace_period, known.grace_period());
        // The same list again says nothing new.
        node.step(Event::Tick);
        node.step(synced("1"));
        assert_eq!(node.step(list(File, &[after])), [""; 0], "{what}");
        assert_eq!(node.records(), []);
    }
}

#[test]
fn anything_else_of_a_static_pod_with_its_own_uid_makes_a_new_run() {
    let before = pod_with("a", "1", json!({}), container("i", "run"));
    let guaranteed =
        json!({"limits": {"cpu": 1, "memory": "10Mi"}, "requests": {"cpu": 1, "memory": "10Mi"}});
    for (what, after) in [
        ("command", pod_with("a", "1", json!({}), container("i", "walk"))),
        ("name", pod_with("b", "1", json!({}), container("i", "run"))),
        (
            "QoS class",
            pod_with(
                "a",
                "1",
                json!({}),
                json!({ "containers": [{"name": "c", "image": "i", "command": ["run"], "resources": guaranteed}] }),
            ),
        ),
    ] {
        let mut node = node_with(&[Arc::clone(&before)]);
        assert_eq!(node.step(list(File, &[Arc::clone(&after)])), ["remove 1 grace 5"], "{what}");
        assert_eq!(node.step(list(File, &[Arc::clone(&after)])), [""; 0], "{what}");
        assert_eq!(node.step(gone("1")), ["forget 1", "sync 1"], "{what}");
        assert_eq!(node.state.pod(&"1".into()).unwrap().pod, after, "{what}");
    }
}

#[test]
fn a_run_does_not_end_for_one_that_would_be_refused() {
    let mut node = node_with(&[asks("a", "1", 100), asks("b", "2", 100)]);
    let list_of = |mib| list(File, &[asks("a", "1", mib), asks("b", "2", 100)]);
    for _ in 0..2 {
        assert_eq!(node.step(list_of(201)), [""; 0]);
    }
    let told: Vec<_> = node.records().into_iter().filter(|(_, r, _)| *r == Reason::OutOfmemory).collect();
    assert!(told.len() == 1 && told[0].2.contains("runs on as it is"), "{told:?}");
    assert_eq!(node.step(list_of(200)), ["remove 1 grace 5"]);
}

#[test]
fn an_edit_gives_a_pod_that_has_failed_or_ended_another_run() {
    let refused = |mib| list(File, &[asks("a", "1", mib)]);
    let mut node = node_with(&[]);
    assert_eq!(node.step(refused(400)), [""; 0]);
    assert!(matches!(mode(&node, "1"), Mode::Rejected(_)));
    assert_eq!(node.step(refused(200)), ["sync 1"]);
    node.step(report("1", WorkerOutcome::Completed { succeeded: true }, PodRuntimeStatus::default()));
    node.step(has_stopped("1"));
    assert_eq!(node.step(refused(150)), ["remove 1 grace 5"]);
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 1"]);
}

#[test]
fn a_deletion_ends_the_pod_within_its_own_grace_and_it_does_not_come_back() {
    let deleted = |seconds: Option<i64>| {
        let mut meta = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        if let Some(seconds) = seconds {
            meta["deletionGracePeriodSeconds"] = json!(seconds);
        }
        pod_with("a", "1", meta, json!({}))
    };
    for source in [File, Api] {
        let mut node = node_with(&[]);
        node.step(list(source, &[pod("a", "1")]));
        node.step(synced("1"));
        assert_eq!(node.step(list(source, &[deleted(None)])), ["remove 1 grace 5"]);
        assert_eq!(node.step(list(source, &[deleted(Some(9))])), [""; 0], "a grace does not grow");
        assert_eq!(node.step(list(source, &[deleted(Some(3))])), ["remove 1 grace 3"]);
        assert_eq!(node.step(gone("1")), ["forget 1"]);
        assert_eq!(node.step(list(source, &[deleted(Some(3))])), [""; 0], "it is done with");
        node.step(list(source, &[]));
        // Named anew, it is wanted anew.
        assert_eq!(node.step(list(source, &[pod("a", "1")])), ["sync 1"]);
        // One that is to be deleted when it is first seen is only cleared away.
        assert_eq!(node.step(list(source, &[pod("a", "1"), pod_deleted("2")])), ["remove 2 grace 1"]);
    }
}

fn pod_deleted(uid: &str) -> Arc<Pod> {
    let meta = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 1 });
    pod_with("b", uid, meta, json!({}))
}

#[test]
fn a_resource_version_or_a_status_is_no_change() {
    let mut node = node_with(&[pod("a", "1")]);
    let mut same = (*pod("a", "1")).clone();
    same.metadata.resource_version = Some("12".into());
    same.status = Some(Default::default());
    assert_eq!(node.step(list(File, &[Arc::new(same)])), [""; 0]);
    assert_eq!(node.records(), []);
}

/// An agent that starts on what another has left; the manifest of pod 1, which gives itself its UID, is another now.
#[test]
fn an_edit_while_no_agent_ran_is_settled_as_one_that_is_seen() {
    let before = pod_with("a", "1", json!({}), container("i", "run"));
    let edited = pod_with("a", "1", json!({}), container("i", "walk"));
    let image = pod_with("a", "1", json!({}), container("i:2", "run"));
    let renamed = pod_with("b", "1", json!({}), container("i", "run"));
    let of = |phase: &str| {
        let mut pod = (*before).clone();
        pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        SavedPod { pod, ..saved("a", "1", None) }
    };
    let failed = |disruption| SavedPod {
        failure: Some(Failure { reason: Reason::Evicted, message: "low on memory".into(), disruption }),
        ..of("Failed")
    };
    let anew: &[&str] = &["remove 1 grace 5"];
    for (what, saved, runs, now, expected) in [
        ("edited", of("Running"), true, &edited, &["remove 1 grace 5", "map 1"][..]),
        ("renamed", of("Running"), true, &renamed, &["remove 1 grace 5", "map 1"]),
        ("another image", of("Running"), true, &image, &["sync 1", "map 1"]),
        ("as it was", of("Running"), true, &before, &["sync 1", "map 1"]),
        ("edited, the node has booted", of("Running"), false, &edited, anew),
        ("as it was, the node has booted", of("Running"), false, &before, &["sync 1"]),
        ("edited, done", of("Succeeded"), false, &edited, anew),
        ("another image, done", of("Succeeded"), false, &image, anew),
        ("as it was, done", of("Succeeded"), false, &before, &[]),
        ("edited, evicted", failed(true), false, &edited, anew),
        (
            "edited, evicted, and its end was not over",
            failed(true),
            true,
            &edited,
            &["remove 1 grace 5", "map 1"],
        ),
        ("as it was, evicted", failed(true), false, &before, &["stop 1 grace 0"]),
        ("edited, had been refused", failed(false), false, &edited, &["sync 1"]),
    ] {
        let mut node = Node::new(StateConfig { saved: vec![saved.clone()], ..config() });
        node.step(relist(if runs { &[("a", "1")] } else { &[] }));
        // Whether it may run after a refusal for pressure is known once there is none.
        node.step(reading(node.now, Reason::SampleDue, 20 * MIB, &[]));
        node.step(resources::disk(900, &[]));
        assert_eq!(node.step(list(File, &[Arc::clone(now)])), expected, "{what}");
        let is_replaced = expected.first().is_some_and(|first| first.starts_with("remove"));
        let known = node.state.pod(&"1".into()).unwrap();
        assert_eq!(
            known.pod.spec == now.spec && known.id.name == PodRef::of(now).name,
            !is_replaced || now == &before,
            "{what}: it ends as it was"
        );
        assert_eq!(node.step(list(File, &[Arc::clone(now)])), [""; 0], "{what}: told again");
        if is_replaced {
            assert_eq!(node.step(gone("1")), ["forget 1", "sync 1"], "{what}");
            assert_eq!(node.state.pod(&"1".into()).unwrap().pod, *now, "{what}");
        }
    }
}

#[test]
fn another_agents_defaults_are_no_edit_of_a_manifest_that_is_named_by_its_content() {
    let saved = SavedPod {
        pod: (*pod_with("a", "1", json!({}), container("i", "run"))).clone(),
        ..saved("a", "1", None)
    };
    let mut node = Node::new(StateConfig { saved: vec![saved], ..config() });
    node.step(relist(&[("a", "1")]));
    assert_eq!(node.step(source(&[("a", "1")])), ["sync 1", "map 1"]);
}

#[test]
fn an_edit_while_no_agent_ran_does_not_end_a_run_for_one_that_would_be_refused() {
    let saved = SavedPod { pod: (*asks("a", "1", 100)).clone(), ..saved("a", "1", None) };
    let mut node = Node::new(StateConfig { saved: vec![saved], ..config() });
    node.step(relist(&[("a", "1")]));
    for expected in [&["sync 1", "map 1"][..], &[]] {
        assert_eq!(node.step(list(File, &[asks("a", "1", 400)])), expected);
        assert_eq!(node.state.pod(&"1".into()).unwrap().pod, asks("a", "1", 100));
    }
    let told: Vec<_> = node.records().into_iter().filter(|(_, r, _)| *r == Reason::OutOfmemory).collect();
    assert!(told.len() == 1 && told[0].2.contains("runs on as it is"), "{told:?}");
    assert_eq!(node.step(list(File, &[asks("a", "1", 200)])), ["remove 1 grace 5"]);
}
