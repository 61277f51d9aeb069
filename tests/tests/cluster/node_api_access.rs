//! Who is let in to the node's own API, and how far: as with kubelet, by the real API server's word.

use std::io::{Read, Write};

use oomlet_tests::cluster::{self, joined::Joined};
use oomlet_tests::https::{self, Caller};
use serde_json::{Value, json};

/// What a role may do.
fn role(name: &str, user: &str, subresources: &[&str]) -> Value {
    let resources: Vec<String> = subresources.iter().map(|sub| format!("nodes/{sub}")).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": name },
            "rules": [{ "apiGroups": [""], "resources": resources, "verbs": ["get", "create"] }],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
        },
    ]})
}

#[test]
fn each_kind_of_caller() {
    let plane = cluster::shared();
    let mut node = Joined::serving(plane, "callers");
    plane.apply(&role("callers-pods", "callers-reader", &["pods", "healthz"])).unwrap();
    plane.apply(&role("callers-proxy", "callers-proxy", &["proxy"])).unwrap();
    node.start();
    let object = node.wait_ready();
    let address = node.api_address();
    assert_eq!(object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], address.port());

    let nobody = Caller::nobody();
    for path in ["/", "/healthz", "/pods", "/nowhere", "/exec/a/b/c?command=x", "/metrics"] {
        assert_eq!(nobody.get(address, path).unwrap(), (401, "Unauthorized".to_owned()), "{path}");
    }
    // The body is not waited for.
    let head = "Content-Length: 1000000\r\nExpect: 100-continue\r\n";
    let answer = nobody.request(address, "POST", "/run/a/b/c", head).unwrap();
    assert_eq!(answer, (401, "Unauthorized".to_owned()));
    let token = "Authorization: Bearer abc\r\n";
    assert_eq!(nobody.request(address, "GET", "/pods", token).unwrap().0, 401);
    // The connection ends with the answer: a second request on it is not read.
    let two = b"GET /pods HTTP/1.1\r\nHost: n\r\n\r\nGET /pods HTTP/1.1\r\nHost: n\r\n\r\n";
    assert_eq!(nobody.exchange(address, two).unwrap().matches("HTTP/1.1").count(), 1);

    let wrong = Caller::of(&https::of_a_wrong_authority(node.scratch().path()));
    assert_eq!(wrong.get(address, "/pods").unwrap(), (401, "Unauthorized".to_owned()));

    let of = |user: &str, groups: &[&str]| Caller::of(&plane.client_files(user, groups).unwrap());
    let stranger = of("callers-stranger", &[]);
    assert_eq!(
        stranger.get(address, "/pods").unwrap(),
        (
            403,
            "Forbidden (user=callers-stranger, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
                .to_owned()
        )
    );
    assert_eq!(stranger.get(address, "/nowhere").unwrap().0, 403);

    // Fine-grained: these and no others.
    let reader = of("callers-reader", &[]);
    let (status, body) = reader.get(address, "/pods").unwrap();
    assert_eq!(status, 200, "{body}");
    let pods: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&pods["kind"], &pods["apiVersion"]), (&json!("PodList"), &json!("v1")));
    assert_eq!(reader.get(address, "/healthz").unwrap(), (200, "ok".to_owned()));
    assert_eq!(reader.get(address, "/configz").unwrap().0, 403);
    assert_eq!(reader.get(address, "/containerLogs/a/b/c").unwrap().0, 403);
    // A stream is refused before anything of the pod is looked for, and before it is one.
    let upgrade = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    for caller in [&stranger, &reader] {
        let (status, body) =
            caller.request(address, "POST", "/exec/a/b/c?command=x&output=1", upgrade).unwrap();
        assert!(status == 403 && body.contains("verb=create") && body.contains("[proxy]"), "{status} {body}");
    }

    // nodes/proxy is enough for what has a finer name.
    let proxy = of("callers-proxy", &[]);
    assert_eq!(proxy.get(address, "/pods").unwrap().0, 200);
    let (status, body) = proxy.get(address, "/containerLogs/a/b/c").unwrap();
    assert_eq!((status, body.as_str()), (404, "pod \"b\" does not exist"));
    assert_eq!(proxy.get(address, "/nowhere").unwrap(), (404, "404 page not found\n".to_owned()));
    assert_eq!(
        proxy.request(address, "POST", "/pods", "").unwrap(),
        (405, "405: Method Not Allowed".to_owned())
    );
    let (status, body) = proxy.get(address, "/healthz?verbose").unwrap();
    assert_eq!(
        (status, body.as_str()),
        (200, "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n")
    );
    assert_eq!(proxy.get(address, "/healthz/syncloop").unwrap(), (200, "ok".to_owned()));

    // A token of a service account, with and without leave.
    let token = plane.kubectl(&["create", "token", "default", "--namespace", "callers"]).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
    let (status, body) = nobody.request(address, "GET", "/pods", &bearer).unwrap();
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("user=system:serviceaccount:callers:default"), "{body}");

    let admin = of("callers-admin", &["system:masters"]);
    let (status, configz) = admin.get(address, "/configz").unwrap();
    assert_eq!(status, 200, "{configz}");
    let configz: Value = serde_json::from_str(&configz).unwrap();
    let config = &configz["kubeletconfig"];
    assert_eq!((&config["kind"], &config["port"]), (&json!("KubeletConfiguration"), &json!(address.port())));
    assert_eq!(config["apiVersion"], "kubelet.config.k8s.io/v1beta1");
    // Health, for who is on the node.
    let health = node.containerd.netns().connect("127.0.0.1:10248".parse().unwrap());
    let mut health = health.unwrap();
    health.write_all(b"HEAD /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    health.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn a_new_authority_and_a_new_certificate_count_without_a_restart() {
    let plane = cluster::shared();
    let mut node = Joined::serving(plane, "newca");
    let dir = node.scratch().path().to_owned();
    let ca = dir.join("client-ca.crt");
    let wrong_files = https::of_a_wrong_authority(&dir);
    std::fs::copy(plane.authority_path(), &ca).unwrap();
    let admin = Caller::of(&plane.client_files("newca-admin", &["system:masters"]).unwrap());
    node.config_mut()["authentication"]["x509"]["clientCAFile"] = json!(ca);
    node.config_mut()["readOnlyPort"] = json!(10255);
    node.start();
    node.wait_ready();
    let address = node.api_address();
    assert_eq!(admin.get(address, "/pods").unwrap().0, 200);
    // Another authority: the old one counts no more.
    let pem = std::fs::read(&wrong_files.0).unwrap();
    let new = dir.join("client-ca.new");
    std::fs::write(&new, &pem).unwrap();
    std::fs::rename(&new, &ca).unwrap();
    cluster::wait("the new client CA counts", || (admin.get(address, "/pods").ok()?.0 == 401).then_some(()));
    // Half a file leaves what was there.
    std::fs::write(&ca, &pem[..pem.len() / 2]).unwrap();
    node.wait("the broken client CA is told of", |node| node.agent_log().contains("is of no use"));
    std::fs::copy(plane.authority_path(), &ca).unwrap();
    cluster::wait("the old client CA counts again", || {
        (admin.get(address, "/pods").ok()?.0 == 200).then_some(())
    });
    // The read-only port is for everybody, and has nothing but reading.
    let plain = |path: &str| {
        let mut stream = node.containerd.netns().connect("127.0.0.1:10255".parse().unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(plain("/pods").starts_with("HTTP/1.1 200"));
    assert!(plain("/exec/a/b/c").starts_with("HTTP/1.1 405"), "{}", plain("/exec/a/b/c"));
    assert!(plain("/configz").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_port_that_is_taken_is_one_clear_error() {
    let plane = cluster::shared();
    let mut node = Joined::serving(plane, "taken");
    let port = node.api_address().port();
    let _taken = node.containerd.netns().listen(([0, 0, 0, 0], port).into()).unwrap();
    node.start_agent().unwrap();
    let status = node.agent.as_mut().unwrap().wait_end(cluster::soon()).unwrap();
    assert!(!status.success());
    let log = node.agent_log();
    assert!(log.contains(&format!("0.0.0.0:{port}")) && log.contains("Remedy"), "{log}");
}
