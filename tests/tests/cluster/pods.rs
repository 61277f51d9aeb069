//! Pods of the API server on this node, from their creation to their end, and the mirrors of static ones.

use oomlet_tests::cluster::joined::{Joined, obedient, shell};
use oomlet_tests::cluster::{self, condition, deployment};
use oomlet_tests::node::script;
use serde_json::{Value, json};

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && condition(pod, "Ready")["status"] == "True"
}

#[test]
fn a_deployment_becomes_ready_and_goes_in_order() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "deploys");
    let mut spec = obedient();
    spec["automountServiceAccountToken"] = json!(true);
    spec["nodeSelector"] = json!({ "test": "deploys" });
    plane.apply(&deployment("deploys", "web", 3, &spec)).unwrap();
    node.wait_object(&["deployment", "web"], "ready", |web| web["status"]["readyReplicas"] == 3);
    let pods = plane.kubectl_json(&["get", "pods", "--namespace", "deploys"]).unwrap();
    for pod in pods["items"].as_array().unwrap() {
        assert!(pod["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.88.")), "{pod:#}");
        assert_eq!(pod["status"]["hostIP"], xtask::node::NODE_IP);
        // Its service account's token is there, of the node's own identity.
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
        assert_eq!(mounts[0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    }
    plane.kubectl(&["scale", "deployment", "web", "--replicas=1", "--namespace", "deploys"]).unwrap();
    node.wait_object(&["pods"], "one pod", |pods| pods["items"].as_array().is_some_and(|all| all.len() == 1));
    plane.kubectl(&["delete", "deployment", "web", "--namespace", "deploys"]).unwrap();
    node.wait_object(&["pods"], "no pod", |pods| pods["items"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(node.running().unwrap(), [], "what is deleted does not run");
}

#[test]
fn how_a_pod_comes_and_goes_is_told_in_events() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "tells");
    node.run_pod("good", &obedient());
    node.run_pod(
        "crash",
        &json!({ "automountServiceAccountToken": false, "containers": [shell("main", "exit 3")] }),
    );
    let mut absent = shell("main", "true");
    absent["image"] = json!("registry.invalid/none:1");
    node.run_pod("absent", &json!({ "automountServiceAccountToken": false, "containers": [absent] }));
    node.wait_api_pod("good", "running", is_running);
    plane.kubectl(&["delete", "pod", "good", "--namespace", "tells"]).unwrap();
    node.wait("all is told", |_| {
        let has = |pod: &str, reason: &str, message: &str| {
            node.events(pod).iter().any(|(r, _, m)| r == reason && m.contains(message))
        };
        has("good", "Killing", "Stopping container main")
            && has("crash", "BackOff", "Back-off restarting failed container main in pod crash_tells(")
            && has("absent", "ErrImageNeverPull", "is not present with pull policy of Never")
            && has("absent", "Failed", "Error: ErrImageNeverPull")
    });
    let told: Vec<_> = node
        .events("good")
        .into_iter()
        .map(|(reason, count, message)| format!("{reason} x{count}: {message}"))
        .collect();
    for expected in
        ["Pulled x1: Container image", "Created x1: Container created", "Started x1: Container started"]
    {
        assert!(told.iter().any(|line| line.starts_with(expected)), "{expected}: {told:#?}");
    }
    let crash = node.wait_api_pod("crash", "waiting", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert_eq!(crash["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
}

#[test]
fn what_the_node_refuses_is_failed_with_its_reason() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "refuses");
    let put = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut spec = obedient();
        spec["nodeName"] = json!("refuses");
        change(&mut spec);
        let pod = json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "refuses" }, "spec": spec });
        plane.apply(&pod).unwrap();
    };
    put("huge", &|spec| spec["containers"][0]["resources"] = json!({ "requests": { "cpu": "100" } }));
    put("elsewhere", &|spec| spec["nodeSelector"] = json!({ "a": "b" }));
    for (name, reason) in [("huge", "OutOfcpu"), ("elsewhere", "NodeAffinity")] {
        let pod = node.wait_api_pod(name, "Failed", |pod| pod["status"]["phase"] == "Failed");
        assert_eq!(pod["status"]["reason"], reason, "{:#}", pod["status"]);
        let message = pod["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("Pod was rejected: "), "{message}");
        plane.kubectl(&["delete", "pod", name, "--namespace", "refuses"]).unwrap();
    }
}

#[test]
fn a_static_pod_has_a_mirror_that_follows_it() {
    let plane = cluster::shared();
    let mut node = Joined::new(plane, "mirrors");
    let mut manifest = script("web", "trap 'exit 0' TERM; while true; do sleep 0.1; done");
    manifest["metadata"]["namespace"] = json!("mirrors");
    manifest["spec"]["restartPolicy"] = json!("Always");
    node.put(&manifest);
    node.start();
    let mirror = node.wait_api_pod("web-mirrors", "running", is_running);
    assert_eq!(mirror["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    let container = node.container_of_pod("web-mirrors");

    // Deleting it does nothing to the pod, and it comes back.
    let uid = mirror["metadata"]["uid"].clone();
    plane.kubectl(&["delete", "pod", "web-mirrors", "--namespace", "mirrors", "--wait=false"]).unwrap();
    node.wait_api_pod("web-mirrors", "made anew", |pod| pod["metadata"]["uid"] != uid && is_running(pod));
    assert_eq!(node.container_of_pod("web-mirrors"), container);

    node.remove_manifest("web").unwrap();
    node.wait_api_pod_gone("web-mirrors");
    assert_eq!(node.running().unwrap(), []);
}

/// As when its manifest is there before the add-on that brings the namespace.
#[test]
fn a_mirror_waits_for_its_namespace() {
    let plane = cluster::shared();
    let mut node = Joined::new(plane, "early");
    let mut manifest = script("web", "trap 'exit 0' TERM; while true; do sleep 0.1; done");
    manifest["metadata"]["namespace"] = json!("early-later");
    node.put(&manifest);
    node.start();
    node.wait_ready();
    node.wait("it runs without", |_| !node.containers_of_pod("web-early").is_empty());
    node.wait("that is told", |node| node.agent_log().contains("has not been told of the pod"));
    cluster::namespace(plane, "early-later");
    cluster::wait_object(plane, &["pod", "web-early", "--namespace", "early-later"], "there", is_running);
    node.kill_agent().unwrap();
    plane.kubectl(&["delete", "namespace", "early-later", "--wait=false"]).unwrap();
    plane.kubectl(&["delete", "pods", "--all", "--force", "--namespace", "early-later"]).unwrap();
}

/// Its SIGTERM does nothing, and nobody waits for the end of its grace.
#[test]
fn a_pod_that_is_deleted_by_force_does_not_run_on() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "forces");
    let stubborn = json!({ "terminationGracePeriodSeconds": 600, "automountServiceAccountToken": false,
        "containers": [shell("main", "trap '' TERM; while true; do sleep 0.1; done")] });
    let running_anew = |old: &Value| {
        let uid = old["metadata"]["uid"].clone();
        node.wait_api_pod("stubborn", "running anew", move |pod| {
            pod["metadata"]["uid"] != uid && is_running(pod)
        })
    };
    node.run_pod("stubborn", &stubborn);
    let first = node.wait_api_pod("stubborn", "running", is_running);
    let container = node.container_of_pod("stubborn");
    plane.kubectl(&["delete", "pod", "stubborn", "--force", "--namespace", "forces"]).unwrap();
    node.run_pod("stubborn", &stubborn);
    let second = running_anew(&first);
    // It gets the little grace that there always is.
    node.wait("the first has ended", |_| {
        node.containers_of_pod("stubborn").iter().all(|c| c.id != container.id)
    });
    assert_eq!(node.containers_of_pod("stubborn").len(), 1, "its like runs");

    // In order at first, and with less patience then.
    let delete = ["delete", "pod", "stubborn", "--wait=false", "--namespace", "forces"];
    plane.kubectl(&delete).unwrap();
    node.wait_api_pod("stubborn", "to be deleted", |pod| pod["metadata"]["deletionTimestamp"].is_string());
    assert!(!node.containers_of_pod("stubborn").is_empty(), "it has ten minutes");
    plane.kubectl(&[&delete[..], &["--grace-period=1"]].concat()).unwrap();
    node.wait_api_pod_gone("stubborn");
    assert_eq!(node.running().unwrap(), []);
    assert_ne!(second["metadata"]["uid"], first["metadata"]["uid"]);
}
