//! The one agent in the other's place: kubelet is stopped and oomlet started with the same files, and the other way round. Pods
//! notice nothing, static ones neither, unless their manifest has changed meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oomlet_tests::cluster::joined::{Joined, OBEDIENT, shell};
use oomlet_tests::cluster::{self, condition, soon};
use oomlet_tests::node::script;
use serde_json::{Value, json};
use xtask::control_plane::programs::{Program, Programs, Source};
use xtask::node::RunningContainer;
use xtask::node::kubelet::Sysctls;
use xtask::process;

const NAME: &str = "takeover";
const STATIC: &str = "static-takeover";
/// The same, but its manifest gives it its UID.
const KEPT: &str = "kept-takeover";
/// The same, and its manifest is edited while no agent runs.
const EDITED: &str = "edited-takeover";

#[test]
fn kubelet_and_the_agent_take_over_from_each_other() {
    let kubelet = Programs::find(&Source::default(), &[Program::Kubelet]).unwrap().path(Program::Kubelet);
    let plane = cluster::shared();
    let mut node = Joined::new(plane, NAME);
    let _sysctls = Sysctls::keep().unwrap();
    let probed = node.scratch().create_dir("probed").unwrap();
    let map = |value: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "cfg", "namespace": NAME },
            "data": { "key": value } })
    };
    plane.apply(&map("one")).unwrap();
    let mut manifest = script("static", OBEDIENT);
    manifest["metadata"]["namespace"] = json!(NAME);
    manifest["spec"]["restartPolicy"] = json!("Always");
    node.put(&manifest);
    let mut edited = manifest.clone();
    edited["metadata"]["name"] = json!("edited");
    node.put(&edited);
    manifest["metadata"]["name"] = json!("kept");
    manifest["metadata"]["uid"] = json!("6f3c3f0e-5d3b-4c07-9d0d-3f6e2a0b7c11");
    node.put(&manifest);

    node.start_kubelet(&kubelet).unwrap();
    let registered = || plane.kubectl(&["get", "node", NAME]).is_ok_and(|node| node.contains(" Ready "));
    assert!(process::holds_within(long(), registered), "{}", node.diagnosis());
    node.run_pod("stays", &pod(&probed));
    node.run_pod("goes", &pod(&probed));
    let stays = Stays::find(&node, "stays", &probed);
    node.wait_api_pod(STATIC, "Ready", |pod| condition(pod, "Ready")["status"] == "True");
    let unchanged = node.container_of_pod(STATIC);
    node.wait_api_pod(EDITED, "Ready", |pod| condition(pod, "Ready")["status"] == "True");
    let before_the_edit = node.container_of_pod(EDITED);
    node.wait_api_pod(KEPT, "Ready", |pod| condition(pod, "Ready")["status"] == "True");
    let kept = node.container_of_pod(KEPT);

    end_agent(&mut node);
    edited["spec"]["containers"][0]["env"] = json!([{ "name": "EDITED", "value": "yes" }]);
    node.put(&edited);
    node.start();
    stays.has_not_noticed(&node);
    replaced(&node, EDITED, &before_the_edit);
    assert_eq!(node.container_of_pod(STATIC), unchanged, "{}", node.diagnosis());
    assert_eq!(node.container_of_pod(KEPT), kept);
    // It is still the same pod for an agent that starts again.
    end_agent(&mut node);
    node.start();
    stays.has_not_noticed(&node);
    assert_eq!(node.container_of_pod(STATIC), unchanged, "{}", node.diagnosis());
    // It is the new one that sees to them.
    plane.apply(&map("two")).unwrap();
    stays.shows(&node, "two");
    plane.kubectl(&["delete", "pod", "goes", "--namespace", NAME, "--wait=false"]).unwrap();
    node.wait_api_pod_gone("goes");
    assert!(node.containers_of_pod("goes").is_empty());
    node.run_pod("made-here", &pod(&probed));
    let made_here = Stays::find(&node, "made-here", &probed);

    end_agent(&mut node);
    node.start_kubelet(&kubelet).unwrap();
    stays.has_not_noticed(&node);
    // kubelet takes a container that started less than ten seconds before it for one of its own, and begins with "not ready".
    assert_eq!(node.containers_of_pod("made-here"), made_here.containers, "{}", node.diagnosis());
    assert_eq!(node.container_of_pod(STATIC), unchanged, "{}", node.diagnosis());
    assert_eq!(node.container_of_pod(KEPT), kept);
    plane.kubectl(&["delete", "pod", "made-here", "--namespace", NAME, "--wait=false"]).unwrap();
    node.wait_api_pod_gone("made-here");
    assert!(node.containers_of_pod("made-here").is_empty());
}

/// kubelet has taken half a minute to start on a machine that was busy with other things.
fn long() -> Duration {
    3 * soon()
}

/// In order, as an administrator does it.
fn end_agent(node: &mut Joined<'_>) {
    let mut agent = node.agent.take().expect("one runs");
    agent.terminate(soon()).unwrap();
}

/// Another manifest is another pod, which starts when the old one has ended.
#[track_caller]
fn replaced(node: &Joined<'_>, name: &str, before: &RunningContainer) {
    let another = || {
        let now = node.containers_of_pod(name);
        assert!(now.len() <= 1, "it runs twice: {now:?}");
        now.iter().any(|container| container.id != before.id)
    };
    assert!(process::holds_within(long(), another), "{}", node.diagnosis());
}

/// Its probe leaves a line each second in a file that is called as the pod.
fn pod(probed: &Path) -> Value {
    let mut container = shell("main", OBEDIENT);
    container["env"] =
        json!([{ "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
    container["volumeMounts"] = json!([
        { "name": "cfg", "mountPath": "/cfg" },
        { "name": "probed", "mountPath": "/probed" },
        { "name": "scratch", "mountPath": "/scratch" },
    ]);
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        container[kind] = json!({
            "exec": { "command": ["/bin/sh", "-c", "echo >>/probed/$NAME"] },
            "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 5,
        });
    }
    json!({
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "volumes": [
            { "name": "cfg", "configMap": { "name": "cfg" } },
            { "name": "probed", "hostPath": { "path": probed, "type": "Directory" } },
            { "name": "scratch", "emptyDir": {} },
        ],
    })
}

/// A pod that is to go on as it is, and as it was.
struct Stays {
    name: String,
    object: Value,
    containers: Vec<RunningContainer>,
    probes: PathBuf,
}

impl Stays {
    /// When it is Ready, and has been for longer than the whole seconds that times have: a flip would show.
    #[track_caller]
    fn find(node: &Joined<'_>, name: &str, probed: &Path) -> Stays {
        let object = node.wait_api_pod(name, "Ready", |pod| condition(pod, "Ready")["status"] == "True");
        let ready = Instant::now();
        let containers = node.containers_of_pod(name);
        assert_eq!(containers.len(), 1, "{}", node.diagnosis());
        assert!(process::holds_within(soon(), || ready.elapsed() > Duration::from_millis(1100)));
        Stays { name: name.to_owned(), object, containers, probes: probed.join(name) }
    }

    fn runs_of_probes(&self) -> usize {
        std::fs::read(&self.probes).unwrap_or_default().len()
    }

    /// Once the agent that is new has looked after it.
    #[track_caller]
    fn has_not_noticed(&self, node: &Joined<'_>) {
        node.wait_ready();
        let before = self.runs_of_probes();
        // Two probes, and one of them twice.
        let again = || self.runs_of_probes() >= before + 3;
        let probed = process::holds_within(long(), again);
        assert!(probed, "{} is not probed\n{}", self.name, node.diagnosis());
        let now = node.wait_api_pod(&self.name, "there", |_| true);
        let status = |pod: &Value| {
            let one = &pod["status"]["containerStatuses"][0];
            json!({
                "phase": pod["status"]["phase"],
                "startTime": pod["status"]["startTime"],
                "podIP": pod["status"]["podIP"],
                "Ready": { "status": condition(pod, "Ready")["status"], "since": condition(pod, "Ready")["lastTransitionTime"] },
                "container": { "id": one["containerID"], "restarts": one["restartCount"], "state": one["state"] },
            })
        };
        assert_eq!(status(&now), status(&self.object), "{}\n{}", self.name, node.diagnosis());
        assert_eq!(node.containers_of_pod(&self.name), self.containers, "{}", node.diagnosis());
    }

    /// The ConfigMap's new content reaches it.
    #[track_caller]
    fn shows(&self, node: &Joined<'_>, value: &str) {
        let file = format!("/proc/{}/root/cfg/key", self.containers[0].pid);
        let shown = || std::fs::read_to_string(&file).is_ok_and(|text| text == value);
        assert!(
            process::holds_within(soon(), shown),
            "{} does not show {value}\n{}",
            self.name,
            node.diagnosis()
        );
    }
}
