//! `bench node-api`: whether callers of the node's own API can keep the SyncLoop from its work. Hogs run into the kubepods
//! threshold, in turns while nobody calls and while the API is under a load that is meant to hurt; each decision carries the
//! time since its kernel event. Both are of one run on one agent, so the ratio says what the load costs.

mod load;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::quantile;
use super::signal::{evict_one, evicting_node, wait};
use crate::build::Profile;
use crate::demo::Interrupted;
use crate::node::TestNode;
use crate::scratch;
use load::{Load, Ports, Size};

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Turns, each without the load and then with it.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Evictions of each turn, each way.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    evictions: u64,
    /// Connections on which nothing is said.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// The unoptimised agent that was built before: for a machine that is slow at building.
    #[arg(long)]
    built: bool,
}

impl Options {
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.built
    }
}

/// Until all idle connections are there.
const BUILD_UP: Duration = Duration::from_secs(60);

pub fn run(options: &Options) -> Result<Value> {
    scratch::sweep_leftovers()?;
    let stop = Interrupted::install()?;
    let mut node = evicting_node("bench-node-api")?;
    if options.built {
        node.set_profile(Profile::Dev);
    }
    let ports = Ports::free()?;
    let config = node.config_mut();
    config["enableServer"] = json!(true);
    config["address"] = json!("127.0.0.1");
    config["port"] = json!(ports.api);
    config["healthzPort"] = json!(ports.health);
    config["readOnlyPort"] = json!(ports.read_only);
    config["authorization"] = json!({ "mode": "AlwaysAllow" });
    let certificates = node.scratch().path().join("pki").display().to_string();
    node.add_arguments(&[&format!("--cert-dir={certificates}")]);
    node.start_agent()?;
    wait(&mut node, &stop, "the agent has started", |node| {
        Ok(node.trace()?.iter().any(|record| record.reason == "AgentStarted"))
    })?;
    let (mut quiet, mut loaded, mut answered) = (Vec::new(), Vec::new(), 0);
    for round in 0..options.rounds {
        quiet.extend(decisions(&mut node, &stop, options, &format!("quiet{round}"))?);
        let load = Load::start(&ports, &Size { idle: options.idle, ..Size::default() })?;
        load.wait_built_up(BUILD_UP)?;
        loaded.extend(decisions(&mut node, &stop, options, &format!("loaded{round}"))?);
        // Who may is served meanwhile.
        answered += usize::from(load::is_healthy(&ports)?);
        let made = load.end();
        println!("round {}: {made}", round + 1);
    }
    ensure!(answered > 0, "the node's health was never told under load\n{}", node.diagnosis());
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["event to decision, us", "p50", "p99", "samples"]);
    let mut figures = json!({ "idle_connections": options.idle, "health_answered_under_load": answered });
    for (name, samples) in [("without load", &quiet), ("with load", &loaded)] {
        ensure!(!samples.is_empty(), "the trace holds no decision {name}");
        let (p50, p99) = (quantile(samples, 50), quantile(samples, 99));
        table.add_row([name.to_owned(), p50.to_string(), p99.to_string(), samples.len().to_string()]);
        figures[name.replace(' ', "_")] = json!({ "p50_us": p50, "p99_us": p99, "samples": samples.len() });
    }
    let ratio = quantile(&loaded, 99) as f64 / quantile(&quiet, 99).max(1) as f64;
    figures["p99_ratio"] = json!(ratio);
    println!("{table}\np99 with load is {ratio:.2} times that without");
    Ok(figures)
}

/// Microseconds from kernel event to decision.
fn decisions(node: &mut TestNode, stop: &Interrupted, options: &Options, name: &str) -> Result<Vec<i64>> {
    let before = node.trace()?.len();
    for eviction in 0..options.evictions {
        evict_one(node, stop, &format!("{name}-{eviction}"))
            .with_context(|| format!("hog {name}-{eviction}"))?;
    }
    let trace = node.trace()?;
    let decided = trace.iter().skip(before).filter(|r| ["Forecast", "Decision"].contains(&r.kind.as_str()));
    Ok(decided.filter_map(|record| record.number("signal_to_decision_us")).collect())
}
