//! A node on which runs follow one another: one agent with one configuration, two quiet neighbours, sometimes a ballast.
//! Between two runs the memory is back, the pressure is over and the neighbours live.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::gauge::{Gauge, machine_oom_kills};
use super::matrix::{BALLAST_MIB, Domain, THRESHOLD_MIB, Tool};
use super::outcome::Kills;
use super::peers::Daemon;
use super::{kubelet, pods, watch};
use crate::build::Profile;
use crate::demo::Interrupted;
use crate::node::manifest::is_pod_of;
use crate::node::trace::{TraceRecord, read_on};
use crate::node::{RunningContainer, TestNode};
use crate::private_containerd::Version;

const MIB: u64 = 1 << 20;
/// For what usually takes a second, on a machine that may be emulated.
pub const SOON: Duration = Duration::from_secs(180);
/// Memory is back when no more than this is held beyond what was before; the node's own programs grow and shrink, too.
const BACK_MIB: u64 = 32;
const NODE_BACK_MIB: u64 = 96;
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(4);

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub tool: Tool,
    pub domain: Domain,
    /// Of all pods together, on a capped node.
    pub cap_mib: u64,
    /// The machine is ours alone: its counters are, too.
    pub alone: bool,
}

/// Fields are dropped in this order: the daemon first, so that it does not see its node fall apart.
#[derive(Debug)]
pub struct Session {
    daemon: Option<Daemon>,
    pub setting: Setting,
    node: TestNode,
    pub gauge: Arc<Gauge>,
    stop: Interrupted,
    marks: PathBuf,
    offset: u64,
    /// The last that the trace says of MemoryPressure.
    pressure: bool,
    neighbours: Vec<Neighbour>,
    /// How often a neighbour had to be replaced: part of its name.
    replaced: u32,
    /// Committed with nobody but them.
    base_bytes: u64,
    ballast: bool,
    count: u32,
}

#[derive(Clone, Debug)]
struct Neighbour {
    manifest: String,
    pidfd: Arc<OwnedFd>,
}

impl Session {
    pub fn start(setting: Setting, stop: &Interrupted) -> Result<Session> {
        let mut node = TestNode::start("bench-forestall", Version::of_the_system()?)?;
        node.set_profile(Profile::Release);
        if setting.domain == Domain::Kubepods {
            node.cap_kubepods(setting.cap_mib)?;
        }
        configure(node.config_mut(), setting.tool);
        let marks = node.scratch().create_dir("marks")?;
        if setting.tool == Tool::Kubelet {
            let command = kubelet::command(&mut node)?;
            node.start_in_its_place(command)?;
        } else {
            node.start_agent()?;
        }
        let begun = Instant::now();
        let gauge = loop {
            stop.check()?;
            // The agent makes the cgroup first, and on v2 its files come with the controller.
            let opened =
                if node.kubepods_dir()?.is_dir() { Some(Gauge::open(&node, setting.domain)) } else { None };
            match opened {
                Some(Ok(gauge)) => break Arc::new(gauge),
                Some(Err(error)) if begun.elapsed() >= SOON => return Err(error.context(node.diagnosis())),
                None if begun.elapsed() >= SOON => bail!("the agent makes no kubepods\n{}", node.diagnosis()),
                _ => std::thread::sleep(LOOK),
            }
        };
        let mut session = Session {
            daemon: None,
            setting,
            node,
            gauge,
            stop: stop.clone(),
            marks,
            offset: 0,
            pressure: false,
            neighbours: Vec::new(),
            replaced: 0,
            base_bytes: 0,
            ballast: false,
            count: 0,
        };
        for (name, manifest) in pods::neighbours() {
            session.add_neighbour(name, manifest)?;
        }
        if let Tool::Peer { peer, tuned } = setting.tool {
            let (pods, log) = (session.node.kubepods_dir()?, session.node.scratch().path().join("peer.log"));
            session.daemon = Some(Daemon::start(peer, tuned, &pods, &log)?);
        }
        session.base_bytes = session.gauge.level()?.committed;
        Ok(session)
    }

    /// The ends of the logs, for a failure's message.
    pub fn diagnosis(&self) -> String {
        let peer = self.daemon.as_ref().map(Daemon::diagnosis).unwrap_or_default();
        format!("{}\n{peer}", self.node.diagnosis())
    }

    pub fn marks(&self) -> &Path {
        &self.marks
    }

    /// A pod name that was not used before.
    pub fn next_name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}{}", self.count)
    }

    pub fn put(&self, name: &str, manifest: &Value) -> Result<()> {
        self.node.put_manifest(name, manifest)
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        self.node.remove_manifest(name)
    }

    /// What the trace has said since the last call.
    pub fn news(&mut self) -> Result<Vec<TraceRecord>> {
        let records = read_on(&self.node.trace_path(), &mut self.offset)?;
        if let Some(last) = records.iter().rev().find(|r| r.kind == "Node") {
            self.pressure = last.reason == "MemoryPressure";
        }
        Ok(records)
    }

    pub fn kills(&self) -> Result<Kills> {
        if let Some(kills) = self.gauge.oom_kills().filter(|_| self.setting.domain == Domain::Kubepods) {
            return Ok(Kills::Here(kills));
        }
        let kills = machine_oom_kills()?;
        Ok(if self.setting.alone { Kills::Here(kills) } else { Kills::Machine(kills) })
    }

    /// In the order of their deaths as a [`watch::Watched`] tells them.
    pub fn neighbours(&self) -> Vec<Arc<OwnedFd>> {
        self.neighbours.iter().map(|neighbour| neighbour.pidfd.clone()).collect()
    }

    /// How far the threshold is away, in MiB.
    pub fn room_mib(&self) -> Result<u64> {
        let level = self.gauge.level()?;
        Ok((level.limit.saturating_sub(level.committed) / MIB).saturating_sub(THRESHOLD_MIB))
    }

    /// Until nothing of the last run is left and all neighbours live.
    pub fn settle(&mut self) -> Result<()> {
        let most = match self.setting.domain {
            Domain::Kubepods => self.base_bytes + BACK_MIB * MIB,
            Domain::Node => self.base_bytes + NODE_BACK_MIB * MIB,
        };
        self.wait("the last run's memory is back and the pressure over", SOON, |session| {
            session.news()?;
            let back = session.gauge.level()?.committed <= most;
            Ok((back && !session.pressure).then_some(()))
        })?;
        if self.setting.tool == Tool::Kubelet {
            let before = kubelet::calm_looks(&self.node);
            self.wait("kubelet has seen that the pressure is over", SOON, |session| {
                Ok((kubelet::calm_looks(&session.node) > before).then_some(()))
            })?;
        }
        let (gone, living): (Vec<_>, Vec<_>) =
            self.neighbours.drain(..).partition(|n| watch::has_ended(&n.pidfd));
        self.neighbours = living;
        for neighbour in gone {
            self.replaced += 1;
            self.remove(&neighbour.manifest)?;
            if neighbour.manifest.starts_with("ballast") {
                self.ballast = false;
                self.wait_gone(&neighbour.manifest)?;
                self.set_ballast(true)?;
                continue;
            }
            let mut all = pods::neighbours().into_iter();
            let (name, manifest) = all
                .find(|(name, _)| neighbour.manifest.starts_with(name))
                .with_context(|| format!("{} is nobody's neighbour", neighbour.manifest))?;
            self.add_neighbour(name, manifest)?;
        }
        Ok(())
    }

    /// Whether a quiet pod holds a part of the memory.
    pub fn set_ballast(&mut self, on: bool) -> Result<()> {
        if self.ballast == on {
            return Ok(());
        }
        let before = self.gauge.level()?.committed;
        if on {
            let (name, manifest) = pods::ballast();
            self.add_neighbour(name, manifest)?;
            self.wait("the ballast has grown", SOON, |session| {
                let grown = session.gauge.level()?.committed.saturating_sub(before);
                Ok((grown >= (BALLAST_MIB - 8) * MIB).then_some(()))
            })?;
        } else {
            let at = self.neighbours.iter().position(|n| n.manifest.starts_with("ballast"));
            let ballast = self.neighbours.remove(at.context("there is no ballast")?);
            self.remove(&ballast.manifest)?;
            self.wait_gone(&ballast.manifest)?;
            self.wait("the ballast's memory is back", SOON, |session| {
                let given = before.saturating_sub(session.gauge.level()?.committed);
                Ok((given >= (BALLAST_MIB - 8) * MIB).then_some(()))
            })?;
        }
        self.ballast = on;
        self.base_bytes = self.gauge.level()?.committed;
        Ok(())
    }

    fn add_neighbour(&mut self, name: &str, mut manifest: Value) -> Result<()> {
        let name = format!("{name}{}", self.replaced);
        manifest["metadata"]["name"] = json!(name);
        self.put(&name, &manifest)?;
        let running = self.wait(&format!("{name} runs"), SOON, |session| session.running(&name))?;
        self.neighbours.push(Neighbour { manifest: name, pidfd: Arc::new(watch::open(running.pid)?) });
        Ok(())
    }

    /// Also for the agent, which would not admit another one of its size before.
    fn wait_gone(&mut self, name: &str) -> Result<()> {
        self.wait(&format!("{name} is gone"), SOON, |session| {
            let pods = session.node.pods()?;
            let pods = pods["items"].as_array().context("`oomlet pods` has no items")?;
            let known =
                pods.iter().any(|pod| is_pod_of(pod["metadata"]["name"].as_str().unwrap_or_default(), name));
            Ok((!known && session.running(name)?.is_none()).then_some(()))
        })
    }

    fn running(&self, name: &str) -> Result<Option<RunningContainer>> {
        Ok(self.node.running()?.into_iter().find(|container| is_pod_of(&container.pod, name)))
    }

    /// The process of the pod whose command line has this mark; by the cgroup files, since asking the runtime takes
    /// longer than a fast leak has.
    pub fn process_with(&self, mark: &str) -> Result<Option<u32>> {
        Ok(processes_below(&self.node.kubepods_dir()?).into_iter().find(|pid| has_argument(*pid, mark)))
    }

    /// Polls `find`; an error when the agent or the peer's daemon ends meanwhile.
    pub fn wait<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut find: impl FnMut(&mut Session) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + bound;
        loop {
            let looked = Instant::now();
            self.stop.check()?;
            if let Some(found) = find(self)? {
                return Ok(found);
            }
            if let Some(status) = self.node.agent.as_mut().and_then(|agent| agent.ended()) {
                bail!("the agent ended with {status} while waiting: {what}");
            }
            if let Some(status) = self.daemon.as_mut().and_then(Daemon::ended) {
                bail!("{} ended with {status} while waiting: {what}", self.setting.tool.name());
            }
            ensure!(Instant::now() < end, "not within {} s: {what}", bound.as_secs());
            // A look by the runtime's own tool takes long; what is waited for must not wait for looks.
            std::thread::sleep(LOOK.max(looked.elapsed().min(Duration::from_millis(200))));
        }
    }
}

/// The same of all tools but what makes them different. A pod must be admitted at once after the last one's end.
fn configure(config: &mut Value, tool: Tool) {
    config["evictionHard"] = json!({ "memory.available": format!("{THRESHOLD_MIB}Mi") });
    config["evictionPressureTransitionPeriod"] = json!("1s");
    config["crashLoopBackOff"] = json!({ "maxContainerRestartPeriod": "1s" });
    let (tier, eviction) = match tool {
        Tool::Oomlet { tier, brake } => (tier, json!({ "enabled": true, "brake": brake })),
        // It runs the pods, and tells of the kernel's kills. A kubelet does not know this section.
        Tool::Nothing | Tool::Peer { .. } | Tool::Kubelet => (2, json!({ "enabled": false })),
    };
    config["oomlet"]["kernel"] = json!({ "maxTier": tier });
    config["oomlet"]["eviction"] = eviction;
}

/// Pids in the cgroup and all below it.
fn processes_below(dir: &Path) -> BTreeSet<u32> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: BTreeSet<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(processes_below(&entry.path()));
        }
    }
    pids
}

fn has_argument(pid: u32, argument: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agent_that_is_measured_evicts() {
        for (tool, tier, enabled) in [
            (Tool::Oomlet { tier: 0, brake: false }, 0, true),
            (Tool::OOMLET, 2, true),
            (Tool::Nothing, 2, false),
        ] {
            let mut config = json!({ "oomlet": { "trace": { "file": "/t" } } });
            configure(&mut config, tool);
            assert_eq!(config["oomlet"]["eviction"]["enabled"], enabled, "{tool:?}");
            assert_eq!(config["oomlet"]["kernel"]["maxTier"], tier, "{tool:?}");
            assert_eq!(config["oomlet"]["trace"]["file"], "/t");
        }
    }

    #[test]
    fn a_process_is_found_by_its_arguments() {
        let own: Vec<String> = std::env::args().collect();
        assert!(has_argument(std::process::id(), &own[0]));
        assert!(!has_argument(std::process::id(), "/marks/no-such.mark"));
    }
}
