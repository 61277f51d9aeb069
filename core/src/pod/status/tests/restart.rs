//! Ephemeral containers, and pods all of whose containers start again.

use super::*;

fn with_rule() -> Case {
    let mut case = case("Never", &["i"], &["a", "b"], vec![exited("a", 42), running("b"), exited("i", 0)]);
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let container = &mut case.pod.spec.as_mut().unwrap().containers[0];
    container.restart_policy = Some("Never".to_owned());
    container.restart_policy_rules = serde_json::from_value(rule).unwrap();
    case
}

#[test]
fn all_containers_start_again() {
    let mut case = with_rule();
    let told = case.json();
    let restarting = condition(&told, "AllContainersRestarting");
    assert_eq!(
        (&restarting["status"], &restarting["reason"]),
        (&json!("True"), &json!("RestartAllContainersStarted"))
    );
    assert_eq!(told["phase"], "Running");
    // All are removed.
    case.previous = Some(case.status());
    case.runtime.containers.clear();
    let removed = case.json();
    assert_eq!(condition(&removed, "AllContainersRestarting")["status"], "False");
    assert_eq!(condition(&removed, "Initialized")["status"], "True");
    assert_eq!(removed["phase"], "Running");
    for status in [
        &removed["containerStatuses"][0],
        &removed["containerStatuses"][1],
        &removed["initContainerStatuses"][0],
    ] {
        assert_eq!(status["state"]["waiting"]["reason"], "RestartingAllContainers", "{status}");
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 137);
        assert_eq!(status["restartCount"], 1);
    }
    // The first runs again.
    case.previous = Some(case.status());
    let again = ContainerStatus { id: "id2".into(), restart_count: 1, ..running("i") };
    case.runtime.containers = vec![again];
    let begun = case.json();
    assert_eq!(
        begun["initContainerStatuses"][0]["lastState"]["terminated"]["reason"],
        "RestartingAllContainers"
    );
    assert_eq!(begun["initContainerStatuses"][0]["restartCount"], 1);
    assert_eq!(begun["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(begun["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(condition(&with_rule().json(), "Nothing"), Value::Null);
}

#[test]
fn phases_by_policies_of_containers() {
    for (of_pod, own, code, phase) in [
        ("Always", None, 0, "Running"),
        ("Always", Some("Never"), 0, "Succeeded"),
        ("Always", Some("Never"), 1, "Failed"),
        ("Never", Some("OnFailure"), 1, "Running"),
        ("Never", Some("OnFailure"), 0, "Succeeded"),
    ] {
        let mut case = case(of_pod, &[], &["a"], vec![exited("a", code)]);
        case.pod.spec.as_mut().unwrap().containers[0].restart_policy = own.map(str::to_owned);
        assert_eq!(case.json()["phase"], phase, "{of_pod} {own:?} {code}");
    }
}

#[test]
fn ephemeral_containers_have_a_list_of_their_own() {
    let mut case = case("Never", &[], &["a"], vec![running("debug"), exited("a", 0)]);
    let ephemeral = json!([{"name": "debug", "image": "img"}, {"name": "another", "image": "img"}]);
    case.pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(ephemeral).unwrap();
    let status = case.json();
    assert_eq!(status["phase"], "Succeeded", "they say nothing of the pod");
    let [another, debug] = [0, 1].map(|index| status["ephemeralContainerStatuses"][index].clone());
    assert_eq!((&another["name"], &debug["name"]), (&json!("another"), &json!("debug")));
    assert_eq!(another["state"]["waiting"]["reason"], "ContainerCreating");
    assert!(
        debug["state"]["running"].is_object() && debug["ready"] == false && debug.get("started").is_none()
    );
}

#[test]
fn what_a_container_ended_of_before_outlives_its_instance() {
    let mut case = case("Always", &[], &["a"], vec![exited("a", 3)]);
    case.previous = Some(case.status());
    case.runtime.containers = vec![ContainerStatus { id: "id2".into(), restart_count: 1, ..running("a") }];
    for _ in 0..2 {
        let status = case.json();
        assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
        case.previous = Some(case.status());
    }
}
