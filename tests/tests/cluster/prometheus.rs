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

/// What promtool has against names that kubelet and cAdvisor have chosen, and that everybody's rules and dashboards ask for: the
/// metric, what is said of it, and whose it is. Another name would not be found.
const THEIRS: &[(&str, &str, &str)] = &[
    (
        "kubelet_certificate_manager_client_expiration_renew_errors",
        NO_TOTAL,
        "kubelet: pkg/kubelet/certificate/kubelet.go",
    ),
    ("kubelet_evictions", NO_TOTAL, "kubelet: pkg/kubelet/metrics/metrics.go"),
    ("kubelet_server_expiration_renew_errors", NO_TOTAL, "kubelet: pkg/kubelet/certificate/kubelet.go"),
    ("container_memory_failcnt", NO_TOTAL, "cAdvisor: metrics/prometheus.go"),
    (
        "cadvisor_version_info",
        "label names should be written in 'snake_case' not 'camelCase'",
        "cAdvisor: metrics/prometheus.go",
    ),
];
const NO_TOTAL: &str = "counter metrics should have \"_total\" suffix";

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
    // So fast that the forecast comes before the threshold.
    let rate = speed::rate_mib_s(400);
    let leak = hog(
        &format!("--rate-mib-s {rate} --start-mib 50 --max-mib 2000 --sigterm-ms 500"),
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
    // So that the leak may come back soon.
    node.config_mut()["evictionPressureTransitionPeriod"] = json!("5s");
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

    let mut found = Vec::new();
    for path in PATHS {
        let text = plane.kubectl(&["get", "--raw", &format!("/api/v1/nodes/watched/proxy{path}")]).unwrap();
        found.extend(lint(&text).unwrap_or_else(|e| panic!("{path}: {e:#}")).into_iter().map(|f| (path, f)));
    }
    let is = |line: &str, (name, words, _): &(&str, &str, &str)| line == format!("{name} {words}");
    for theirs in THEIRS {
        assert!(found.iter().any(|(_, line)| is(line, theirs)), "nothing is said against {theirs:?}");
    }
    found.retain(|(_, line)| !THEIRS.iter().any(|theirs| is(line, theirs)));
    assert!(found.is_empty(), "{found:#?}");
}
