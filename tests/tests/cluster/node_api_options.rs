//! What the configuration says of the node's own API: its certificate, which TLS it speaks, the logs of the node, and that
//! nothing is debugged through it.

use std::path::PathBuf;

use oomlet_tests::cluster::joined::{Joined, obedient};
use oomlet_tests::cluster::{self, wait};
use oomlet_tests::https::{self, Caller};
use rustls::CipherSuite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384};
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use serde_json::json;

#[test]
fn certificate_tls_and_logs_as_configured() {
    let plane = cluster::shared();
    let mut node = Joined::serving(plane, "options");
    let dir = node.scratch().path().to_owned();
    let (one, other) = (https::of_a_server(&dir, "one"), https::of_a_server(&dir, "other"));
    let shown = |files: &(PathBuf, PathBuf)| CertificateDer::from_pem_file(&files.0).unwrap();
    let (first, second) = (shown(&one), shown(&other));
    let config = node.config_mut();
    config["tlsCertFile"] = json!(one.0);
    config["tlsPrivateKeyFile"] = json!(one.1);
    config["tlsCipherSuites"] = json!(["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]);
    config["enableSystemLogQuery"] = json!(true);
    node.start();
    node.wait_ready();
    let address = node.api_address();

    let all = Caller::speaking(&TLS12, None);
    let agreed = all.agree(address).unwrap();
    assert_eq!(agreed.suite, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    assert_eq!((agreed.version, agreed.certificate), (ProtocolVersion::TLSv1_2, first.clone()));
    let others = Caller::speaking(&TLS12, Some(&[TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]));
    assert!(others.agree(address).is_err(), "a suite that is not among those of the configuration");
    // Those of TLS 1.3 are not chosen among.
    assert_eq!(Caller::speaking(&TLS13, None).agree(address).unwrap().version, ProtocolVersion::TLSv1_3);

    logs_of_the_node(&node);
    no_checkpoint_without_what_makes_it(&node);

    // Another certificate under the same names, for who has not been here: a session that is resumed has the old one.
    std::fs::rename(&other.1, &one.1).unwrap();
    std::fs::rename(&other.0, &one.0).unwrap();
    wait("the new certificate is shown", || {
        let agreed = Caller::speaking(&TLS12, None).agree(address).ok()?;
        (agreed.certificate == second).then_some(())
    });

    let config = node.config_mut();
    config["tlsMinVersion"] = json!("VersionTLS13");
    config["enableDebuggingHandlers"] = json!(false);
    node.start();
    assert!(all.agree(address).is_err(), "TLS 1.2");
    assert_eq!(Caller::speaking(&TLS13, None).agree(address).unwrap().version, ProtocolVersion::TLSv1_3);
    let admin = admin(&node);
    for path in
        ["/exec/a/b/c?command=x&output=1", "/run/a/b/c", "/containerLogs/a/b/c", "/logs/", "/runningpods/"]
    {
        for method in ["GET", "POST"] {
            let answer = admin.request(address, method, path, "").unwrap();
            assert_eq!(answer, (405, "Debug endpoints are disabled.\n".to_owned()), "{method} {path}");
        }
    }
    assert_eq!(admin.get(address, "/configz").unwrap().0, 404);
    assert_eq!(admin.get(address, "/pods").unwrap().0, 200);
}

fn admin(node: &Joined<'_>) -> Caller {
    Caller::of(&cluster::shared().client_files(&format!("{}-admin", node.name), &["system:masters"]).unwrap())
}

/// Below `/var/log`, which is the machine's; gone when dropped.
struct Below(PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn logs_of_the_node(node: &Joined<'_>) {
    let name = format!("oomlet-test-{}", std::process::id());
    let below = Below(PathBuf::from("/var/log").join(&name));
    std::fs::create_dir(&below.0).unwrap();
    std::fs::write(below.0.join(format!("{name}.log")), "said\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", below.0.join("outside")).unwrap();
    let (admin, address) = (admin(node), node.api_address());
    let get = |path: &str| admin.get(address, path).unwrap();
    let (status, listed) = get(&format!("/logs/{name}/"));
    assert!(status == 200 && listed.contains(&format!(">{name}.log</a>")), "{status} {listed}");
    // In pieces, each with its length.
    let (status, said) = get(&format!("/logs/{name}/{name}.log"));
    assert!(status == 200 && said.contains("\r\nsaid\n\r\n"), "{status} {said:?}");
    assert_eq!(get(&format!("/logs/{name}")).0, 301);
    for path in ["outside", "none", "../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd"] {
        let (status, said) = get(&format!("/logs/{name}/{path}"));
        assert!(status == 404 && !said.contains("root:"), "{path}: {status} {said}");
    }
    // What a service has said, from its file; a file.
    let query = |query: &str| {
        let (status, said) = get(&format!("/logs/?query={query}"));
        assert_eq!(status, 200, "{query}: {said}");
        said
    };
    assert!(query(&name).contains("said\n"));
    assert!(query(&format!("/{name}/{name}.log")).contains("said\n"));
    assert!(query("oomlet-none").contains("log not found for oomlet-none"));
    for (wrong, status, part) in [
        ("oomlet-none&tailLines=x", 400, "tailLines: Invalid value"),
        ("a&query=/b", 406, "cannot specify a file and service"),
        ("/oomlet-none.log", 406, "no such file"),
    ] {
        let (found, said) = get(&format!("/logs/?query={wrong}"));
        assert!(found == status && said.contains(part), "{wrong}: {found} {said}");
    }
}

/// containerd has no CRIU here, and says so.
fn no_checkpoint_without_what_makes_it(node: &Joined<'_>) {
    node.run_pod("checked", &obedient());
    node.wait_api_pod("checked", "running", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
    });
    let (admin, address) = (admin(node), node.api_address());
    let path = format!("/checkpoint/{}/checked/main", node.name);
    let (status, said) = admin.request(address, "POST", &path, "").unwrap();
    let begins = format!("checkpointing of {}/checked/main failed (rpc error: code = ", node.name);
    assert!(status == 500 && said.starts_with(&begins), "{status} {said}");
    assert_eq!(admin.get(address, &path).unwrap().0, 405);
}
