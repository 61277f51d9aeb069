//! An API server that is there and does not do its part: it refuses, is overloaded, forgets, or takes its time.

use std::time::{Duration, Instant};

use oomlet_tests::cluster::fault_proxy::{Fault, FaultProxy, Request};
use oomlet_tests::cluster::joined::{Joined, obedient, shell};
use oomlet_tests::cluster::{self, condition};
use oomlet_tests::{pod, speed};
use serde_json::{Value, json};
use xtask::control_plane::ControlPlane;

/// All final states are told this soon after the API server's return.
const CAUGHT_UP: Duration = Duration::from_secs(10);

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

/// It ends with 7 when there is a file `/tmp/end`.
fn ends() -> Value {
    json!({ "restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [shell("main",
        "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 7")] })
}

fn is_status_of(request: &Request, pod: &str) -> bool {
    request.method == "PATCH" && request.path.contains(&format!("/pods/{pod}/status"))
}

#[test]
fn whatever_the_server_answers_pods_run_on_and_their_ends_are_told() {
    let plane = cluster::shared();
    let (proxy, mut node) = Joined::through_faults(plane, "refused");
    node.start();
    node.wait_ready();
    node.run_pod("stays", &obedient());
    let faults = [
        ("overloaded", Fault::Status(429, "Retry-After: 1\r\n")),
        ("broken", Fault::Status(500, "")),
        ("forbidden", Fault::Status(403, "")),
        ("expired", Fault::Status(401, "")),
    ];
    for (name, _) in &faults {
        node.run_pod(name, &ends());
    }
    for name in faults.iter().map(|(name, _)| *name).chain(["stays"]) {
        node.wait_api_pod(name, "ready", is_ready);
    }
    let stays = node.container_of_pod("stays");
    for (name, fault) in faults {
        outlived(plane, &node, &proxy, name, fault);
    }
    assert_eq!(node.container_of_pod("stays"), stays, "it was left alone");
    let stays = plane.kubectl_json(&["get", "pod", "stays", "--namespace", "refused"]).unwrap();
    assert!(is_ready(&stays), "{stays:#}");
}

/// A pod ends while each request is answered so.
fn outlived(plane: &ControlPlane, node: &Joined<'_>, proxy: &FaultProxy, name: &'static str, fault: Fault) {
    let main = node.container_of_pod(name);
    proxy.set(move |_| Some(fault.clone()));
    std::fs::write(format!("/proc/{}/root/tmp/end", main.pid), "").unwrap();
    cluster::wait(&format!("{name}: its end is tried to be told twice\n{}", node.diagnosis()), || {
        let tried = proxy.seen().iter().filter(|request| is_status_of(request, name)).count();
        (tried >= 2).then_some(())
    });
    let there = plane.kubectl_json(&["get", "pod", name, "--namespace", "refused"]).unwrap();
    assert_eq!(pod::phase(&there), "Running", "{name}: the API server does not know");
    proxy.clear();
    let back = Instant::now();
    let told = node.wait_api_pod(name, "Failed", |pod| pod::phase(pod) == "Failed");
    let took = back.elapsed();
    assert!(took < CAUGHT_UP || speed::is_emulated(), "{name}: only after {took:?}");
    assert_eq!(pod::container(&told, "main")["state"]["terminated"]["exitCode"], 7);
    let writes = proxy.seen().into_iter().filter(|request| is_status_of(request, name)).count();
    assert_eq!(writes, 1, "{name}: once is enough");
    node.wait_ready();
}

/// What it has watched for is too old to go on from, again and again; and each answer takes a second.
#[test]
fn a_watch_that_has_expired_and_a_slow_server_miss_nothing() {
    let plane = cluster::shared();
    let (proxy, mut node) = Joined::through_faults(plane, "forgets");
    let kubectl = |args: &[&str]| plane.kubectl(&[args, &["--namespace", "forgets"]].concat()).unwrap();
    kubectl(&["create", "configmap", "settings", "--from-literal=colour=red"]);
    let mut spec = obedient();
    spec["volumes"] = json!([
        { "name": "settings", "configMap": { "name": "settings" } },
    ]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "settings", "mountPath": "/settings" }]);
    node.start();
    node.wait_ready();
    node.run_pod("reads", &spec);
    node.wait_api_pod("reads", "ready", is_ready);
    let main = node.container_of_pod("reads");
    let colour = || std::fs::read_to_string(format!("/proc/{}/root/settings/colour", main.pid)).unwrap();
    assert_eq!(colour(), "red");

    proxy.set(|request| request.is_watch().then_some(Fault::Gone));
    let expired = |what: &str| {
        let what = what.to_owned();
        move |request: &Request| request.is_watch() && request.path.contains(&what)
    };
    for what in ["/pods?", "/configmaps?"] {
        let is_it = expired(what);
        cluster::wait(&format!("watches of {what} are refused\n{}", node.diagnosis()), || {
            (proxy.seen().iter().filter(|request| is_it(request)).count() >= 2).then_some(())
        });
    }
    kubectl(&["patch", "configmap", "settings", "--patch", r#"{"data":{"colour":"blue"}}"#]);
    node.run_pod("later", &obedient());
    // By the lists that follow each expired watch.
    node.wait_api_pod("later", "ready", is_ready);
    node.wait("the config map's change has arrived", |_| colour() == "blue");

    proxy.set(|_| Some(Fault::Slow(Duration::from_secs(1))));
    kubectl(&["delete", "pod", "later", "--wait=false"]);
    node.wait_api_pod_gone("later");
    kubectl(&["patch", "configmap", "settings", "--patch", r#"{"data":{"colour":"green"}}"#]);
    node.wait("the next change has arrived", |_| colour() == "green");
    assert_eq!(node.container_of_pod("reads"), main, "it was left alone");
    // It is not taken for dead: the lease is renewed in time, however slowly.
    node.wait_ready();
}
