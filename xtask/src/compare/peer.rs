//! A node of the cluster that is run by kubelet or by the agent, and a corpus run on it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::calls::Recorder;
use super::corpus::{Case, Until};
use super::look;
use super::normal::Normal;
use super::record::{Recording, Seen};
use super::watch::Watch;
use crate::control_plane::ControlPlane;
use crate::node::kubelet::Sysctls;
use crate::node::{NODE_IP, TestNode};
use crate::private_containerd::Version;
use crate::process;

/// Until the node is Ready.
const READY: Duration = Duration::from_secs(120);
/// What a manifest may take until it has done what it is there for, and then to go.
const EACH: Duration = Duration::from_secs(60);
const GOING: Duration = Duration::from_secs(60);
/// A pod whose status has not changed for so long has come to rest: more than a second, which is how often kubelet lists.
const REST: Duration = Duration::from_millis(2500);
/// A pod that never rests is looked at after this.
const RESTLESS: Duration = Duration::from_secs(8);
/// So many pods at a time: with more the machine's load shows.
const AT_A_TIME: usize = 10;
/// Of a cluster as kubeadm makes it; both nodes are told the same.
const CLUSTER_DNS: &str = "10.96.0.10";

/// Who runs the node.
#[derive(Clone, Debug)]
pub enum Kind {
    Oomlet,
    /// Its program.
    Kubelet(PathBuf),
}

impl Kind {
    /// Of node and namespace; of the same length, since it shows in paths.
    fn name(&self) -> &'static str {
        match self {
            Kind::Oomlet => "peer-o",
            Kind::Kubelet(_) => "peer-k",
        }
    }
}

#[derive(Debug)]
pub struct Peer<'a> {
    node: TestNode,
    plane: &'a ControlPlane,
    name: String,
    namespace: String,
    kind: Kind,
    recorder: Recorder,
    _sysctls: Sysctls,
}

/// One manifest that is being run.
struct Running<'a> {
    case: &'a Case,
    seen: Seen,
    /// Set when what was waited for first held, and until what else.
    reached: Option<Instant>,
    /// When it changed last.
    changed: Instant,
    then: Option<(&'a Value, &'a Until)>,
    deleted: bool,
}

impl<'a> Peer<'a> {
    /// Returns when the node is Ready.
    pub fn start(plane: &'a ControlPlane, kind: Kind) -> Result<Peer<'a>> {
        Peer::start_with(plane, kind, |_| Ok(()))
    }

    /// `prepare` is given the node before kubelet or the agent runs.
    pub fn start_with(
        plane: &'a ControlPlane,
        kind: Kind,
        prepare: impl FnOnce(&mut TestNode) -> Result<()>,
    ) -> Result<Peer<'a>> {
        let name = format!("{}-node", kind.name());
        let namespace = format!("{}-space", kind.name());
        let version = *Version::available()?.last().context("`cargo xtask setup` installs containerd")?;
        let sysctls = Sysctls::keep()?;
        let mut node = TestNode::start(kind.name(), version)?;
        node.join_as(plane, &name)?;
        let recorder = Recorder::start(node.scratch().path(), &node.containerd.socket())?;
        node.set_runtime_endpoint(recorder.endpoint());
        node.config_mut()["clusterDNS"] = json!([CLUSTER_DNS]);
        node.config_mut()["clusterDomain"] = json!("cluster.local");
        plane.kubectl(&["create", "namespace", &namespace])?;
        prepare(&mut node)?;
        let mut peer = Peer { node, plane, name, namespace, kind, recorder, _sysctls: sysctls };
        peer.run_agent()?;
        let ready = process::holds_within(READY, || {
            peer.object().is_ok_and(|node| Until::Condition("Ready".to_owned()).holds(&node, &[]))
        });
        if !ready {
            let said =
                peer.object().map_or_else(|error| json!(error.to_string()), |node| node["status"].clone());
            bail!(
                "{} is not Ready within {READY:?}: {}\n{}",
                peer.name,
                said["conditions"],
                peer.diagnosis()
            );
        }
        Ok(peer)
    }

    /// The agent or kubelet anew, on a node with another configuration. Pods run on.
    pub fn restart_with(&mut self, change: impl FnOnce(&mut TestNode)) -> Result<()> {
        change(&mut self.node);
        self.run_agent()
    }

    fn run_agent(&mut self) -> Result<()> {
        match &self.kind {
            Kind::Oomlet => self.node.start_agent(),
            Kind::Kubelet(program) => self.node.start_kubelet(program),
        }
    }

    #[must_use]
    pub fn node(&self) -> &TestNode {
        &self.node
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn object(&self) -> Result<Value> {
        self.plane.kubectl_json(&["get", "node", &self.name])
    }

    #[must_use]
    pub fn diagnosis(&self) -> String {
        if let Some(kept) = std::env::var_os("OOMLET_KEEP_LOGS").map(PathBuf::from).filter(|dir| dir.is_dir())
        {
            let _ = std::fs::copy(self.node.agent_log_path(), kept.join(format!("{}.log", self.name)));
        }
        self.node.diagnosis()
    }

    /// All manifests, some at a time; their pods are gone afterwards.
    pub fn run(&self, cases: &[Case]) -> Result<Recording> {
        let account = ["get", "serviceaccount", "default", "--namespace", &self.namespace];
        ensure!(process::holds_within(EACH, || self.plane.kubectl(&account).is_ok()), "no service account");
        let pods = Watch::start(self.plane, "pods", &self.namespace)?;
        let events = Watch::start(self.plane, "events", &self.namespace)?;
        let normal = self.normal();
        let mut recording = Recording::default();
        for some in cases.chunks(AT_A_TIME) {
            let running = self.run_some(some, &pods, &events)?;
            for one in running {
                recording.of.insert(one.case.name.clone(), one.seen.record(&normal));
            }
        }
        recording.set_node(&self.object()?, &normal);
        Ok(recording)
    }

    fn run_some<'c>(&self, cases: &'c [Case], pods: &Watch, events: &Watch) -> Result<Vec<Running<'c>>> {
        self.apply_all(cases)?;
        let mut running: Vec<Running<'_>> = cases.iter().map(Running::new).collect();
        let end = Instant::now() + EACH;
        while running.iter().any(|one| !one.deleted) {
            let late = Instant::now() >= end;
            let mut done = Vec::new();
            for one in running.iter_mut().filter(|one| !one.deleted) {
                let told = events.changes(|event| event["involvedObject"]["name"] == one.case.name.as_str());
                if self.has_come_to_rest(one, pods, &told)? || late {
                    done.push(one);
                }
            }
            if !done.is_empty() {
                self.end(done, pods)?;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.wait_gone(&mut running, pods)?;
        let calls = self.recorder.calls()?;
        for one in &mut running {
            let uid = one.seen.settled["metadata"]["uid"].as_str().unwrap_or_default();
            one.seen.requests = calls.of_pod(uid);
            let changes = pods.of_name(&one.case.name);
            let known = one.seen.before.len();
            one.seen.after = changes[known.min(changes.len())..].to_vec();
            let told = events.changes(|event| event["involvedObject"]["name"] == one.case.name.as_str());
            one.seen.events = told.into_iter().map(|mut event| event["object"].take()).collect();
        }
        Ok(running)
    }

    /// The pods last: what they need is there then.
    fn apply_all(&self, cases: &[Case]) -> Result<()> {
        let mut items: Vec<Value> = cases.iter().flat_map(|case| case.others.clone()).collect();
        items.extend(cases.iter().map(|case| {
            let mut pod = case.pod.clone();
            match pod["spec"].get("nodeName") {
                // A pod that the scheduler would not place.
                Some(_) => pod["spec"]["nodeName"] = json!(self.name),
                None => pod["spec"]["nodeSelector"] = json!({ "test": self.name }),
            }
            pod
        }));
        for item in &mut items {
            item["metadata"]["namespace"] = json!(self.namespace);
        }
        self.plane.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))
    }

    /// Whether it is time to look at it and to delete it.
    fn has_come_to_rest(&self, one: &mut Running<'_>, pods: &Watch, told: &[Value]) -> Result<bool> {
        let changes = pods.of_name(&one.case.name);
        let Some(last) = changes.last() else { return Ok(false) };
        let reasons: Vec<String> = told
            .iter()
            .map(|event| event["object"]["reason"].as_str().unwrap_or_default().to_owned())
            .collect();
        if one.reached.is_none() {
            let until = one.then.map_or(&one.case.until, |(_, until)| until);
            if !until.holds(&last["object"], &reasons) {
                return Ok(false);
            }
            match (&one.case.then, one.then) {
                (Some((patch, until)), None) => {
                    self.patch(&one.case.name, patch)?;
                    one.then = Some((patch, until));
                    return Ok(false);
                }
                _ => one.reached = Some(Instant::now()),
            }
        }
        one.seen.reached = true;
        let rests = one.seen.before.len() == changes.len();
        if !rests {
            one.seen.before = changes;
            one.changed = Instant::now();
        }
        let since = one.reached.map_or(Duration::ZERO, |reached| reached.elapsed());
        Ok(one.changed.elapsed() >= REST || since >= RESTLESS)
    }

    fn patch(&self, name: &str, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        let namespace = ["--namespace", self.namespace.as_str()];
        let args = [&["patch", "pod", name, "--type=strategic", "--patch", &patch], &namespace[..]].concat();
        self.plane.kubectl(&args).map(drop)
    }

    /// Looks at them and deletes them.
    fn end(&self, ended: Vec<&mut Running<'_>>, pods: &Watch) -> Result<()> {
        let mut delete = vec!["delete", "pods", "--wait=false", "--namespace", &self.namespace];
        for one in ended {
            if one.seen.before.is_empty() {
                one.seen.before = pods.of_name(&one.case.name);
            }
            let mut settled = one.seen.before.last().map_or(Value::Null, |change| change["object"].clone());
            one.seen.logs = look::logs(&self.node, &settled);
            one.seen.cgroups = look::cgroups(&self.node, &settled)?;
            std::mem::swap(&mut one.seen.settled, &mut settled);
            one.deleted = true;
            delete.push(&one.case.name);
        }
        self.plane.kubectl(&delete).map(drop)
    }

    /// A pod that does not go is a finding, and nothing to wait for longer.
    fn wait_gone(&self, running: &mut [Running<'_>], pods: &Watch) -> Result<()> {
        let gone = |name: &str| pods.of_name(name).last().is_some_and(|change| change["type"] == "DELETED");
        process::holds_within(GOING, || running.iter().all(|one| gone(&one.case.name)));
        for one in running {
            one.seen.gone = gone(&one.case.name);
            if !one.seen.gone {
                let namespace = ["--namespace", self.namespace.as_str()];
                let args = [&["delete", "pod", &one.case.name, "--force"], &namespace[..]].concat();
                self.plane.kubectl(&args)?;
            }
        }
        Ok(())
    }

    pub(super) fn normal(&self) -> Normal {
        let scratch = self.node.scratch();
        let dir = scratch.path().display().to_string();
        let root = scratch.cgroup_root().to_owned();
        let server = self.plane.address().to_string();
        Normal::new(&[
            (&dir, "$DIR"),
            (&root, "$CGROUP_ROOT"),
            (&server, "$SERVER"),
            (&self.name, "$NODE"),
            (&self.namespace, "$NAMESPACE"),
            (NODE_IP, "$NODE_IP"),
        ])
    }
}

impl<'c> Running<'c> {
    fn new(case: &'c Case) -> Running<'c> {
        let changed = Instant::now();
        Running { case, seen: Seen::default(), reached: None, changed, then: None, deleted: false }
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        // First the agent, which would make its Node anew.
        let _ = self.node.kill_agent();
        let _ = self.plane.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        let _ = self.plane.kubectl(&["delete", "node", &self.name, "--wait=false"]);
        let _ = self.plane.kubectl(&["delete", "pods", "--all", "--force", "--namespace", &self.namespace]);
    }
}
