//! Debian's Prometheus scrapes a node by a client certificate, and the dashboard's queries are asked of it.

use std::path::Path;
use std::time::Duration;

use oomlet_tests::capped::CAP_MIB;
use oomlet_tests::cluster::joined::Joined;
use oomlet_tests::cluster::{self, wait};
use oomlet_tests::node::Node;
use oomlet_tests::{dashboard, newest, speed};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};
use xtask::node::NODE_IP;
use xtask::prometheus::{Prometheus, Scrape, lint};
use xtask::{images, paths};

const PATHS: [&str; 5] =
    ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes", "/metrics/slis"];

/// What promtool has against names that others have chosen and that everybody's rules and dashboards ask for: which metrics, by
/// the beginning of their names, and in which words it is said.
const THEIRS: [(&str, &str, &str); 0] = [];

/// Who may read the numbers of nodes, and nothing else.
fn scraper(plane: &ControlPlane) -> (std::path::PathBuf, std::path::PathBuf) {
    let rbac = "rbac.authorization.k8s.io";
    plane
        .apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole",
                "metadata": { "name": "prometheus" },
                "rules": [{ "apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"] }],
            },
            {
                "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding",
                "metadata": { "name": "prometheus" },
                "roleRef": { "apiGroup": rbac, "kind": "ClusterRole", "name": "prometheus" },
                "subjects": [{ "apiGroup": rbac, "kind": "User", "name": "prometheus" }],
            },
        ]}))
        .unwrap();
    plane.client_files("prometheus", &[]).unwrap()
}

/// Pods that give the node something to tell of: one that leaks, is frozen and evicted, and comes back to do it again, and one
/// whose container the kernel kills at its own limit, again and again.
fn make_trouble(node: &Joined<'_>, plane: &ControlPlane) {
    let hog = |arguments: &str, resources: Value| {
        json!({
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "nodeSelector": { "test": node.name },
            "containers": [{
                "name": "main", "image": images::WORKLOAD, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", format!("exec /oomlet-workload hog {arguments}")],
                "resources": resources,
            }],
        })
    };
    let rate = speed::rate_mib_s(100);
    let leak = hog(
        &format!("--rate-mib-s {rate} --start-mib 100 --max-mib 2000 --sigterm-ms 300"),
        json!({ "requests": { "memory": "16Mi" } }),
    );
    plane.apply(&cluster::deployment(&node.name, "leaks", 1, &leak)).unwrap();
    let bounded = hog("--rate-mib-s 20 --max-mib 200", json!({ "limits": { "memory": "48Mi" } }));
    plane.apply(&cluster::deployment(&node.name, "bounded", 1, &bounded)).unwrap();
}

#[test]
fn prometheus_scrapes_a_node_and_answers_the_dashboard() {
    let node = Node::new("watched", newest());
    let plane = cluster::around(&node, "watched-plane", &Options::default());
    let mut node = Joined::within(&plane, "watched", node);
    node.cap_kubepods(CAP_MIB).unwrap();
    node.config_mut()["evictionHard"] = json!({ "memory.available": "100Mi" });
    node.start_serving();
    make_trouble(&node, &plane);

    let (authority, (certificate, key)) = (plane.authority_path(), scraper(&plane));
    let rules = paths::repository().join("packaging/prometheus/oomlet.rules.yaml");
    let scrape = Scrape {
        // Sooner than people have it, and no sooner than a busy machine answers.
        interval: Duration::from_secs(5),
        target: format!("{NODE_IP}:10250"),
        authority: Some(&authority),
        client: Some((&certificate, &key)),
        paths: &PATHS,
        rules: &[Path::new(&rules)],
    };
    let dir = node.scratch().create_dir("prometheus").unwrap();
    let prometheus = Prometheus::start(&dir, node.containerd.netns(), &scrape).unwrap();
    let diagnosis = || format!("{}\n{}", prometheus.diagnosis(), node.diagnosis());
    for path in PATHS {
        let job = path.trim_matches('/').replace('/', "-");
        wait(&format!("a scrape of {path}\n{}", diagnosis()), || {
            let up = prometheus.query(&format!("up{{job=\"{job}\"}} == 1")).ok()?;
            (up.len() == 1).then_some(())
        });
    }
    for query in dashboard::queries("5m") {
        wait(&format!("an answer to {query:?}\n{}", diagnosis()), || {
            let answered = prometheus.query(&query.expr).unwrap_or_else(|e| panic!("{query:?}: {e:#}"));
            let is_data = |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
            (!answered.is_empty() && answered.iter().any(is_data)).then_some(())
        });
    }
    // A leak whose node alone was short is told of by the rules as well.
    wait(&format!("an alert\n{}", diagnosis()), || {
        let alerts = prometheus.query("ALERTS{alertname=~\"Oomlet.*\"}").ok()?;
        (!alerts.is_empty()).then_some(())
    });

    for path in PATHS {
        let text = plane.kubectl(&["get", "--raw", &format!("/api/v1/nodes/watched/proxy{path}")]).unwrap();
        let mut found = lint(&text).unwrap_or_else(|e| panic!("{path}: {e:#}"));
        found.retain(|line| {
            !THEIRS.iter().any(|(name, words, _)| line.starts_with(name) && line.contains(words))
        });
        assert!(found.is_empty(), "{path}:\n{}", found.join("\n"));
    }
}
