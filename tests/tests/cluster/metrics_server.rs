//! metrics-server asks the node, and `kubectl top` and an autoscaler ask metrics-server.

use oomlet_tests::cluster::joined::{Joined, obedient, shell};
use oomlet_tests::cluster::{self, wait};
use oomlet_tests::newest;
use oomlet_tests::node::Node;
use serde_json::{Value, json};
use xtask::control_plane::Options;
use xtask::control_plane::metrics_server::MetricsServer;

/// Of a CPU, for the container that is busy: its limit.
const BUSY_MILLIS: u64 = 100;
const HELD_MIB: u64 = 24;

/// `103m` of a CPU, `31Mi` of memory.
fn amount(text: &str, unit: &str) -> u64 {
    text.strip_suffix(unit)
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{text:?} is not in {unit}"))
}

/// The cells of the row that begins with this name.
fn row(table: &str, name: &str) -> Option<Vec<String>> {
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    table.lines().map(cells).find(|row| row.first().is_some_and(|first| first == name))
}

#[test]
fn top_and_an_autoscaler_work() {
    let node = Node::new("metrics", newest());
    // An autoscaler waits minutes for pods that have just started, and between two looks.
    let soon = ["sync-period=2s", "cpu-initialization-period=1s", "initial-readiness-delay=1s"];
    let flags = soon.map(|flag| format!("--horizontal-pod-autoscaler-{flag}")).to_vec();
    let options = Options { controller_manager_flags: flags, ..Options::default() };
    let plane = cluster::around(&node, "metrics-plane", &options);
    let mut node = Joined::within(&plane, "metrics", node);
    node.start_serving();
    let server = MetricsServer::start(&plane, &plane.authority_path()).unwrap();

    let mut busy = obedient();
    busy["nodeSelector"] = json!({ "test": "metrics" });
    let hold =
        format!("dd if=/dev/zero of=/dev/shm/held bs=1M count={HELD_MIB}; exec sh -c 'while :; do :; done'");
    busy["containers"][0] = shell("main", &hold);
    busy["containers"][0]["resources"] = json!({
        "requests": { "cpu": "50m", "memory": "16Mi" },
        "limits": { "cpu": format!("{BUSY_MILLIS}m"), "memory": "96Mi" },
    });
    plane.apply(&cluster::deployment("metrics", "busy", 1, &busy)).unwrap();
    plane
        .apply(&json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": { "name": "busy", "namespace": "metrics" },
            "spec": {
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "busy" },
                "minReplicas": 1, "maxReplicas": 2,
                // It asks for 50m and takes 100m.
                "metrics": [{ "type": "Resource", "resource": {
                    "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 100 } } }],
            },
        }))
        .unwrap();

    let said = |what: &str| format!("{what}\n{}\n{}", server.diagnosis(), node.diagnosis());
    let of_node = wait(&said("kubectl top node"), || {
        row(&plane.kubectl(&["top", "node", "metrics"]).ok()?, "metrics").filter(|row| row[1] != "<unknown>")
    });
    // metrics   187m   9%   812Mi   4%
    assert!(amount(&of_node[1], "m") > 0 && amount(&of_node[3], "Mi") > 0, "{of_node:?}");
    let pod = wait(&said("kubectl top pod"), || {
        let table = plane
            .kubectl(&["top", "pod", "--namespace=metrics", "--selector=app=busy", "--containers"])
            .ok()?;
        let rows = table.lines().filter(|line| line.contains(" main ")).map(str::to_owned);
        let rows: Vec<Vec<String>> =
            rows.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        // Two readings make a rate: until then it is not listed. The first may be of its start.
        rows.into_iter().find(|row| amount(&row[2], "m") > BUSY_MILLIS / 2)
    });
    assert!(amount(&pod[2], "m") < BUSY_MILLIS * 3 / 2, "{pod:?}");
    assert!((HELD_MIB..HELD_MIB + 24).contains(&amount(&pod[3], "Mi")), "{pod:?}");

    let scaled =
        node.wait_object(&["hpa", "busy"], "at two replicas", |hpa| hpa["status"]["desiredReplicas"] == 2);
    let seen = scaled["status"]["currentMetrics"][0]["resource"]["current"]["averageUtilization"].clone();
    assert!(seen.as_u64().is_some_and(|percent| (100..400).contains(&percent)), "{scaled:#}");
    node.wait_object(&["deployment", "busy"], "scaled", |deployment: &Value| {
        deployment["status"]["readyReplicas"] == 2
    });
}
