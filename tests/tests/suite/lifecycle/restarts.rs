//! Restart policies, CrashLoopBackOff, images that are not there.

use oomlet_tests::node::{Node, pod_name, shell};
use oomlet_tests::speed::longest_restart_period_s;
use oomlet_tests::{on_oldest_and_newest_containerd, pod};
use serde_json::{Value, json};
use xtask::node::manifest::pod as workload;
use xtask::private_containerd::Version;

on_oldest_and_newest_containerd!(
    containers_are_restarted_as_their_policy_says,
    a_missing_image_holds_up_its_own_pod_only
);

fn ends_with(name: &str, code: &str, policy: &str) -> Value {
    let mut pod = workload(name, "exit", &["--code", code]);
    pod["spec"]["restartPolicy"] = json!(policy);
    pod
}

fn containers_are_restarted_as_their_policy_says(version: Version) {
    let mut node = Node::new("restarts", version);
    node.put(&ends_with("always", "0", "Always"));
    node.put(&ends_with("failing", "4", "OnFailure"));
    node.put(&ends_with("done", "0", "OnFailure"));
    node.put(&ends_with("never", "7", "Never"));
    let mut ruled = ends_with("ruled", "7", "Never");
    let main = &mut ruled["spec"]["containers"][0];
    main["restartPolicy"] = json!("Never");
    main["restartPolicyRules"] =
        json!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } }]);
    let once = "[ -e /kept/ran ] && exit 7; touch /kept/ran; exit 42";
    main.as_object_mut().unwrap().extend(shell("main", once).as_object().unwrap().clone());
    main["volumeMounts"] = json!([{ "name": "kept", "mountPath": "/kept" }]);
    ruled["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(shell("beside", "trap 'exit 0' TERM; while true; do sleep 0.1; done"));
    ruled["spec"]["volumes"] = json!([{ "name": "kept", "emptyDir": {} }]);
    node.put(&ruled);
    let mut brief = workload("brief", "idle", &[]);
    brief["spec"]["activeDeadlineSeconds"] = json!(2);
    node.put(&brief);
    node.start();

    let main = |pod: &Value| pod::container(pod, "main").clone();
    let done = node.wait_pod("done", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
    assert_eq!(main(&done)["state"]["terminated"]["reason"], "Completed");
    let never = node.wait_pod("never", "Failed", |pod| pod::phase(pod) == "Failed");
    let ended = &main(&never)["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(7), &json!("Error")));
    assert_eq!(node.log(&never, "main", 0), "exit 7\n");

    // All its containers, once; then it goes by the policy.
    let ruled = node.wait_pod("ruled", "ended after all have started again", |pod| {
        main(pod)["state"]["terminated"]["exitCode"] == 7
    });
    assert_eq!(pod::container(&ruled, "beside")["restartCount"], 1, "{ruled:#}");
    assert!(pod::container(&ruled, "beside")["state"]["running"].is_object(), "{ruled:#}");
    assert_eq!(main(&ruled)["lastState"]["terminated"]["reason"], "RestartingAllContainers");
    let brief = node.wait_pod("brief", "over", |pod| pod::phase(pod) == "Failed");
    assert_eq!(pod::reason(&brief), "DeadlineExceeded");
    assert!(main(&brief)["state"]["terminated"].is_object(), "{brief:#}");

    for (name, code) in [("always", 0), ("failing", 4)] {
        let looping = node.wait_pod(name, "in CrashLoopBackOff after three restarts", |pod| {
            let status = main(pod);
            status["restartCount"].as_u64() >= Some(3)
                && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        });
        let status = main(&looping);
        assert_eq!(pod::phase(&looping), "Running");
        assert_eq!(status["lastState"]["terminated"]["exitCode"], code, "{status}");
        let message = status["state"]["waiting"]["message"].as_str().unwrap();
        let period = longest_restart_period_s();
        let said = format!("back-off {period}s restarting failed container=main");
        assert!(message.starts_with(&said), "{message}");
        assert!(message.contains(&pod_name(name)), "{message}");
        let restarts = u32::try_from(status["restartCount"].as_u64().unwrap()).unwrap();
        // The log of the last instance; those of instances that were removed may be gone.
        assert_eq!(node.log(&looping, "main", restarts), format!("exit {code}\n"));
        // One dead instance is kept besides the newest; a restart may be under way while this looks.
        node.wait(&format!("dead containers of {name} are removed"), |node| {
            node.containers_of(&pod_name(name)).unwrap().len() <= 2
        });
    }
    // What has ended for good stays ended.
    for (name, before) in [("done", &done), ("never", &never)] {
        let now = node.pod(name).unwrap();
        assert_eq!(main(&now)["containerID"], main(before)["containerID"]);
        assert_eq!(node.running_of(name), []);
    }
}

fn a_missing_image_holds_up_its_own_pod_only(version: Version) {
    let mut node = Node::new("images", version);
    let mut never = workload("never-there", "idle", &[]);
    never["spec"]["containers"][0]["image"] = json!("oomlet.dev/nothing:1");
    let mut pulled = workload("pulled", "idle", &[]);
    // Nobody listens on that port of the runtime's own loopback interface.
    pulled["spec"]["containers"][0]["image"] = json!("127.0.0.1:1/nothing:1");
    pulled["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    let mut half = workload("half", "idle", &[]);
    let mut missing = half["spec"]["containers"][0].clone();
    missing["name"] = json!("missing");
    missing["image"] = json!("oomlet.dev/nothing:1");
    half["spec"]["containers"].as_array_mut().unwrap().push(missing);
    for manifest in [&never, &pulled, &half, &workload("neighbour", "idle", &[])] {
        node.put(manifest);
    }
    node.start();

    let waiting = |pod: &Value, container: &str| pod::container(pod, container)["state"]["waiting"].clone();
    let never = node.wait_pod("never-there", "waiting for its image", |pod| {
        waiting(pod, "main")["reason"] == "ErrImageNeverPull"
    });
    let message = waiting(&never, "main")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("oomlet.dev/nothing:1") && message.contains("pull policy of Never"),
        "{message}"
    );
    assert_eq!(pod::phase(&never), "Pending");
    let refused = |pod: &Value| {
        let reason = waiting(pod, "main")["reason"].clone();
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    };
    let pulled = node.wait_pod("pulled", "unable to pull", refused);
    let message = waiting(&pulled, "main")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("127.0.0.1:1/nothing:1") && message.contains("refused"), "{message}");
    node.wait_pod("pulled", "in ImagePullBackOff", |pod| {
        waiting(pod, "main")["reason"] == "ImagePullBackOff"
    });
    node.wait_up(&["neighbour"]);
    let half = node.wait_pod("half", "running with the container that it can", |pod| {
        pod::container(pod, "main")["state"]["running"].is_object()
            && waiting(pod, "missing")["reason"] == "ErrImageNeverPull"
    });
    assert_eq!(pod::condition(&half, "Ready"), "False");
    // Once the image is there the pod starts.
    let tag = ["images", "tag", xtask::images::WORKLOAD, "oomlet.dev/nothing:1"];
    xtask::process::output(node.containerd.ctr().args(tag)).unwrap();
    node.wait_up(&["never-there", "half"]);
}
