//! A node for one test or demo: a private containerd with the sample images, and the agent on a root folder,
//! manifest folder and cgroup root of its own. Dropping it ends and removes all of it, also after a panic.
//!
//! What a test asserts is read from outside the agent where it can be (containerd's tasks, cgroup files), else from
//! the agent's own trace.

pub mod agent;
pub mod kubelet;
pub mod manifest;
mod memory;
mod network;
pub mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::build::{self, Profile};
use crate::private_containerd::{PrivateContainerd, Version};
use crate::process;
use crate::relay::Relay;
use crate::scratch::Scratch;
use agent::Agent;
pub use memory::mem_total_bytes;
pub use network::NODE_IP;
use trace::TraceRecord;

/// Fields are dropped in this order: the agent first, so that it does not see its node fall apart; the scratch last.
#[derive(Debug)]
pub struct TestNode {
    /// `None` when it was killed or not started yet.
    pub agent: Option<Agent>,
    pub containerd: PrivateContainerd,
    profile: Profile,
    /// KubeletConfiguration; written at each start of the agent.
    config: Value,
    /// More of the agent's environment.
    environment: BTreeMap<String, String>,
    /// More of its command line.
    arguments: Vec<String>,
    /// Where the agent finds the runtime, when it is not containerd's own socket.
    runtime_endpoint: Option<String>,
    /// Set for a node of a cluster.
    relay: Option<Relay>,
    /// The agent runs in containerd's network namespace.
    in_pod_network: bool,
    /// By container id: what never changes is asked for once, for each question starts a `ctr`.
    labels: Mutex<BTreeMap<String, Labels>>,
    scratch: Scratch,
}

/// How CRI marks what it makes.
#[derive(Clone, Debug)]
struct Labels {
    /// `container` or `sandbox`.
    kind: String,
    pod: String,
    container: String,
}

/// A running container as containerd has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunningContainer {
    /// `metadata.name` of its pod.
    pub pod: String,
    pub container: String,
    pub id: String,
    /// Of its init process.
    pub pid: u32,
}

impl TestNode {
    /// Starts containerd with the images; the agent is started by [`TestNode::start_agent`].
    pub fn start(label: &str, version: Version) -> Result<TestNode> {
        TestNode::start_in(Scratch::new(label)?, version)
    }

    /// The same in a scratch in which something has been prepared. The agent's root folder is `root` there, containerd's
    /// is `containerd`.
    pub fn start_in(scratch: Scratch, version: Version) -> Result<TestNode> {
        let containerd = PrivateContainerd::start(version, &scratch)?;
        let manifests = scratch.create_dir("manifests")?;
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "staticPodPath": manifests,
            "podLogsDir": scratch.create_dir("pod-logs")?,
            "cgroupDriver": scratch.cgroup_driver().as_str(),
            "cgroupRoot": scratch.cgroup_root(),
            "enforceNodeAllocatable": ["pods"],
            // Of memory alone, and no image is removed: the machine's disk may be as full as it likes.
            "evictionHard": { "memory.available": "100Mi" },
            "imageGCHighThresholdPercent": 100,
            // Many nodes share this machine's ports, until one has a network of its own (`join`).
            "enableServer": false,
            "healthzPort": 0,
            "oomlet": { "trace": { "file": scratch.path().join("trace.jsonl") } },
        });
        scratch.create_dir("root")?;
        let (profile, labels) = (Profile::of_this_program(), Mutex::default());
        let environment = BTreeMap::new();
        let (arguments, relay, runtime_endpoint) = (Vec::new(), None, None);
        let in_pod_network = false;
        Ok(TestNode {
            agent: None,
            containerd,
            profile,
            config,
            environment,
            arguments,
            runtime_endpoint,
            relay,
            in_pod_network,
            labels,
            scratch,
        })
    }

    /// Which build of the agent runs; that of the running program unless said otherwise.
    pub fn set_profile(&mut self, profile: Profile) {
        self.profile = profile;
    }

    /// The KubeletConfiguration of the next start.
    pub fn config_mut(&mut self) -> &mut Value {
        &mut self.config
    }

    /// Set in the agent's environment from the next start on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Added to the agent's command line from the next start on.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    }

    /// Something stands before containerd's socket, for the agent's next start on.
    pub fn set_runtime_endpoint(&mut self, endpoint: String) {
        self.runtime_endpoint = Some(endpoint);
    }

    fn runtime_endpoint(&self) -> String {
        self.runtime_endpoint.clone().unwrap_or_else(|| self.containerd.endpoint())
    }

    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    #[must_use]
    pub fn root_dir(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    #[must_use]
    pub fn manifest_dir(&self) -> PathBuf {
        self.scratch.path().join("manifests")
    }

    #[must_use]
    pub fn pod_logs_dir(&self) -> PathBuf {
        self.scratch.path().join("pod-logs")
    }

    #[must_use]
    pub fn trace_path(&self) -> PathBuf {
        self.scratch.path().join("trace.jsonl")
    }

    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.scratch.path().join("kubelet.yaml")
    }

    /// Adds or replaces `<name>.yaml` in one step, as a careful admin would: by rename from a hidden file.
    pub fn put_manifest(&self, name: &str, pod: &Value) -> Result<()> {
        // JSON is YAML.
        self.put_manifest_text(name, &serde_json::to_string_pretty(pod)?)
    }

    /// The same for text that need not be a pod.
    pub fn put_manifest_text(&self, name: &str, text: &str) -> Result<()> {
        let dir = self.manifest_dir();
        let hidden = dir.join(format!(".{name}.new"));
        fs::write(&hidden, text).with_context(|| format!("writing {}", hidden.display()))?;
        let path = dir.join(format!("{name}.yaml"));
        fs::rename(&hidden, &path).with_context(|| format!("renaming to {}", path.display()))
    }

    pub fn remove_manifest(&self, name: &str) -> Result<()> {
        let path = self.manifest_dir().join(format!("{name}.yaml"));
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Writes the configuration and starts the agent; an agent that runs is killed first. Returns at once: what
    /// being up means is for the caller to wait for.
    pub fn start_agent(&mut self) -> Result<()> {
        self.kill_agent()?;
        let path = self.config_path();
        fs::write(&path, serde_json::to_string_pretty(&self.config)?)
            .with_context(|| format!("writing {}", path.display()))?;
        let mut command = if self.in_pod_network {
            self.containerd.netns().command(self.program()?)
        } else {
            Command::new(self.program()?)
        };
        command.args(["run", "--config"]).arg(&path);
        command.args(["--container-runtime-endpoint", &self.runtime_endpoint()]);
        command.arg("--root-dir").arg(self.root_dir()).args(&self.arguments).envs(&self.environment);
        self.start_in_its_place(command)
    }

    /// Another program instead of the agent, with the agent's log; an agent that runs is killed first.
    pub fn start_in_its_place(&mut self, command: Command) -> Result<()> {
        self.kill_agent()?;
        self.agent = Some(Agent::start(command, &self.agent_log_path())?);
        Ok(())
    }

    /// SIGKILL to the agent; pods run on.
    pub fn kill_agent(&mut self) -> Result<()> {
        match self.agent.take() {
            Some(mut agent) => agent.kill9(),
            None => Ok(()),
        }
    }

    #[must_use]
    pub fn agent_log_path(&self) -> PathBuf {
        self.scratch.path().join("agent.log")
    }

    /// The agent's log of all its starts.
    #[must_use]
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.agent_log_path()).unwrap_or_default()
    }

    /// The agent's program with `args`, to be run.
    pub fn oomlet(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(self.program()?);
        command.args(args);
        Ok(command)
    }

    fn program(&self) -> Result<PathBuf> {
        let path = build::agent_path(self.profile)?;
        anyhow::ensure!(path.is_file(), "{} is missing; build it by `cargo xtask build`", path.display());
        Ok(path)
    }

    /// What `oomlet pods --output json` says.
    pub fn pods(&self) -> Result<Value> {
        let text =
            process::output(self.oomlet(&["pods", "--output", "json", "--root-dir"])?.arg(self.root_dir()))?;
        serde_json::from_str(&text).with_context(|| format!("`oomlet pods` printed no JSON: {text:?}"))
    }

    /// Every record of the trace file, oldest first. A last line that is still being written is left out.
    pub fn trace(&self) -> Result<Vec<TraceRecord>> {
        trace::read(&self.trace_path())
    }

    /// Containers of pods (not their sandboxes) that run, by containerd's own account, sorted by pod and name.
    pub fn running(&self) -> Result<Vec<RunningContainer>> {
        self.running_of("container")
    }

    /// The same for sandboxes; the container's name is empty.
    pub fn running_sandboxes(&self) -> Result<Vec<RunningContainer>> {
        self.running_of("sandbox")
    }

    /// Ids of all containers of the named pod that containerd knows, dead or alive.
    pub fn containers_of(&self, pod: &str) -> Result<Vec<String>> {
        let ids = process::output(self.containerd.ctr().args(["containers", "list", "--quiet"]))?;
        let of_pod = |id: &&str| self.labels(id).is_some_and(|l| l.kind == "container" && l.pod == pod);
        Ok(ids.lines().filter(of_pod).map(str::to_owned).collect())
    }

    fn running_of(&self, kind: &str) -> Result<Vec<RunningContainer>> {
        let tasks = process::output(self.containerd.ctr().args(["tasks", "list"]))?;
        let mut running = Vec::new();
        for line in tasks.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [id, pid, "RUNNING"] = words[..] else { continue };
            // Gone between the two calls: not running.
            let Some(labels) = self.labels(id).filter(|l| l.kind == kind) else { continue };
            running.push(RunningContainer {
                pod: labels.pod,
                container: labels.container,
                id: id.to_owned(),
                pid: pid.parse().with_context(|| format!("pid in {line:?}"))?,
            });
        }
        running.sort();
        Ok(running)
    }

    /// `None`: containerd does not know the container (any more).
    fn labels(&self, id: &str) -> Option<Labels> {
        let known = || self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(labels) = known().get(id) {
            return Some(labels.clone());
        }
        let info = process::output(self.containerd.ctr().args(["containers", "info", id])).ok()?;
        let info: Value = serde_json::from_str(&info).ok()?;
        let label = |name: &str| info["Labels"][name].as_str().unwrap_or_default().to_owned();
        let labels = Labels {
            kind: label("io.cri-containerd.kind"),
            pod: label("io.kubernetes.pod.name"),
            container: label("io.kubernetes.container.name"),
        };
        known().insert(id.to_owned(), labels.clone());
        Some(labels)
    }

    /// Polls `done` until it holds. Panics after `bound` with `what` and the end of the agent's log.
    #[track_caller]
    pub fn wait_for(&self, bound: Duration, what: &str, done: impl FnMut() -> bool) {
        assert!(process::holds_within(bound, done), "not within {bound:?}: {what}\n{}", self.diagnosis());
    }

    /// [`TestNode::wait_for`] a value.
    #[track_caller]
    pub fn wait_some<T>(&self, bound: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + bound;
        loop {
            let looked = Instant::now();
            if let Some(found) = find() {
                return found;
            }
            assert!(Instant::now() < end, "not within {bound:?}: {what}\n{}", self.diagnosis());
            std::thread::sleep(process::pause_after(looked.elapsed()));
        }
    }

    /// The ends of the agent's and containerd's logs, for a failure's message.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        let (agent, containerd) = (self.agent_log_path(), self.containerd.log_path());
        format!("{}\n{}", process::file_tail(&agent, 40), process::file_tail(&containerd, 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images;

    #[test]
    fn a_node_without_its_agent_is_complete_and_goes_away() {
        let mut node = TestNode::start("node", Version::of_the_system().unwrap()).unwrap();
        let dir = node.scratch().path().to_owned();
        node.cap_kubepods(300).unwrap();
        let reserved: u64 = node.config_mut()["systemReserved"]["memory"].as_str().unwrap().parse().unwrap();
        assert_eq!(mem_total_bytes().unwrap() - reserved, 300 << 20);
        node.put_manifest("a", &manifest::pod("a", "idle", &["--mib", "1"])).unwrap();
        assert!(node.manifest_dir().join("a.yaml").is_file());
        node.remove_manifest("a").unwrap();
        assert_eq!(node.running().unwrap(), []);
        assert_eq!(node.kubepods_memory().unwrap(), None);
        assert!(node.trace().unwrap().is_empty());
        // The workload runs from its image, as PID 1, and gives the exit code it was told to.
        let faults = node
            .containerd
            .run_image(images::WORKLOAD, "faults", &["/oomlet-workload", "fault-loop"])
            .unwrap();
        assert!(faults.starts_with("faults_per_s "), "{faults}");
        let error = node.containerd.run_image(
            images::WORKLOAD,
            "seven",
            &["/oomlet-workload", "exit", "--code", "7"],
        );
        assert!(error.unwrap_err().to_string().contains("status: 7"));
        drop(node);
        assert!(!dir.exists());
    }
}
