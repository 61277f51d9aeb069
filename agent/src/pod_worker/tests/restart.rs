//! Containers that start again by rules, and ephemeral ones, which never do.

use super::*;
use serde_json::json;

#[tokio::test]
async fn all_containers_start_again_in_their_sandbox() {
    let mut rig = Rig::new();
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]);
    let pod = pod(json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "image": "img:1", "restartPolicy": "Never", "restartPolicyRules": rules},
        {"name": "b", "image": "img:1", "lifecycle": {"preStop": {"sleep": {"seconds": 30}}}}]}));
    rig.running(&pod).await;
    for log in ["a/0.log", "b/0.log"] {
        std::fs::write(rig.dir.path().join("logs/default_web_u1").join(log), "").unwrap();
    }
    rig.fake.lock().unwrap().exit("a", 88);
    // First it is told, then done.
    for there in [2, 0] {
        rig.sync(&pod);
        let report = rig.report().await;
        let WorkerOutcome::Synced { next_sync_in, .. } = report.outcome else { panic!("{report:?}") };
        assert_eq!(next_sync_in, Some((Duration::ZERO, Reason::AllContainersRestarting)));
        assert_eq!(report.runtime.unwrap().containers.len(), there);
    }
    let removed = rig.calls("RemoveContainer");
    assert!(
        removed[0].contains(" b-") && removed[1].contains(" a-"),
        "who brought it about goes last: {removed:?}"
    );
    assert_eq!(rig.calls("ExecSync").len() + rig.calls("StopPodSandbox").len(), 0);
    let again = rig.running(&pod).await;
    let counts: Vec<u32> = ["a", "b"].map(|name| again.container(name).unwrap().restart_count).to_vec();
    assert_eq!((counts, rig.calls("RunPodSandbox").len()), (vec![1, 1], 1));
}

#[tokio::test]
async fn an_ephemeral_container_sees_its_target_and_is_not_started_again() {
    let mut rig = Rig::new();
    let app = json!({"name": "a", "image": "img:1"});
    let before = pod(json!({"containers": [app]}));
    let target = rig.running(&before).await.container("a").unwrap().id.clone();
    let debug = |name: &str, of: &str| json!({"name": name, "image": "img:1", "targetContainerName": of, "stdin": true});
    let debugged = pod(json!({"containers": [app], "ephemeralContainers": [debug("d", "a")]}));
    rig.running(&debugged).await;
    let config = rig.fake.lock().unwrap().state().last_config.clone().unwrap();
    let options = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
    assert_eq!((options.pid, options.target_id), (k8s_cri::v1::NamespaceMode::Target as i32, target));
    assert!(config.stdin);
    rig.fake.lock().unwrap().exit("d", 1);
    let after = rig.running(&debugged).await;
    assert_eq!(after.container("d").unwrap().state, ContainerState::Exited);
    assert_eq!(rig.calls("CreateContainer d").len(), 1);

    let lost =
        pod(json!({"containers": [app], "ephemeralContainers": [debug("d", "a"), debug("e", "none")]}));
    rig.sync(&lost);
    let WorkerOutcome::Failed { waiting, .. } = rig.report().await.outcome else {
        panic!("it has no target")
    };
    assert_eq!(
        (waiting[0].reason.as_str(), waiting[0].message.as_str()),
        ("CreateContainerConfigError", "unable to find target container none")
    );
}
