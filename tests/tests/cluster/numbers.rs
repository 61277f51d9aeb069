//! The node's numbers, by the API that has them: the Summary and the pages of metrics of a node with a pod.

use std::io::Write as _;
use std::process::{Command, Stdio};

use oomlet_tests::cluster::joined::Joined;
use oomlet_tests::cluster::{shared, wait};
use serde_json::Value;
use xtask::compare::numbers::{self, Families, PAGES};
use xtask::setup::prometheus::Programs;

/// The Summary, once the pod's numbers are there.
fn wait_summary(node: &Joined<'_>) -> Value {
    let mut last = String::new();
    wait(&format!("the pod's numbers\n{}", node.diagnosis()), || {
        last = numbers::get(node, "/stats/summary").ok()?;
        let summary = serde_json::from_str(&last).ok()?;
        numbers::has_come(&summary, "numbers").then_some(summary)
    })
}

fn started<'a>(name: &str) -> Joined<'a>
where
    'static: 'a,
{
    let mut node = Joined::new(shared(), name);
    numbers::let_in(&mut node);
    node.start();
    node.wait_ready();
    node.run_pod("numbers", &numbers::pod_spec());
    node
}

#[test]
fn the_summary_and_every_page() {
    let node = started("numbers");
    let summary = wait_summary(&node);

    let of_node = &summary["node"];
    assert_eq!(of_node["nodeName"], "numbers");
    for key in ["cpu", "memory", "fs", "rlimit", "runtime", "startTime"] {
        assert!(!of_node[key].is_null(), "{key}: {of_node:#}");
    }
    let system = of_node["systemContainers"].as_array().unwrap();
    let pods = system.iter().find(|c| c["name"] == "pods").unwrap();
    assert!(pods["memory"]["workingSetBytes"].as_u64().unwrap() > 0);
    let pod = summary["pods"].as_array().unwrap().iter().find(|p| p["podRef"]["name"] == "numbers").unwrap();
    let app = &pod["containers"][0];
    let limit = 64 << 20;
    let (used, left) = (&app["memory"]["workingSetBytes"], &app["memory"]["availableBytes"]);
    assert_eq!(used.as_u64().unwrap() + left.as_u64().unwrap(), limit, "{app:#}");
    // It may use a fifth of a CPU.
    let nano_cores = app["cpu"]["usageNanoCores"].as_u64().unwrap();
    assert!((1..400_000_000).contains(&nano_cores), "{nano_cores}");
    assert_eq!(pod["network"]["name"], "eth0");
    let ephemeral = pod["ephemeral-storage"]["usedBytes"].as_u64().unwrap();
    assert!(ephemeral >= app["logs"]["usedBytes"].as_u64().unwrap());

    let only: Value =
        serde_json::from_str(&numbers::get(&node, "/stats/summary?only_cpu_and_memory=true").unwrap())
            .unwrap();
    assert!(only["node"]["fs"].is_null() && only["pods"][0]["network"].is_null());

    let kubelets = numbers::recorded().unwrap();
    for page in PAGES {
        let text = numbers::get(&node, page).unwrap();
        assert_valid(page, &text);
        let ours = numbers::families(&text).unwrap();
        assert_eq!(numbers::differences(&ours, &kubelets.pages[page]), Vec::<String>::new(), "{page}");
    }
}

/// promtool reads it; what it finds fault with in kubelet's names is no matter.
fn assert_valid(page: &str, text: &str) {
    let programs = Programs::find().unwrap().expect("set-up has installed Prometheus");
    let spawned = Command::new(programs.promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = spawned.unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    // 3: of style.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{page}: {said}");
}

#[test]
fn what_kube_prometheus_asks_for() {
    let node = started("asked");
    wait_summary(&node);
    let families = |page: &str| numbers::families(&numbers::get(&node, page).unwrap()).unwrap();
    let (metrics, cadvisor) = (families("/metrics"), families("/metrics/cadvisor"));
    let list = numbers::asked_by_kube_prometheus().unwrap();
    let mut missing = Vec::new();
    for line in list.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let [metric, page, when] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let of: &Families = if page == "/metrics" { &metrics } else { &cadvisor };
        if matches!(when, "always" | "quota") && !of.contains_key(metric) {
            missing.push(format!("{metric} on {page}"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    // By these labels rules join.
    for metric in ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes"] {
        for label in ["container", "pod", "namespace", "image"] {
            assert!(cadvisor[metric].labels.contains(label), "{metric} {label}");
        }
    }
}
