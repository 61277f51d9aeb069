use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::pod::PodRef;
use crate::stats::account::StatCounters;
use crate::stats::numbers::{
    Cpu, Interface, Io, Memory, Network, Pressure, PressureLine, Processes, Rlimit, Swap, Traffic, Volume,
};

/// 2026-01-02T03:04:05.6Z.
const AT: i64 = 1_767_323_045_600_000_000;
const AT_TEXT: &str = "2026-01-02T03:04:05Z";

fn cgroup(usage_bytes: u64) -> Cgroup {
    Cgroup {
        created_ns: Some(AT),
        cpu: Some(Cpu { at_ns: AT, usage_ns: 5, usage_nano_cores: Some(7), ..Cpu::default() }),
        memory: Some(Memory {
            at_ns: AT,
            usage_bytes,
            working_set_bytes: usage_bytes / 2,
            counters: StatCounters {
                rss_bytes: Some(9),
                page_faults: Some(3),
                major_page_faults: Some(0),
                ..StatCounters::default()
            },
            ..Memory::default()
        }),
        processes: Some(Processes { processes: Some(2), ..Processes::default() }),
        ..Cgroup::default()
    }
}

fn fs(used_bytes: u64) -> FsUse {
    FsUse {
        at_ns: AT,
        available_bytes: Some(100),
        capacity_bytes: Some(1000),
        used_bytes: Some(used_bytes),
        inodes_free: Some(50),
        inodes: Some(60),
        inodes_used: Some(used_bytes / 10),
    }
}

fn interface(name: &str) -> Interface {
    let traffic = |bytes| Traffic { bytes, packets: 2, errors: 1, dropped: 0 };
    Interface { name: name.to_owned(), received: traffic(100), transmitted: traffic(200) }
}

fn pod() -> Pod {
    let pod = PodRef { uid: "u1".into(), namespace: "ns".into(), name: "web".into() };
    let container = |name: &str| Container {
        name: name.to_owned(),
        started_ns: Some(AT),
        cgroup: cgroup(1000),
        rootfs: Some(fs(10)),
        logs: Some(fs(20)),
        ..Container::default()
    };
    let volume = |name: &str, ephemeral, claim: Option<&str>| Volume {
        name: name.to_owned(),
        ephemeral,
        claim: claim.map(str::to_owned),
        fs: fs(100),
    };
    Pod {
        pod,
        started_ns: Some(AT),
        host_network: false,
        cgroup: cgroup(3000),
        sandbox: None,
        containers: vec![container("a"), container("b")],
        volumes: vec![volume("cache", true, None), volume("data", false, Some("claim-1"))],
        logs: None,
        network: Some(Network { at_ns: AT, interfaces: vec![interface("lo"), interface("eth0")] }),
    }
}

fn node() -> Node {
    let pod = pod();
    Node {
        name: "n1".to_owned(),
        booted_ns: AT,
        agent_started_ns: AT + 3_000_000_000,
        machine: numbers::Machine { memory_bytes: 10_000, ..numbers::Machine::default() },
        root: cgroup(8000),
        nodefs: Some(fs(900)),
        imagefs: Some(fs(400)),
        rlimit: Some(Rlimit { at_ns: AT, max_pid: 32768, running: 300 }),
        swap: Some(Swap { at_ns: AT, available_bytes: Some(0), used_bytes: Some(0) }),
        system_containers: BTreeMap::from([("kubelet", cgroup(50)), ("pods", cgroup(6000))]),
        pods: BTreeMap::from([(pod.pod.uid.clone(), pod)]),
        ..Node::default()
    }
}

fn json_of(node: &Node, scope: Scope) -> Value {
    serde_json::to_value(Summary::of(node, scope)).unwrap()
}

#[test]
fn the_node() {
    let summary = json_of(&node(), Scope::All);
    let node = &summary["node"];
    assert_eq!(node["nodeName"], "n1");
    assert_eq!(node["startTime"], AT_TEXT);
    assert_eq!(node["cpu"], json!({ "time": AT_TEXT, "usageNanoCores": 7, "usageCoreNanoSeconds": 5 }));
    let memory = json!({
        "time": AT_TEXT, "availableBytes": 6000, "usageBytes": 8000, "workingSetBytes": 4000, "rssBytes": 9,
        "pageFaults": 3, "majorPageFaults": 0,
    });
    assert_eq!(node["memory"], memory);
    assert_eq!(node["fs"]["usedBytes"], 900);
    assert_eq!(node["runtime"]["imageFs"]["usedBytes"], 400);
    assert_eq!(node["runtime"].get("containerFs"), None);
    assert_eq!(node["rlimit"], json!({ "time": AT_TEXT, "maxpid": 32768, "curproc": 300 }));
    assert_eq!(node["swap"], json!({ "time": AT_TEXT, "swapAvailableBytes": 0, "swapUsageBytes": 0 }));
    let system: Vec<_> = node["systemContainers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(system, ["kubelet", "pods"]);
    assert_eq!(node["systemContainers"][0]["startTime"], "2026-01-02T03:04:08Z");
}

#[test]
fn a_pod() {
    let summary = json_of(&node(), Scope::All);
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"], json!({ "name": "web", "namespace": "ns", "uid": "u1" }));
    assert_eq!(pod["memory"].get("availableBytes"), None, "it has no limit");
    let eth0 = json!({ "name": "eth0", "rxBytes": 100, "rxErrors": 1, "txBytes": 200, "txErrors": 1 });
    assert_eq!(pod["network"]["rxBytes"], eth0["rxBytes"]);
    assert_eq!((&pod["network"]["name"], &pod["network"]["interfaces"][1]), (&eth0["name"], &eth0));
    assert_eq!(pod["volume"][1]["pvcRef"], json!({ "name": "claim-1", "namespace": "ns" }));
    assert_eq!(pod["process_stats"], json!({ "process_count": 4 }));
    // Two layers, two logs and the ephemeral volume.
    let storage = &pod["ephemeral-storage"];
    assert_eq!((&storage["usedBytes"], &storage["inodesUsed"]), (&json!(160), &json!(16)));
    assert_eq!(storage["capacityBytes"], 1000);
    assert_eq!(pod["containers"][0]["rootfs"]["usedBytes"], 10);
    assert_eq!(pod.get("swap"), None, "it is not accounted");
}

#[test]
fn cpu_and_memory_alone() {
    let summary = json_of(&node(), Scope::CpuAndMemory);
    for key in ["network", "fs", "runtime", "rlimit"] {
        assert_eq!(summary["node"].get(key), None, "{key}");
    }
    let pod = &summary["pods"][0];
    for key in ["network", "volume", "ephemeral-storage", "process_stats"] {
        assert_eq!(pod.get(key), None, "{key}");
    }
    assert_eq!(pod["containers"][0]["cpu"]["usageNanoCores"], 7);
    assert_eq!(pod["containers"][0].get("rootfs"), None);
}

#[test]
fn what_was_not_read_is_not_there() {
    let mut node = node();
    let mut pod = pod();
    pod.containers[0].cgroup = Cgroup::default();
    pod.containers[0].logs = None;
    pod.network = None;
    node.pods.insert(pod.pod.uid.clone(), pod.clone());
    // One that has not begun.
    pod.pod.uid = "u2".into();
    pod.started_ns = None;
    node.pods.insert(pod.pod.uid.clone(), pod);
    let summary = json_of(&node, Scope::All);
    assert_eq!(summary["pods"].as_array().unwrap().len(), 1);
    let container = &summary["pods"][0]["containers"][0];
    for key in ["cpu", "memory", "io", "logs", "swap"] {
        assert_eq!(container.get(key), None, "{key}");
    }
    assert_eq!(summary["pods"][0].get("network"), None);
    assert_eq!(summary["pods"][0]["process_stats"], json!({ "process_count": 2 }));
}

#[test]
fn pressure() {
    let mut node = node();
    let line = |total_us| PressureLine { avg10: 0.5, avg60: 0.25, avg300: 0.0, total_us };
    let pressure = Pressure { some: line(20), full: line(10) };
    node.root.io = Some(Io { at_ns: AT, pressure: Some(pressure), ..Io::default() });
    node.root.cpu.as_mut().unwrap().pressure = Some(pressure);
    let summary = json_of(&node, Scope::All);
    let data = |total| json!({ "total": total, "avg10": 0.5, "avg60": 0.25, "avg300": 0.0 });
    let psi = json!({ "full": data(10), "some": data(20) });
    assert_eq!(summary["node"]["io"], json!({ "time": AT_TEXT, "psi": psi }));
    assert_eq!(summary["node"]["cpu"]["psi"], psi);
    assert_eq!(summary["node"]["memory"].get("psi"), None);
}
