//! ClusterTrustBundles and pods' own certificates in projected volumes, read and asked for under the node's own identity.

use std::fs;
use std::path::{Path, PathBuf};

use oomlet_tests::cluster::fault_proxy::Fault;
use oomlet_tests::cluster::joined::{Joined, obedient};
use oomlet_tests::cluster::pod_signer::{PodSigner, authority};
use oomlet_tests::cluster::{self, condition, wait};
use oomlet_tests::node::Node;
use oomlet_tests::pod;
use serde_json::{Value, json};
use xtask::control_plane::ControlPlane;

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

/// A running pod with one projected volume `own`.
fn with_sources(sources: &Value) -> Value {
    let mut spec = obedient();
    spec["volumes"] = json!([{ "name": "own", "projected": { "sources": sources } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "own", "mountPath": "/own" }]);
    spec
}

fn bundle(plane: &ControlPlane, name: &str, signer: Option<&str>, trusted: &[&str]) {
    let trusted: String = trusted.iter().map(|pem| format!("for the reader\n{pem}")).collect();
    let mut spec = json!({ "trustBundle": trusted });
    if let Some(signer) = signer {
        spec["signerName"] = json!(signer);
    }
    let object = json!({ "apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
        "metadata": { "name": name, "labels": { "stage": "live" } }, "spec": spec });
    plane.apply(&object).unwrap();
}

fn own_volume(node: &Joined<'_>, pod: &Value) -> PathBuf {
    node.root_dir().join("pods").join(pod::uid(pod)).join("volumes/kubernetes.io~projected/own")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn certificates(pem: &str) -> usize {
    pem.matches("-----BEGIN CERTIFICATE-----").count()
}

/// Waits for that many requests of the node's namespace, in all.
#[track_caller]
fn wait_requests(plane: &ControlPlane, node: &Joined<'_>, signer: &PodSigner, count: usize) -> Vec<Value> {
    let what = format!("{count} certificate requests");
    node.wait(&what, |_| signer.requests(plane, &node.name).len() == count);
    signer.requests(plane, &node.name)
}

#[test]
fn a_pod_gets_its_certificates_and_whom_to_trust() {
    let plane = cluster::shared();
    let mut node = Joined::ready(plane, "trusts");
    let signer = PodSigner::new("trusts.example.com/pods");
    let (other, _) = authority("other");
    bundle(plane, "trusts.example.com:pods:1", Some(&signer.name), &[&signer.authority]);
    bundle(plane, "trusts.example.com:pods:2", Some(&signer.name), &[&other, &signer.authority]);
    bundle(plane, "trusts-plain", None, &[&other]);
    let certificate = |key_type: &str, paths: Value| {
        let mut source = json!({ "signerName": signer.name, "keyType": key_type });
        source.as_object_mut().unwrap().extend(paths.as_object().unwrap().clone());
        json!({ "podCertificate": source })
    };
    let live = json!({ "matchLabels": { "stage": "live" } });
    let spec = with_sources(&json!([
        { "clusterTrustBundle": { "path": "signer.pem", "signerName": signer.name, "labelSelector": live } },
        { "clusterTrustBundle": { "path": "plain.pem", "name": "trusts-plain" } },
        { "clusterTrustBundle": { "path": "none.pem", "name": "trusts-none", "optional": true } },
        certificate("ED25519", json!({ "credentialBundlePath": "ed25519.pem" })),
        certificate("ECDSAP256", json!({ "credentialBundlePath": "p256.pem" })),
        certificate("ECDSAP384", json!({ "credentialBundlePath": "p384.pem" })),
        certificate("RSA3072", json!({ "keyPath": "rsa/key.pem", "certificateChainPath": "rsa/chain.pem" })),
    ]));
    node.run_pod("own", &spec);
    for request in wait_requests(plane, &node, &signer, 4) {
        assert_eq!(request["metadata"]["ownerReferences"][0]["name"], "own");
        signer.sign(plane, &request);
    }
    let ready = node.wait_api_pod("own", "ready", is_ready);
    let dir = own_volume(&node, &ready);
    assert_eq!(text(&dir.join("plain.pem")), other);
    let trusted = text(&dir.join("signer.pem"));
    assert!(certificates(&trusted) == 2 && trusted.contains(&other) && trusted.contains(&signer.authority));
    assert!(!trusted.contains("reader"), "{trusted}");
    assert_eq!(text(&dir.join("none.pem")), "");
    for name in ["ed25519.pem", "p256.pem", "p384.pem"] {
        let bundle = text(&dir.join(name));
        assert!(bundle.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{name}");
        assert!(certificates(&bundle) == 2 && bundle.ends_with(&signer.authority), "{name}: {bundle}");
        let key = rcgen::KeyPair::from_pem(bundle.split("-----BEGIN CERTIFICATE").next().unwrap()).unwrap();
        fits(&key, &bundle);
    }
    let (key, chain) = (text(&dir.join("rsa/key.pem")), text(&dir.join("rsa/chain.pem")));
    fits(&rcgen::KeyPair::from_pem(&key).unwrap(), &chain);
    assert_eq!((certificates(&key), certificates(&chain)), (0, 2));

    // What changes arrives in the running pod.
    let main = node.container_of_pod("own");
    bundle(plane, "trusts-plain", None, &[&signer.authority]);
    let shown = || text(Path::new(&format!("/proc/{}/root/own/plain.pem", main.pid)));
    node.wait("the change has arrived", |_| shown() == signer.authority);

    // The next start of the agent asks for nothing anew.
    node.start();
    node.wait_record("the pod is taken over", |r| r.reason == "PodAdopted");
    bundle(plane, "trusts-plain", None, &[&other]);
    node.wait("the next change has arrived", |_| shown() == other);
    assert_eq!(signer.requests(plane, &node.name).len(), 4);
    assert_eq!(text(&dir.join("rsa/key.pem")), key);
    plane.kubectl(&["delete", "pod", "own", "--namespace", &node.name]).unwrap();
    node.wait("nothing of it is left", |node| !dir.exists() && kept(node) == Vec::<PathBuf>::new());
    assert!(!node.agent_log().contains("PRIVATE KEY"));
}

/// What is kept for the agent's next start, of pods.
fn kept(node: &Node) -> Vec<PathBuf> {
    let dir = node.root_dir().join("oomlet/content/pods");
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The first certificate is of this key.
#[track_caller]
fn fits(key: &rcgen::KeyPair, chain: &str) {
    use rcgen::PublicKeyData as _;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let public = key.der_bytes();
    assert!(leaf.windows(public.len()).any(|part| part == public), "another key's certificate");
}

#[test]
fn a_pod_waits_for_what_is_not_there_and_is_told_what_is_refused() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "mistrusts");
    let signer = PodSigner::new("mistrusts.example.com/pods");
    node.run_pod(
        "waits",
        &with_sources(&json!([{ "clusterTrustBundle": { "path": "ca.pem", "name": "mistrusts" } }])),
    );
    let told = |pod: &str, what: &str| {
        wait(&format!("an Event of {pod} with {what}\n{}", node.diagnosis()), || {
            node.events(pod)
                .into_iter()
                .find(|(reason, _, said)| reason == "FailedMount" && said.contains(what))
        })
    };
    let want = "MountVolume.SetUp failed for volume \"own\" : while getting ClusterTrustBundle: \
                clustertrustbundle.certificates.k8s.io \"mistrusts\" not found";
    assert_eq!(told("waits", "not found").2, want);
    bundle(plane, "mistrusts", None, &[&signer.authority]);
    node.wait_api_pod("waits", "ready", is_ready);

    // Of a type that the signer here cannot read; the API server has held it against its rules.
    let source =
        json!({ "signerName": signer.name, "keyType": "ECDSAP521", "credentialBundlePath": "own.pem" });
    node.run_pod("denied", &with_sources(&json!([{ "podCertificate": source }])));
    let requests = wait_requests(plane, &node, &signer, 1);
    assert!(told("denied", "credential bundle is not issued yet").1 >= 1);
    signer.deny(plane, &requests[0]);
    let want = "MountVolume.SetUp failed for volume \"own\" : PodCertificateRequest was permanently denied: reason=\"NotHere\" \
                message=\"the test says so\"";
    assert_eq!(told("denied", "denied").2, want);
    assert_eq!(signer.requests(plane, "mistrusts").len(), 1, "it is not asked for again");
}

#[test]
fn a_server_without_them_is_told_in_one_line() {
    let plane = cluster::shared();
    let (proxy, mut node) = Joined::through_faults(plane, "olden");
    // As one answers that does not know the group's younger kinds.
    proxy.set(|request| {
        request.path.starts_with("/apis/certificates.k8s.io/").then_some(Fault::Status(404, ""))
    });
    node.start();
    node.wait_ready();
    let sources = json!([
        { "clusterTrustBundle": { "path": "ca.pem", "name": "olden" } },
        { "podCertificate": { "signerName": "olden.example.com/pods", "keyType": "ED25519", "credentialBundlePath": "own.pem" } },
    ]);
    node.run_pod("waits", &with_sources(&sources));
    let told = wait(&format!("an Event\n{}", node.diagnosis()), || {
        node.events("waits").into_iter().find(|(reason, ..)| reason == "FailedMount").map(|(.., said)| said)
    });
    for part in
        ["no ClusterTrustBundles (certificates.k8s.io)", "no PodCertificateRequests (certificates.k8s.io/v1)"]
    {
        assert!(told.contains(part) && told.contains("switch them on there"), "{told}");
    }
}
