use std::collections::BTreeMap;

use prometheus::TextEncoder;

use super::*;
use crate::pod::PodRef;
use crate::stats::account::StatCounters;
use crate::stats::numbers::{
    Container, Cpu, DeviceIo, Interface, Io, Memory, Processes, Sandbox, Throttling,
};

/// In milliseconds.
const AT_MS: i64 = 1_767_323_045_600;
const AT: i64 = AT_MS * 1_000_000;

fn cgroup(path: &str) -> Cgroup {
    Cgroup {
        path: path.to_owned(),
        created_ns: Some(AT),
        cpu: Some(Cpu { at_ns: AT, usage_ns: 1_500_000_000, ..Cpu::default() }),
        memory: Some(Memory {
            at_ns: AT,
            usage_bytes: 100,
            working_set_bytes: 70,
            counters: StatCounters { rss_bytes: Some(40), page_faults: Some(3), ..StatCounters::default() },
            ..Memory::default()
        }),
        processes: Some(Processes { at_ns: AT, threads: Some(2), ..Processes::default() }),
        ..Cgroup::default()
    }
}

fn node() -> Node {
    let mut limited = cgroup("/kubepods/podu/c1");
    limited.spec.cpu.quota_us = Some(50_000);
    if let Some(cpu) = &mut limited.cpu {
        cpu.throttling = Some(Throttling { periods: 10, throttled_periods: 4, ..Throttling::default() });
    }
    let device =
        DeviceIo { device: "/dev/sda".to_owned(), major: 8, read_bytes: 4096, ..DeviceIo::default() };
    limited.io = Some(Io { at_ns: AT, devices: vec![device], pressure: None });
    let pod = Pod {
        pod: PodRef { uid: "u".into(), namespace: "ns".into(), name: "web".into() },
        started_ns: Some(AT),
        host_network: false,
        cgroup: cgroup("/kubepods/podu"),
        sandbox: Some(Sandbox {
            id: "s1".to_owned(),
            image: "pause:3".to_owned(),
            cgroup: cgroup("/kubepods/podu/s1"),
        }),
        containers: vec![Container {
            name: "app".to_owned(),
            id: "c1".to_owned(),
            image: "app:1".to_owned(),
            started_ns: Some(AT),
            cgroup: limited,
            oom_kills: 2,
            ..Container::default()
        }],
        volumes: Vec::new(),
        logs: None,
        network: Some(Network {
            at_ns: AT,
            interfaces: vec![Interface { name: "eth0".to_owned(), ..Interface::default() }],
        }),
    };
    Node {
        root: cgroup("/"),
        classes: vec![cgroup("/kubepods")],
        system_containers: BTreeMap::from([
            ("pods", cgroup("/kubepods")),
            ("runtime", cgroup("/containerd")),
        ]),
        machine: Machine { cpus: 4, memory_bytes: 1 << 30, machine_id: "m".to_owned(), ..Machine::default() },
        pods: BTreeMap::from([("u".into(), pod)]),
        ..Node::default()
    }
}

fn text(node: Option<&Node>) -> String {
    TextEncoder::new().encode_to_string(&families(node, "oomlet 0.1.0", AT)).unwrap()
}

#[test]
fn a_container_has_kubelets_labels_and_the_time_of_its_reading() {
    let text = text(Some(&node()));
    let labels = r#"container="app",id="/kubepods/podu/c1",image="app:1",name="c1",namespace="ns",pod="web""#;
    for line in [
        format!("container_memory_working_set_bytes{{{labels}}} 70 {AT_MS}"),
        format!("container_memory_rss{{{labels}}} 40 {AT_MS}"),
        format!("container_oom_events_total{{{labels}}} 2 {AT_MS}"),
        format!("container_cpu_cfs_throttled_periods_total{{{labels}}} 4 {AT_MS}"),
        format!("container_spec_memory_limit_bytes{{{labels}}} 0"),
        format!("container_spec_cpu_quota{{{labels}}} 50000"),
        format!("container_start_time_seconds{{{labels}}} 1767323045"),
        format!(
            r#"container_cpu_usage_seconds_total{{container="app",cpu="total",id="/kubepods/podu/c1",image="app:1",name="c1",namespace="ns",pod="web"}} 1.5 {AT_MS}"#
        ),
        format!(
            r#"container_fs_reads_bytes_total{{container="app",device="/dev/sda",id="/kubepods/podu/c1",image="app:1",name="c1",namespace="ns",pod="web"}} 4096 {AT_MS}"#
        ),
        "# TYPE container_memory_rss gauge".to_owned(),
        "# HELP container_memory_rss Size of RSS in bytes.".to_owned(),
        "# TYPE container_memory_failures_total counter".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn the_network_is_the_sandboxs() {
    let text = text(Some(&node()));
    let of: Vec<&str> =
        text.lines().filter(|l| l.starts_with("container_network_receive_bytes_total{")).collect();
    assert_eq!(of.len(), 1, "{of:?}");
    assert!(
        of[0].contains(r#"container="",id="/kubepods/podu/s1",image="pause:3",interface="eth0",name="s1""#)
    );
}

#[test]
fn each_cgroup_once() {
    let text = text(Some(&node()));
    let of = |id: &str| {
        let label = format!("id=\"{id}\"");
        text.lines().filter(|l| l.starts_with("container_memory_usage_bytes{") && l.contains(&label)).count()
    };
    for id in ["/", "/kubepods", "/containerd", "/kubepods/podu", "/kubepods/podu/s1", "/kubepods/podu/c1"] {
        assert_eq!(of(id), 1, "{id}");
    }
}

#[test]
fn what_was_not_read_is_not_there() {
    let text = text(Some(&node()));
    for name in [
        "container_memory_swap",
        "container_memory_max_usage_bytes",
        "container_sockets",
        "container_pressure",
    ] {
        assert!(!text.contains(name), "{name}");
    }
    assert!(!text.contains(r#"failure_type="pgmajfault""#));
    // Without a quota nothing is throttled.
    assert_eq!(text.lines().filter(|l| l.starts_with("container_cpu_cfs_periods_total{")).count(), 1);
}

#[test]
fn before_the_first_reading_there_is_an_error() {
    let text = text(None);
    assert_eq!(
        text.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>(),
        ["container_scrape_error 1"]
    );
}
