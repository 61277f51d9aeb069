//! Who the node is to the API server: TLS bootstrap, what heals by itself, rotation.

use std::path::PathBuf;
use std::time::Duration;

use oomlet_tests::cluster::joined::{Joined, obedient};
use oomlet_tests::cluster::{self, condition, wait, wait_object};
use serde_json::Value;

const CURRENT: &str = "pki/kubelet-client-current.pem";

fn in_use(node: &Joined<'_>) -> PathBuf {
    let link = node.scratch().path().join(CURRENT);
    wait("a client certificate", || std::fs::read_link(&link).ok())
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && condition(pod, "Ready")["status"] == "True"
}

#[test]
fn a_node_joins_by_a_bootstrap_token_and_mends_a_broken_certificate() {
    let plane = cluster::shared();
    let mut node = Joined::new(plane, "boots");
    let kubeconfig = node.scratch().path().join("kubelet.conf");
    let bootstrap = plane.bootstrap_kubeconfig().unwrap();
    node.add_arguments(&[
        &format!("--kubeconfig={}", kubeconfig.display()),
        &format!("--bootstrap-kubeconfig={}", bootstrap.display()),
    ]);
    node.start();
    node.wait_ready();
    let first = in_use(&node);
    assert!(plane.kubectl_as(&kubeconfig, &["get", "node", "boots"]).is_ok(), "others read it too");
    node.run_pod("stays", &obedient());
    node.wait_api_pod("stays", "running", is_running);
    let container = node.container_of_pod("stays");

    // As a crash leaves it.
    node.kill_agent().unwrap();
    let whole = std::fs::read(&first).unwrap();
    std::fs::write(&first, &whole[..whole.len() / 3]).unwrap();
    node.start();
    let link = node.scratch().path().join(CURRENT);
    let second = wait("another certificate", || std::fs::read_link(&link).ok().filter(|file| *file != first));
    assert_ne!(std::fs::read(&second).unwrap(), whole);
    node.wait_api_pod("stays", "running", is_running);
    assert_eq!(node.container_of_pod("stays").id, container.id, "pods are left alone");
}

#[test]
fn a_certificate_is_rotated_before_its_end() {
    let plane = cluster::shared();
    let mut node = Joined::new(plane, "rotates");
    let life = Duration::from_secs(60);
    let kubeconfig = plane.expiring_node_kubeconfig("rotates", life).unwrap();
    node.add_arguments(&[&format!("--kubeconfig={}", kubeconfig.display()), "--rotate-certificates"]);
    node.start();
    node.wait_ready();
    in_use(&node);
    let by_the_node = |all: &Value| {
        let of = |csr: &Value| {
            csr["spec"]["username"] == "system:node:rotates" && csr["status"]["certificate"].is_string()
        };
        all["items"].as_array().is_some_and(|all| all.iter().any(of))
    };
    wait_object(plane, &["csr"], "asked for by the node", by_the_node);
    wait("the end of the first certificate", || {
        plane.kubectl_as(&kubeconfig, &["get", "node", "rotates"]).is_err().then_some(())
    });
    node.run_pod("after", &obedient());
    node.wait_api_pod("after", "running", is_running);
}
