//! Pods of every QoS class, their cgroups, processes, logs and addresses.

use std::fs;

use oomlet_tests::cgroup::CpuShare;
use oomlet_tests::node::{Node, pod_name, script};
use oomlet_tests::{cgroup, on_oldest_and_newest_containerd, pod};
use serde_json::{Value, json};
use xtask::node::manifest::{guaranteed, pod as workload, with_memory};
use xtask::node::mem_total_bytes;
use xtask::private_containerd::Version;

const MIB: u64 = 1 << 20;

on_oldest_and_newest_containerd!(pods_of_every_class, pods_have_the_network_that_they_ask_for);

fn pods_of_every_class(version: Version) {
    let mut node = Node::new("classes", version);
    let mut limited = with_memory(workload("limited", "idle", &["--mib", "2"]), "32Mi", "128Mi");
    limited["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("250m");
    let total = mem_total_bytes().unwrap();
    let quarter_mib = total / MIB / 4;
    let asking = with_memory(workload("asking", "idle", &[]), &format!("{quarter_mib}Mi"), "");
    node.put(&guaranteed(workload("guaranteed", "idle", &[]), "64Mi", "500m"));
    node.put(&limited);
    node.put(&asking);
    node.put(&workload("besteffort", "idle", &[]));
    let started = node.start();
    assert_eq!(started.number("tier"), Some(2), "this kernel has BTF: {}", started.message);

    for expected in [
        // CPU shares are 1024 a CPU, at least 2; on v2 by the formula of kubernetes#131216. Scores: pkg/kubelet/qos/policy.go.
        Class {
            name: "guaranteed",
            class: "",
            limit_mib: Some(64),
            share: share(512, 59),
            oom_score_adj: None,
        },
        Class {
            name: "limited",
            class: "burstable/",
            limit_mib: Some(128),
            share: share(256, 35),
            oom_score_adj: Some(1000 - 1000 * 32 * MIB / total),
        },
        Class {
            name: "asking",
            class: "burstable/",
            limit_mib: None,
            share: share(2, 1),
            oom_score_adj: Some(1000 - 1000 * quarter_mib * MIB / total),
        },
        Class {
            name: "besteffort",
            class: "besteffort/",
            limit_mib: None,
            share: share(2, 1),
            oom_score_adj: Some(1000),
        },
    ] {
        expected.check(&node);
    }
    let table = node.command(&["pods"]).ok();
    for (name, class) in [
        ("guaranteed", "Guaranteed"),
        ("limited", "Burstable"),
        ("asking", "Burstable"),
        ("besteffort", "BestEffort"),
    ] {
        let name = pod_name(name);
        let line = table.lines().find(|l| l.contains(&name)).unwrap_or_else(|| panic!("{name} in {table}"));
        assert!(line.contains(class) && line.contains("1/1") && line.contains("Running"), "{line}");
    }
    let kubepods = cgroup::dir(node.scratch(), "memory", "");
    assert_eq!(
        cgroup::memory_limit(&kubepods),
        Some(total / 4096 * 4096),
        "the node's memory, nothing reserved"
    );
}

const fn share(shares: u64, weight: u64) -> CpuShare {
    CpuShare { shares, weight }
}

struct Class {
    name: &'static str,
    /// The folder of its QoS class below `kubepods`.
    class: &'static str,
    limit_mib: Option<u64>,
    share: CpuShare,
    /// `None`: negative, which takes a capability that a test machine may lack.
    oom_score_adj: Option<u64>,
}

impl Class {
    fn check(&self, node: &Node) {
        let name = self.name;
        node.wait_up(&[name]);
        let pod = node.pod(name).unwrap();
        let below = format!("{}pod{}", self.class, pod::uid(&pod));
        let limit = self.limit_mib.map(|mib| mib * MIB);
        let memory = cgroup::dir(node.scratch(), "memory", &below);
        assert_eq!(cgroup::memory_limit(&memory), limit, "{}", memory.display());
        let cpu = cgroup::dir(node.scratch(), "cpu", &below);
        assert!(cgroup::has_cpu_share(&cpu, self.share), "{} has not {:?}", cpu.display(), self.share);

        let container = node.the_container_of(name);
        let own = cgroup::of_container(node.scratch(), &memory, &container.id);
        assert_eq!(cgroup::memory_limit(&own), limit, "{}", own.display());
        // v2 alone has it; kubelet's default there.
        if let Ok(group) = fs::read_to_string(own.join("memory.oom.group")) {
            assert_eq!(group, "1\n", "{}", own.display());
        }
        let members = fs::read_to_string(own.join("cgroup.procs")).unwrap();
        assert!(members.lines().any(|pid| pid == container.pid.to_string()), "{members}");
        let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", container.pid)).unwrap();
        if let Some(expected) = self.oom_score_adj {
            assert_eq!(score.trim(), expected.to_string(), "oom_score_adj of {name}");
        }
        assert_eq!(node.log(&pod, "main", 0), "idle\n");
        let status = pod::container(&pod, "main");
        assert_eq!(status["restartCount"], 0);
        assert_eq!(status["containerID"], format!("containerd://{}", container.id));
        for condition in
            ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]
        {
            assert_eq!(pod::condition(&pod, condition), "True", "{condition} of {name}");
        }
    }
}

fn pods_have_the_network_that_they_ask_for(version: Version) {
    let mut node = Node::new("network", version);
    let serve = |name: &str, port: u16| script(name, &format!("exec httpd -f -p {port} -h /etc"));
    let mut host = serve("host", 18080);
    host["spec"]["hostNetwork"] = json!(true);
    node.put(&host);
    node.put(&serve("own", 8080));
    node.start();
    node.wait_up(&["host", "own"]);

    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let of_node = namespace(node.containerd.pid().unwrap());
    assert_eq!(namespace(node.the_container_of("host").pid), of_node);
    assert_ne!(namespace(node.the_container_of("own").pid), of_node);

    let own = node.pod("own").unwrap();
    let ip = own["status"]["podIP"].as_str().unwrap();
    assert!(ip.starts_with("10.88."), "the CNI network's range: {ip}");
    assert_eq!(own["status"]["podIPs"], json!([{ "ip": ip }]));
    // The server may need a moment after its container counts as started.
    for address in [format!("{ip} 8080"), "127.0.0.1 18080".to_owned()] {
        let fetch = format!(r"printf 'GET /group HTTP/1.0\r\n\r\n' | busybox nc -w 5 {address}");
        node.wait(&format!("{address} answers"), |node| {
            node.containerd.netns().sh(&fetch).is_ok_and(|page| page.contains("root"))
        });
    }
    let host = node.pod("host").unwrap();
    // A machine without a route to anywhere has no address to show.
    assert_eq!(host["status"]["podIP"], host["status"]["hostIP"]);
    assert_ne!(host["status"]["podIP"], Value::from(ip));
}
