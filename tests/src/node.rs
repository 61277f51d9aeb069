//! A node for one test: [`TestNode`] with the waiting and the questions that tests share.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::node::trace::TraceRecord;
use xtask::node::{RunningContainer, TestNode, manifest};
use xtask::private_containerd::Version;
use xtask::process;
use xtask::scratch::Scratch;

use crate::command::{self, Ran};
use crate::slot::Slot;
use crate::{pod, speed};

/// For whatever the agent and containerd do by themselves, on a machine that is busy with other tests. Usually well
/// under a second; tens of them on an emulated CPU.
#[must_use]
pub fn soon() -> Duration {
    Duration::from_secs(if speed::is_emulated() { 150 } else { 40 })
}

/// Fields are dropped in this order: the node is gone before its place is free.
#[derive(Debug)]
pub struct Node {
    node: TestNode,
    _slot: Slot,
}

impl Deref for Node {
    type Target = TestNode;

    fn deref(&self) -> &TestNode {
        &self.node
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut TestNode {
        &mut self.node
    }
}

impl Node {
    /// containerd runs, the agent does not yet. `label` is for people who look at what runs.
    #[must_use]
    pub fn new(label: &str, version: Version) -> Node {
        Node::prepared(label, version, |_| ())
    }

    /// The same, with file systems of its own.
    #[must_use]
    pub fn prepared(label: &str, version: Version, prepare: impl FnOnce(&Scratch)) -> Node {
        let slot = Slot::take();
        let scratch = Scratch::new(label).unwrap_or_else(|e| panic!("{label}: {e:#}"));
        prepare(&scratch);
        let mut node = TestNode::start_in(scratch, version).unwrap_or_else(|e| panic!("{label}: {e:#}"));
        // A container that keeps ending is started again each second, not after ten and more.
        let period = format!("{}s", speed::longest_restart_period_s());
        node.config_mut()["crashLoopBackOff"] = json!({ "maxContainerRestartPeriod": period });
        Node { node, _slot: slot }
    }

    /// Starts the agent and waits until it says that it has started.
    #[track_caller]
    pub fn start(&mut self) -> TraceRecord {
        let starts = |node: &TestNode| -> Vec<TraceRecord> {
            node.trace().unwrap().into_iter().filter(|r| r.reason == "AgentStarted").collect()
        };
        let before = starts(&self.node).len();
        self.node.start_agent().unwrap();
        let mut ended = None;
        let started = process::holds_within(soon(), || {
            ended = self.node.agent.as_mut().and_then(|agent| agent.ended());
            ended.is_some() || starts(&self.node).len() > before
        });
        assert!(started && ended.is_none(), "the agent does not start ({ended:?})\n{}", self.diagnosis());
        starts(&self.node).pop().unwrap()
    }

    /// Adds or replaces the manifest; the file is called as the pod.
    pub fn put(&self, manifest: &Value) {
        let name = manifest["metadata"]["name"].as_str().expect("a manifest has a name");
        self.put_manifest(name, manifest).unwrap();
    }

    /// What a command of the agent says; `--root-dir` is added.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Ran {
        command::run(self.oomlet(args).unwrap().arg("--root-dir").arg(self.root_dir()), soon())
    }

    /// `oomlet run` on this node's root directory and runtime with another configuration, to be run to its end.
    #[must_use]
    pub fn run_command(&self, config: &Value) -> Command {
        let path = self.scratch().path().join("other-kubelet.yaml");
        std::fs::write(&path, serde_json::to_string_pretty(config).unwrap()).unwrap();
        let mut command = self.oomlet(&["run", "--config"]).unwrap();
        command.arg(path).arg("--root-dir").arg(self.root_dir());
        command
    }

    /// The pod of the manifest with this name, as the agent shows it; the newest where there are two. `None`: not
    /// there (yet).
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<Value> {
        let name = pod_name(name);
        let pods = self.pods().unwrap();
        let of_name = pods["items"].as_array()?.iter().filter(|p| p["metadata"]["name"] == name.as_str());
        let started = |p: &Value| p["status"]["startTime"].as_str().unwrap_or("9999").to_owned();
        of_name.max_by_key(|p| started(p)).cloned()
    }

    /// Waits until the agent shows the pod so.
    #[track_caller]
    pub fn wait_pod(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let end = Instant::now() + soon();
        loop {
            let looked = Instant::now();
            let pod = self.pod(name);
            match pod {
                Some(pod) if holds(&pod) => return pod,
                other => last = other.or(last),
            }
            let seen = || last.clone().map_or(Value::Null, |mut pod| pod["status"].take());
            self.look_again(looked, end, || format!("{name} is not {what}, last seen {}", seen()));
        }
    }

    /// Waits until each of the pods is Running with all its containers.
    #[track_caller]
    pub fn wait_up(&self, names: &[&str]) {
        for name in names {
            self.wait_pod(name, "up", pod::is_up);
        }
    }

    /// Waits until the pod is evicted and its container `main` has ended, and takes its manifest away at once: as long as
    /// that is there the agent brings the pod back after ten seconds, unless a threshold was met and pressure holds, which
    /// an eviction on a forecast spares the node. On an emulated CPU a few looks take longer than that. The pod as it was
    /// shown last.
    #[track_caller]
    pub fn wait_evicted(&self, name: &str) -> Value {
        let full_name = pod_name(name);
        self.wait_record("the end of its eviction", |r| {
            r.kind == "Eviction" && r.pod_name() == full_name && r.number("took_ms").is_some()
        });
        let ended = |pod: &Value| pod::container(pod, "main")["state"]["terminated"].is_object();
        let evicted =
            self.wait_pod(name, "evicted and ended", |pod| pod::phase(pod) == "Failed" && ended(pod));
        self.remove_manifest(name).unwrap();
        assert_eq!(pod::reason(&evicted), "Evicted", "{}", evicted["status"]);
        evicted
    }

    /// Waits until nothing of the pod is shown any more.
    #[track_caller]
    pub fn wait_gone(&self, name: &str) {
        self.wait(&format!("{name} is gone"), |node| node.pod(name).is_none());
    }

    #[track_caller]
    pub fn wait(&self, what: &str, holds: impl Fn(&Node) -> bool) {
        let end = Instant::now() + soon();
        loop {
            let looked = Instant::now();
            if holds(self) {
                return;
            }
            self.look_again(looked, end, || format!("not within {:?}: {what}", soon()));
        }
    }

    /// Waits for the first record that fits.
    #[track_caller]
    pub fn wait_record(&self, what: &str, fits: impl Fn(&TraceRecord) -> bool) -> TraceRecord {
        let end = Instant::now() + soon();
        loop {
            let looked = Instant::now();
            if let Some(record) = self.trace().unwrap().into_iter().find(&fits) {
                return record;
            }
            self.look_again(looked, end, || format!("not within {:?}: a record of {what}", soon()));
        }
    }

    /// Fails at `end`, and at once when the agent has died: there is nothing to wait for.
    #[track_caller]
    fn look_again(&self, looked: Instant, end: Instant, what: impl Fn() -> String) {
        if let Some(agent) = &self.agent {
            assert!(agent.is_running(), "the agent has died; {}\n{}", what(), self.diagnosis());
        }
        assert!(Instant::now() < end, "{}\n{}", what(), self.diagnosis());
        std::thread::sleep(process::pause_after(looked.elapsed()));
    }

    /// Records of one kind.
    #[must_use]
    pub fn records(&self, kind: &str) -> Vec<TraceRecord> {
        self.trace().unwrap().into_iter().filter(|r| r.kind == kind).collect()
    }

    /// Running containers of the pod, by containerd's account.
    #[must_use]
    pub fn running_of(&self, name: &str) -> Vec<RunningContainer> {
        let name = pod_name(name);
        self.running().unwrap().into_iter().filter(|c| c.pod == name).collect()
    }

    /// The one running container of the pod.
    #[track_caller]
    #[must_use]
    pub fn the_container_of(&self, name: &str) -> RunningContainer {
        let mut running = self.running_of(name);
        assert_eq!(running.len(), 1, "containers of {name}: {running:?}\n{}", self.diagnosis());
        running.remove(0)
    }

    /// What the container wrote to its outputs, without the log format's own words. Fails when the log is not there.
    #[track_caller]
    #[must_use]
    pub fn log(&self, pod: &Value, container: &str, attempt: u32) -> String {
        let path = self.log_path(pod, container, attempt);
        lines(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    /// The same of the first attempt of a pod by name; empty while there is none.
    #[must_use]
    pub fn said(&self, name: &str, container: &str) -> String {
        let path = self.pod(name).map(|pod| self.log_path(&pod, container, 0));
        lines(&path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default())
    }

    /// The same of each of its runs that has left a log.
    pub fn said_by_all_runs(&self, name: &str, container: &str) -> String {
        let Some(pod) = self.pod(name) else { return String::new() };
        let logs = (0..100).map(|attempt| self.log_path(&pod, container, attempt));
        logs.filter_map(|path| std::fs::read_to_string(path).ok()).map(|log| lines(&log)).collect()
    }

    fn log_path(&self, pod: &Value, container: &str, attempt: u32) -> PathBuf {
        let of = |key: &str| pod["metadata"][key].as_str().unwrap().to_owned();
        let dir = format!("{}_{}_{}", of("namespace"), of("name"), of("uid"));
        self.pod_logs_dir().join(dir).join(container).join(format!("{attempt}.log"))
    }
}

/// `2026-01-02T03:04:05.678901234Z stdout F the line`
fn lines(log: &str) -> String {
    log.lines().filter_map(|line| line.splitn(4, ' ').nth(3).map(|said| format!("{said}\n"))).collect()
}

/// The name that a static pod has on this node.
#[must_use]
pub fn pod_name(manifest_name: &str) -> String {
    let node = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    format!("{manifest_name}-{node}")
}

/// A pod with one container `main` that runs a shell script, `restartPolicy: Never`.
#[must_use]
pub fn script(name: &str, script: &str) -> Value {
    let mut pod = manifest::pod(name, "idle", &[]);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["containers"][0] = shell("main", script);
    pod
}

/// A container that runs a shell script.
#[must_use]
pub fn shell(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": xtask::images::BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", script],
    })
}
