//! One agent on a node of its own: for each number, so many pods are made at once, and deleted at once when all are Ready;
//! the last of them are left at rest in between.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::requests::Counter;
use super::watch::{PodWatch, Seen};
use super::{Agent, AgentFigures, Cost, Options, Rest, Round, gauge};
use crate::control_plane::ControlPlane;
use crate::demo::Interrupted;
use crate::images;
use crate::node::TestNode;
use crate::private_containerd::Version;
use crate::process;
use crate::progress::{self, Step};

/// What an agent does a little later, such as Events, counts too.
pub const AFTERMATH: Duration = Duration::from_secs(5);
const NODE_READY: Duration = Duration::from_secs(60);
/// kubelet has taken 15 s for 110 pods on two idle cores.
const PODS_READY: Duration = Duration::from_secs(600);
/// How often the pods are looked at.
const LOOK: Duration = Duration::from_millis(10);

pub fn run(
    agent: &Agent,
    options: &Options,
    plane: &ControlPlane,
    containerd: Version,
    stop: &Interrupted,
) -> Result<AgentFigures> {
    let mut bench = progress::step(&format!("{}: a node", agent.name()), |step| {
        Bench::start(agent, plane, containerd, stop, step)
    })?;
    let (mut rounds, mut rest) = (Vec::new(), None);
    for (index, &pods) in options.pods.iter().enumerate() {
        let is_last = index + 1 == options.pods.len();
        let heading = format!("{}: {pods} at once", agent.name());
        rounds.push(progress::step(&heading, |step| {
            let (coming, names) = bench.create(pods, step)?;
            if is_last {
                rest = Some(bench.rest(pods, Duration::from_secs(options.rest_seconds), step)?);
            }
            let (gone_s, delete) = bench.delete(&names, step)?;
            let round = Round { gone_s, delete, ..coming };
            step.say(&format!(
                "   Ready after {:.2} s, {:.2} s of CPU, {:.0} MiB, {} requests; gone after {:.2} s",
                round.ready_s,
                round.create.cpu_s,
                round.create.peak_rss_mib,
                round.create.requests.total(),
                round.gone_s
            ));
            Ok(round)
        })?);
    }
    Ok(AgentFigures { agent: agent.name(), rounds, rest: rest.context("--pods names no number")? })
}

/// Dropped in this order: the node's agent must not see its Node object go.
struct Bench<'a> {
    node: TestNode,
    watch: PodWatch,
    counter: Counter,
    name: &'static str,
    plane: &'a ControlPlane,
    stop: &'a Interrupted,
    pid: u32,
    containerd_pid: u32,
}

/// What was until some moment.
struct Mark {
    cpu: Duration,
    containerd_cpu: Duration,
}

impl<'a> Bench<'a> {
    fn start(
        agent: &Agent,
        plane: &'a ControlPlane,
        containerd: Version,
        stop: &'a Interrupted,
        step: &Step,
    ) -> Result<Bench<'a>> {
        let name = agent.node_name();
        plane.kubectl(&["create", "namespace", name])?;
        let watch = PodWatch::start(plane, name)?;
        step.doing("containerd starts");
        let mut node = TestNode::start(name, containerd)?;
        node.join_as(plane, name)?;
        match agent {
            Agent::Oomlet(profile) => {
                node.set_profile(*profile);
                node.start_agent()?;
            }
            Agent::Kubelet { program, .. } => node.start_kubelet(program)?,
        }
        step.doing("until the node is Ready");
        let pid = node.agent.as_ref().context("the agent was started")?.pid();
        let containerd_pid = node.containerd.pid().context("containerd runs")?;
        let counter = Counter::of_node(name);
        let bench = Bench { node, watch, counter, name, plane, stop, pid, containerd_pid };
        bench.wait(NODE_READY, "the node is Ready", |bench| {
            let ready = "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
            let node = bench.plane.kubectl(&["get", "node", bench.name, "--ignore-not-found", ready])?;
            let accounts =
                ["get", "serviceaccount", "default", "--ignore-not-found", "--output=name", "--namespace"];
            // Without it no pod is admitted.
            Ok(node == "True" && !bench.plane.kubectl(&[&accounts[..], &[bench.name]].concat())?.is_empty())
        })?;
        // What it does once after its start is no part of the first pod.
        bench.pause(AFTERMATH)?;
        Ok(bench)
    }

    /// Until all are Ready; with their names.
    fn create(&mut self, pods: u32, step: &Step) -> Result<(Round, Vec<String>)> {
        let names: Vec<String> = (0..pods).map(|i| format!("p{pods}-{i}")).collect();
        let items: Vec<Value> = names.iter().map(|name| self.pod(name)).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        let file = self.node.scratch().path().join("pods.json");
        std::fs::write(&file, serde_json::to_vec(&list)?)
            .with_context(|| format!("writing {}", file.display()))?;
        let mark = self.mark()?;
        let begun = Instant::now();
        let mut create = self.plane.kubectl_command(self.plane.kubeconfig_admin());
        create.args(["create", "--validate=false", "--filename"]).arg(&file);
        process::output(&mut create)?;
        self.wait(PODS_READY, "all pods are Ready", |bench| {
            let seen = bench.watch.seen()?;
            let ready = names.iter().filter(|name| seen.ready.contains_key(*name)).count();
            step.doing(&format!("{ready} of {pods} Ready"));
            Ok(ready == names.len())
        })?;
        let seen = self.watch.seen()?;
        let load = gauge::load()?;
        let first = names.iter().filter_map(|name| seen.there.get(name)).min().copied().unwrap_or(begun);
        let round = Round {
            pods,
            ready_s: last(&seen.ready, &names)?.duration_since(first).as_secs_f64(),
            ready_p50_s: median(&seen, &names),
            create: self.cost(&mark)?,
            gone_s: 0.0,
            delete: Cost::default(),
            load,
        };
        Ok((round, names))
    }

    fn rest(&mut self, pods: u32, time: Duration, step: &Step) -> Result<Rest> {
        step.doing("at rest");
        let mark = self.mark()?;
        let begun = Instant::now();
        self.pause(time)?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Rest { pods, seconds, rss_mib: gauge::rss_mib(self.pid)?, cost: self.cost_until_now(&mark)? })
    }

    fn delete(&mut self, names: &[String], step: &Step) -> Result<(f64, Cost)> {
        let mark = self.mark()?;
        let begun = Instant::now();
        self.plane.kubectl(&["delete", "pods", "--all", "--wait=false", "--namespace", self.name])?;
        self.wait(PODS_READY, "all pods are gone", |bench| {
            let seen = bench.watch.seen()?;
            let gone = names.iter().filter(|name| seen.gone.contains_key(*name)).count();
            step.doing(&format!("{gone} of {} gone", names.len()));
            Ok(gone == names.len())
        })?;
        let gone = last(&self.watch.seen()?.gone, names)?;
        Ok((gone.duration_since(begun).as_secs_f64(), self.cost(&mark)?))
    }

    /// What its image does is nothing, and it ends when it is told to. It has a service account's token, as pods have.
    fn pod(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": self.name },
            "spec": {
                "nodeName": self.name,
                "dnsPolicy": "Default",
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    { "name": "main", "image": images::PAUSE, "imagePullPolicy": "IfNotPresent" },
                ],
            },
        })
    }

    /// What comes after it is counted.
    fn mark(&mut self) -> Result<Mark> {
        self.counter.take(&self.plane.audit_log()?);
        gauge::forget_peak(self.pid)?;
        Ok(Mark { cpu: gauge::cpu(self.pid)?, containerd_cpu: gauge::cpu(self.containerd_pid)? })
    }

    fn cost(&mut self, since: &Mark) -> Result<Cost> {
        self.pause(AFTERMATH)?;
        self.cost_until_now(since)
    }

    fn cost_until_now(&mut self, since: &Mark) -> Result<Cost> {
        let (cpu, containerd) = (gauge::cpu(self.pid)?, gauge::cpu(self.containerd_pid)?);
        Ok(Cost {
            cpu_s: cpu.saturating_sub(since.cpu).as_secs_f64(),
            containerd_cpu_s: containerd.saturating_sub(since.containerd_cpu).as_secs_f64(),
            peak_rss_mib: gauge::peak_rss_mib(self.pid)?,
            requests: self.counter.take(&self.plane.audit_log()?),
        })
    }

    /// Lets time pass, which is what is measured, and notices when it is in vain.
    fn pause(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            thread::sleep(LOOK.max((end - Instant::now()).min(Duration::from_millis(200))));
            self.check()?;
        }
        Ok(())
    }

    fn wait(&self, bound: Duration, what: &str, done: impl Fn(&Bench<'_>) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + bound;
        while !done(self)? {
            self.check()?;
            if Instant::now() >= end {
                let node = self.plane.kubectl(&["describe", "node", self.name]).unwrap_or_default();
                bail!("not within {} s: {what}\n{node}\n{}", bound.as_secs(), self.node.diagnosis());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.stop.check()?;
        if !self.node.agent.as_ref().is_some_and(|agent| agent.is_running()) {
            bail!("the agent has ended\n{}", self.node.diagnosis());
        }
        Ok(())
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        // First the agent, which would make it anew.
        let _ = self.node.kill_agent();
        let _ = self.plane.kubectl(&["delete", "node", self.name, "--wait=false"]);
    }
}

fn last(when: &BTreeMap<String, Instant>, names: &[String]) -> Result<Instant> {
    names.iter().filter_map(|name| when.get(name)).max().copied().context("no pod was seen")
}

fn median(seen: &Seen, names: &[String]) -> f64 {
    let took = |name: &String| Some(seen.ready.get(name)?.duration_since(*seen.there.get(name)?));
    let ms: Vec<i64> =
        names.iter().filter_map(took).filter_map(|took| i64::try_from(took.as_millis()).ok()).collect();
    crate::bench::quantile(&ms, 50) as f64 / 1000.0
}
