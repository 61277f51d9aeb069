//! `bench scrape`: what it costs an agent to be scraped. A Prometheus asks it for every page that kube-prometheus asks a node
//! for, every 15 seconds, with so many pods on the node; the same time goes by without it before. oomlet, and kubelet in its
//! place, each on a node of its own with static pods.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pods::gauge;
use crate::build::Profile;
use crate::control_plane::programs::{Program, Programs, Source};
use crate::demo::Interrupted;
use crate::images;
use crate::node::kubelet::{self, Sysctls};
use crate::node::{NODE_IP, TestNode};
use crate::private_containerd::Version;
use crate::process;
use crate::progress::{self, Step};
use crate::prometheus::{Prometheus, Scrape};
use crate::scratch;
use crate::setup::{self, role};

/// What Prometheus' operator sets up for nodes, and the test of kube-prometheus' names asks for.
const PATHS: [&str; 4] = ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes"];
const INTERVAL: Duration = Duration::from_secs(15);
/// Of a core: the aim.
const AIM_PER_CENT: f64 = 0.5;
const ALL_RUN: Duration = Duration::from_secs(900);
/// What an agent does once after all pods run is no part of its rest.
const SETTLE: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..=110))]
    pods: u32,
    /// How long without a scraper, and how long with one.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(30..))]
    seconds: u64,
    /// Without a kubelet beside it.
    #[arg(long)]
    alone: bool,
    /// Puts the table into docs/bench.md.
    #[arg(long)]
    write: bool,
    /// Installs and builds nothing: measures what is built already.
    #[arg(long)]
    built: bool,
    /// With `--built`: the unoptimised oomlet.
    #[arg(long, requires = "built")]
    dev: bool,
}

impl Options {
    pub fn is_built(&self) -> bool {
        self.built
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figures {
    pods: u32,
    seconds: u64,
    agents: Vec<AgentFigures>,
    load: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct AgentFigures {
    agent: String,
    /// Of a core, over the time without and with a scraper.
    unscraped_per_cent: f64,
    scraped_per_cent: f64,
    /// Samples of one round of all pages.
    samples: u64,
    rss_mib: f64,
}

impl AgentFigures {
    fn cost_per_cent(&self) -> f64 {
        self.scraped_per_cent - self.unscraped_per_cent
    }
}

pub fn run(options: &Options) -> Result<()> {
    scratch::sweep_leftovers()?;
    if !options.built {
        setup::run(role::SCRAPE)?;
    }
    let stop = Interrupted::install()?;
    let profile = if options.dev { Profile::Dev } else { Profile::Release };
    let built = Programs::find(&Source::default(), &[Program::Kubelet]).ok();
    let kubelet = built.filter(|_| !options.alone).map(|programs| programs.path(Program::Kubelet));
    if kubelet.is_none() && !options.alone {
        println!("oomlet alone is measured: `cargo xtask control-plane build --kubelet` builds a kubelet\n");
    }
    let _sysctls = Sysctls::keep()?;
    let name = if options.dev { "oomlet (unoptimised)" } else { "oomlet" };
    let mut agents = vec![measure(name, options, &stop, |node| {
        node.set_profile(profile);
        node.start_agent()
    })?];
    if let Some(program) = kubelet {
        let name = format!("kubelet {}", kubelet::version(&program)?);
        agents.push(measure(&name, options, &stop, |node| node.start_kubelet(&program))?);
    }
    let figures = Figures { pods: options.pods, seconds: options.seconds, agents, load: gauge::load()? };
    let path = super::write("scrape", serde_json::to_value(&figures)?)?;
    let text = report(&figures, &json!(super::machine::describe()?));
    println!("\n{text}\n\nwritten: {}", super::shown(&path));
    if options.write { super::write_between(super::PAGE, "scrape", &text) } else { Ok(()) }
}

fn measure(
    agent: &str,
    options: &Options,
    stop: &Interrupted,
    start: impl FnOnce(&mut TestNode) -> Result<()>,
) -> Result<AgentFigures> {
    progress::step(&format!("{agent}: {} pods", options.pods), |step| {
        let containerd =
            Version::available()?.pop().context("there is no containerd here; run `cargo xtask setup`")?;
        let mut node = TestNode::start("bench-scrape", containerd)?;
        node.join_within()?;
        // As kubelet has it here: nobody else is in the node's namespace.
        node.config_mut()["authentication"] =
            json!({ "anonymous": { "enabled": true }, "webhook": { "enabled": false } });
        node.config_mut()["authorization"] = json!({ "mode": "AlwaysAllow" });
        for number in 0..options.pods {
            let name = format!("p{number}");
            node.put_manifest(&name, &pod(&name))?;
        }
        start(&mut node)?;
        let bench = Bench { node, stop };
        bench.wait_until_all_run(options.pods, step)?;
        bench.pause(SETTLE)?;
        let time = Duration::from_secs(options.seconds);
        step.doing("not scraped");
        let unscraped_per_cent = bench.cpu_per_cent(time)?;
        step.doing("scraped");
        let prometheus = bench.scraper()?;
        let scraped_per_cent = bench.cpu_per_cent(time)?;
        let up = prometheus.query("sum(up)")?;
        ensure!(
            value(&up) == Some(PATHS.len().to_string()),
            "not all of {PATHS:?} are answered: {up:?}\n{}",
            bench.node.diagnosis()
        );
        let samples = value(&prometheus.query("sum(scrape_samples_scraped)")?);
        let samples = samples.and_then(|text| text.parse().ok()).context("Prometheus counts no samples")?;
        let rss_mib = gauge::rss_mib(bench.pid()?)?;
        Ok(AgentFigures { agent: agent.to_owned(), unscraped_per_cent, scraped_per_cent, samples, rss_mib })
    })
}

struct Bench<'a> {
    node: TestNode,
    stop: &'a Interrupted,
}

impl Bench<'_> {
    fn pid(&self) -> Result<u32> {
        Ok(self.node.agent.as_ref().context("the agent was started")?.pid())
    }

    fn cpu_per_cent(&self, time: Duration) -> Result<f64> {
        let (before, begun) = (gauge::cpu(self.pid()?)?, Instant::now());
        self.pause(time)?;
        let took = gauge::cpu(self.pid()?)?.saturating_sub(before);
        Ok(took.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0)
    }

    fn scraper(&self) -> Result<Prometheus> {
        let dir = self.node.scratch().create_dir("prometheus")?;
        let scrape = Scrape {
            interval: INTERVAL,
            target: format!("{NODE_IP}:10250"),
            authority: None,
            client: None,
            paths: &PATHS,
            rules: &[],
        };
        Prometheus::start(&dir, self.node.containerd.netns(), &scrape)
    }

    fn wait_until_all_run(&self, pods: u32, step: &Step) -> Result<()> {
        let end = Instant::now() + ALL_RUN;
        loop {
            // Each of them and its sandbox.
            let tasks = process::output(self.node.containerd.ctr().args(["tasks", "list"]))?;
            let running = tasks.lines().filter(|line| line.contains("RUNNING")).count() / 2;
            step.doing(&format!("{running} of {pods} run"));
            if running >= usize::try_from(pods)? {
                return Ok(());
            }
            ensure!(Instant::now() < end, "not all pods run\n{}", self.node.diagnosis());
            self.pause(Duration::from_secs(1))?;
        }
    }

    /// Lets time pass, which is what is measured, and notices when it is in vain.
    fn pause(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            std::thread::sleep((end - Instant::now()).min(Duration::from_millis(200)));
            self.stop.check()?;
            if !self.node.agent.as_ref().is_some_and(|agent| agent.is_running()) {
                bail!("the agent has ended\n{}", self.node.diagnosis());
            }
        }
        Ok(())
    }
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": images::PAUSE, "imagePullPolicy": "IfNotPresent" }],
        },
    })
}

/// Of an answer with one series.
fn value(answer: &[Value]) -> Option<String> {
    answer.first()?["value"][1].as_str().map(str::to_owned)
}

fn report(figures: &Figures, machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or_default();
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "agent",
        "not scraped, % of a core",
        "scraped",
        "for being scraped",
        "samples",
        "resident, MiB",
    ]);
    for agent in &figures.agents {
        table.add_row([
            agent.agent.clone(),
            format!("{:.2}", agent.unscraped_per_cent),
            format!("{:.2}", agent.scraped_per_cent),
            format!("{:.2}", agent.cost_per_cent()),
            agent.samples.to_string(),
            format!("{:.0}", agent.rss_mib),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let first = figures.agents.first().map_or(0.0, AgentFigures::cost_per_cent);
    let verdict = if first < AIM_PER_CENT { "reached" } else { "not reached" };
    let (seconds, paths) = (figures.seconds, PATHS.map(|path| format!("`{path}`")).join(", "));
    format!(
        "On {} CPUs ({}), Linux {}, load {}: {} pods, {seconds} s without a scraper and {seconds} s with one that asks \
         for {paths} every {} s.\n\n{table}\n\nThe aim, below {AIM_PER_CENT} % of a core for being scraped: {verdict}.",
        machine["cpus"],
        text("cpu"),
        text("kernel"),
        figures.load,
        figures.pods,
        INTERVAL.as_secs(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_the_difference() {
        let agent = |name: &str, scraped_per_cent| AgentFigures {
            agent: name.to_owned(),
            unscraped_per_cent: 2.0,
            scraped_per_cent,
            samples: 9,
            rss_mib: 30.0,
        };
        for (scraped, verdict) in [(2.25, "scraped: reached."), (2.75, "scraped: not reached.")] {
            let agents = vec![agent("a", scraped), agent("b", 5.0)];
            let text =
                report(&Figures { pods: 3, seconds: 60, agents, load: "1".into() }, &json!({ "cpus": 2 }));
            assert!(text.contains(verdict) && text.contains("3.00"), "{text}");
        }
    }
}
