//! The control plane itself: what the tests of the agent rely on.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oomlet_tests::cluster::{self, condition, wait_object};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};
use xtask::netns::NetNs;

#[test]
fn it_serves_and_knows_who_asks() {
    let cluster = cluster::shared();
    assert_eq!(cluster.kubectl(&["get", "--raw=/readyz"]).unwrap(), "ok");
    let node = cluster.node_kubeconfig("asks").unwrap();
    let bootstrap = cluster.bootstrap_kubeconfig().unwrap();
    for (kubeconfig, group) in [
        (cluster.kubeconfig_admin(), "system:masters"),
        (&node, "system:nodes"),
        (&bootstrap, "system:bootstrappers"),
    ] {
        let said = cluster.kubectl_as(kubeconfig, &["auth", "whoami", "--output=json"]).unwrap();
        let review: Value = serde_json::from_str(&said).unwrap();
        let groups = review["status"]["userInfo"]["groups"].as_array().unwrap();
        assert!(groups.iter().any(|g| g == group), "{group}: {review:#}");
    }
    let expired = cluster.expiring_node_kubeconfig("asks", std::time::Duration::ZERO).unwrap();
    let error = cluster.kubectl_as(&expired, &["get", "nodes"]).unwrap_err().to_string();
    assert!(error.contains("must be logged in") || error.contains("Unauthorized"), "{error}");
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } })
}

#[test]
fn a_node_may_make_its_own_node_and_no_other() {
    let cluster = cluster::shared();
    let kubeconfig = cluster.node_kubeconfig("restricted").unwrap();
    cluster.create_as(&kubeconfig, &node("restricted")).unwrap();
    let error = cluster.create_as(&kubeconfig, &node("restricted-other")).unwrap_err().to_string();
    assert!(error.contains("is not allowed to"), "{error}");
    // The controller-manager gives it addresses for its pods; nobody renews its Lease.
    let made = wait_object(cluster, &["node", "restricted"], "given a podCIDR", |node| {
        node["spec"]["podCIDR"].as_str().is_some_and(|cidr| cidr.ends_with("/24"))
    });
    assert_ne!(condition(&made, "Ready")["status"], "True", "{made:#}");
    cluster.kubectl(&["delete", "node", "restricted"]).unwrap();
    // Each of its requests is in the audit log by now.
    let log = cluster.audit_log().unwrap();
    let created = log.iter().filter(|event| {
        event["user"]["username"] == "system:node:restricted"
            && event["verb"] == "create"
            && event["objectRef"]["resource"] == "nodes"
    });
    let codes: Vec<u64> = created.filter_map(|event| event["responseStatus"]["code"].as_u64()).collect();
    assert_eq!(codes, [201, 403]);
}

#[test]
fn a_bootstrap_token_gets_a_client_certificate() {
    let cluster = cluster::shared();
    let kubeconfig = cluster.bootstrap_kubeconfig().unwrap();
    request_certificate(cluster, &kubeconfig, "bootstrapped");
    let csr = wait_object(cluster, &["csr", "bootstrapped"], "approved and signed", |csr| {
        csr["status"]["certificate"].is_string()
    });
    assert_eq!(condition(&csr, "Approved")["status"], "True", "{csr:#}");
}

/// As a kubelet of this name asks for its client certificate.
fn request_certificate(cluster: &ControlPlane, kubeconfig: &Path, node: &str) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let csr = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": { "name": node },
        "spec": {
            "request": STANDARD.encode(request),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    });
    cluster.create_as(kubeconfig, &csr).unwrap();
}

#[test]
fn a_pod_without_a_node_is_pending_and_survives_the_api_server() {
    // In a network namespace of its own, as a demo has it.
    let netns = Some(Arc::new(NetNs::new().unwrap()));
    let mut cluster = cluster::own("restart", &Options { netns, ..Options::default() });
    let port: u16 = cluster.server().rsplit_once(':').unwrap().1.parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it is on the loopback of this namespace");
    cluster::namespace(&cluster, "restart");
    let spec = json!({ "containers": [{ "name": "main", "image": "example.com/none" }] });
    cluster.apply(&cluster::deployment("restart", "web", 1, &spec)).unwrap();
    let pods = ["pods", "--namespace=restart", "--selector=app=web"];
    let is_pending = |list: &Value| {
        let pod = &list["items"][0];
        pod["status"]["phase"] == "Pending" && condition(pod, "PodScheduled")["reason"] == "Unschedulable"
    };
    let before = wait_object(&cluster, &pods, "pending", is_pending);

    let server = cluster.server();
    cluster.stop_api_server().unwrap();
    let error = cluster.kubectl(&["get", "nodes"]).unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    cluster.start_api_server().unwrap();
    assert_eq!(cluster.server(), server);

    let after = wait_object(&cluster, &pods, "pending as before", is_pending);
    assert_eq!(after["items"][0]["metadata"]["uid"], before["items"][0]["metadata"]["uid"]);
    // Controllers have found it again: they go on with what they are asked for.
    cluster.kubectl(&["scale", "deployment/web", "--namespace=restart", "--replicas=2"]).unwrap();
    wait_object(&cluster, &pods, "two", |list| list["items"].as_array().is_some_and(|pods| pods.len() == 2));
    assert!(cluster.audit_log().is_err());
}
