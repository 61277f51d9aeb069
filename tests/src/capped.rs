//! A node under a cap, a hog, and neighbours that must live on: what an eviction is judged by.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use xtask::node::RunningContainer;
use xtask::node::manifest::{guaranteed, pod as workload, with_host_path, with_memory};
use xtask::node::trace::TraceRecord;
use xtask::private_containerd::Version;

use crate::node::{Node, pod_name};
use crate::speed::rate_mib_s;
use crate::{cgroup, pod};

/// The memory of all pods together.
pub const CAP_MIB: u64 = 300;
const NEIGHBOURS: [&str; 3] = ["guaranteed", "burstable", "besteffort"];

/// A node whose pods have 300 MiB together, with three quiet ones that must live on.
#[derive(Debug)]
pub struct CappedNode {
    pub node: Node,
    pub marks: PathBuf,
    before: Vec<RunningContainer>,
}

impl CappedNode {
    #[must_use]
    pub fn start(
        label: &str,
        version: Version,
        hard: &str,
        configure: impl FnOnce(&mut Value),
    ) -> CappedNode {
        let mut node = Node::new(label, version);
        node.cap_kubepods(CAP_MIB).unwrap();
        node.config_mut()["evictionHard"] = json!({ "memory.available": hard });
        configure(node.config_mut());
        node.put(&guaranteed(workload("guaranteed", "idle", &["--mib", "12"]), "32Mi", "500m"));
        // Above its request: kubelet's ranking alone would find it before a hog that has hardly begun.
        node.put(&with_memory(workload("burstable", "idle", &["--mib", "24"]), "16Mi", "64Mi"));
        node.put(&workload("besteffort", "idle", &["--mib", "8"]));
        let marks = node.scratch().create_dir("marks").unwrap();
        node.start();
        node.wait_up(&NEIGHBOURS);
        let before = node.running().unwrap();
        assert_eq!(before.len(), NEIGHBOURS.len());
        CappedNode { node, marks, before }
    }

    /// Starts it at this rate on a real CPU, with more options; its SIGTERM handler works for half a second.
    pub fn hog(&self, mib_s: u32, more: &[&str]) {
        self.put_hog(mib_s, more, |hog| with_memory(hog, "16Mi", ""));
    }

    /// The same without a request.
    pub fn besteffort_hog(&self, mib_s: u32, more: &[&str]) {
        self.put_hog(mib_s, more, |hog| hog);
    }

    fn put_hog(&self, mib_s: u32, more: &[&str], class: impl FnOnce(Value) -> Value) {
        let rate = rate_mib_s(mib_s);
        let args = [&["--rate-mib-s", &rate, "--sigterm-ms", "500", "--mark", "/marks/mark"], more].concat();
        let mut hog = class(workload("hog", "hog", &args));
        hog["spec"]["restartPolicy"] = json!("Never");
        hog["spec"]["terminationGracePeriodSeconds"] = json!(30);
        self.node.put(&with_host_path(hog, &self.marks, "/marks"));
    }

    /// The hog is evicted, in order and alone; its manifest is gone then.
    #[track_caller]
    pub fn expect_eviction(&self) {
        let node = &self.node;
        let hog = node.wait_evicted("hog");
        let message = hog["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("The node was low on resource: memory. "), "{message}");
        assert_eq!(pod::condition(&hog, "DisruptionTarget"), "True");

        let name = pod_name("hog");
        let decision = node.wait_record("the decision", |r| r.kind == "Decision");
        assert_eq!((decision.pod_name(), decision.domain.as_deref()), (name.as_str(), Some("kubepods")));
        let number = |key: &str| decision.number(key).unwrap_or_else(|| panic!("{key} in {decision:?}"));
        assert!(number("usage_bytes") < number("limit_bytes"), "{decision:?}");
        let stopped =
            node.wait_record("the hog's end", |r| r.kind == "Eviction" && r.number("took_ms").is_some());
        assert_eq!(stopped.number("sigkill"), Some(0), "{}", self.story());
        assert!(stopped.number("freed_bytes") >= Some(16 << 20), "{}", self.story());
        assert!(
            node.agent_log().contains("stop signal sent"),
            "by the agent's own hand: {}",
            node.agent_log()
        );
        assert!(stopped.number("took_ms") >= Some(500), "its handler takes 500 ms: {}", self.story());
        let mark = self.mark();
        assert!(mark.contains("sigterm received") && mark.contains("sigterm handled"), "{mark}");
        assert_eq!(pod::container(&hog, "main")["state"]["terminated"]["exitCode"], 0, "{}", hog["status"]);
        self.expect_no_kill();
        assert_eq!(node.running_of("hog"), []);
        // Ids and pids, and nobody beside them.
        assert_eq!(self.neighbours(), self.before);
        let evicted: Vec<_> = node.records("Decision").iter().map(|r| r.pod_name().to_owned()).collect();
        assert_eq!(evicted, [name], "one pod pays, once");
    }

    /// The kernel has killed nobody here. Of kills elsewhere on the machine, such as in another test's pods, the agent
    /// tells too.
    #[track_caller]
    pub fn expect_no_kill(&self) {
        let here = |r: &TraceRecord| r.kind == "OomKill" && r.domain.as_deref() != Some("other");
        let killed = self.node.trace().unwrap().iter().any(here);
        assert!(!killed, "{}", self.story());
        assert_eq!(cgroup::oom_kills(&self.node.kubepods_dir().unwrap()), 0, "by the kernel's own count");
    }

    /// What the hog's SIGTERM handler has noted.
    #[must_use]
    pub fn mark(&self) -> String {
        fs::read_to_string(self.marks.join("mark")).unwrap_or_default()
    }

    /// For a failure's message: what was decided and done, and what the hog noted of it.
    fn story(&self) -> String {
        let told = ["Decision", "Brake", "Eviction", "OomKill"];
        let records = self.node.trace().unwrap().into_iter().filter(|r| told.contains(&r.kind.as_str()));
        let lines: Vec<String> = records
            .map(|r| {
                format!(
                    "{} {} {} {} {:?}",
                    r.monotonic_ns / 1_000_000,
                    r.kind,
                    r.reason,
                    r.message,
                    r.numbers
                )
            })
            .collect();
        format!("{}\nthe hog: {}", lines.join("\n"), self.mark())
    }

    fn neighbours(&self) -> Vec<RunningContainer> {
        let is_neighbour = |c: &RunningContainer| NEIGHBOURS.iter().any(|name| c.pod == pod_name(name));
        self.node.running().unwrap().into_iter().filter(is_neighbour).collect()
    }
}
