//! `bench signal`: how fast a kernel event becomes a record and a decision, and what sensing costs.
//!
//! - latencies: a hog runs into the kubepods threshold again and again; each Signal record carries
//!   `event_to_record_us`; each decision on fresh numbers, to leave things as they are (Forecast record) or to evict
//!   (Decision record), carries `signal_to_decision_us`.
//! - page faults: a fault loop without and with the agent's programs, in turns within one run, so that both meet the
//!   same machine. The fastest second of each is compared: on a shared machine a neighbour makes seconds slower by a
//!   fifth and more, and none faster.
//! - the agent's own memory and CPU: /proc/PID, over some time with no pods and with many.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::quantile;
use crate::build::{self, Profile};
use crate::demo::Interrupted;
use crate::node::TestNode;
use crate::node::manifest::{is_pod_of, pod, with_memory};
use crate::private_containerd::Version;
use crate::{process, scratch};

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Evictions to time.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    evictions: u64,
    /// Pairs of fault loops, without and with the programs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    fault_rounds: u64,
    /// Seconds over which the agent's CPU is measured, for each number of pods.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

const START: Duration = Duration::from_secs(120);
/// One-second fault loops in a row, each way, in each round.
const FAULT_LOOPS: usize = 5;

pub fn run(options: &Options) -> Result<Value> {
    scratch::sweep_leftovers()?;
    let stop = Interrupted::install()?;
    let fault_overhead_pct = fault_overhead(options, &stop)?;
    let (rss_0, cpu_0) = footprint(options, 0, &stop)?;
    let (rss_30, cpu_30) = footprint(options, 30, &stop)?;
    let latencies = latencies(options, &stop)?;

    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["", "p50", "p99", "samples"]);
    let mut quantiles = |name: &str, samples: &[i64]| -> Result<Value> {
        ensure!(!samples.is_empty(), "the trace holds no {name}");
        let (p50, p99) = (quantile(samples, 50), quantile(samples, 99));
        table.add_row([name.to_owned(), p50.to_string(), p99.to_string(), samples.len().to_string()]);
        Ok(json!({ "p50": p50, "p99": p99, "samples": samples.len() }))
    };
    let record = quantiles("event_to_record_us", &latencies.record_us)?;
    let decision = quantiles("event_to_decision_us", &latencies.decision_us)?;
    let eviction = quantiles("event_to_eviction_us", &latencies.eviction_us)?;
    println!("{table}");
    println!("page faults with the programs: {fault_overhead_pct:+.2} %");
    println!(
        "agent, {} s: {rss_0:.1} MiB and {cpu_0:.2} % CPU with 0 pods, {rss_30:.1} MiB and {cpu_30:.2} % with 30",
        options.seconds
    );
    Ok(json!({
        "event_to_record_us": record,
        "event_to_decision_us": decision,
        "event_to_eviction_us": eviction,
        "fault_overhead_pct": fault_overhead_pct,
        "rss_mib": { "pods_0": rss_0, "pods_30": rss_30 },
        "cpu_pct": { "pods_0": cpu_0, "pods_30": cpu_30 },
    }))
}

/// A node with the released agent under a cap.
fn node(label: &str, cap_mib: u64) -> Result<TestNode> {
    let mut node = TestNode::start(label, Version::of_the_system()?)?;
    node.set_profile(Profile::Release);
    node.cap_kubepods(cap_mib)?;
    Ok(node)
}

pub(super) fn wait(
    node: &mut TestNode,
    stop: &Interrupted,
    what: &str,
    mut done: impl FnMut(&TestNode) -> Result<bool>,
) -> Result<()> {
    let mut result = Ok(false);
    let held = process::holds_within(START, || {
        result = stop.check().and_then(|()| done(node));
        !matches!(result, Ok(false)) || node.agent.as_mut().is_some_and(|agent| agent.ended().is_some())
    });
    ensure!(result.is_err() || (held && matches!(result, Ok(true))), "not so: {what}\n{}", node.diagnosis());
    result.map(drop)
}

#[derive(Debug, Default)]
struct Latencies {
    record_us: Vec<i64>,
    decision_us: Vec<i64>,
    /// Those of the decisions that were evictions.
    eviction_us: Vec<i64>,
}

fn latencies(options: &Options, stop: &Interrupted) -> Result<Latencies> {
    let mut node = evicting_node("bench-latency")?;
    node.start_agent()?;
    for round in 0..options.evictions {
        evict_one(&mut node, stop, &format!("hog{round}"))?;
    }
    let trace = node.trace()?;
    let decisions = |kinds: &[&str]| {
        let of_kind = trace.iter().filter(|r| kinds.contains(&r.kind.as_str()));
        of_kind.filter_map(|r| r.number("signal_to_decision_us")).collect()
    };
    Ok(Latencies {
        record_us: trace
            .iter()
            .filter(|r| r.kind == "Signal")
            .filter_map(|r| r.number("event_to_record_us"))
            .collect(),
        decision_us: decisions(&["Forecast", "Decision"]),
        eviction_us: decisions(&["Decision"]),
    })
}

/// A node on which one hog after the other can be evicted.
pub(super) fn evicting_node(label: &str) -> Result<TestNode> {
    let mut node = node(label, 400)?;
    node.config_mut()["evictionHard"] = json!({ "memory.available": "100Mi" });
    // Back in business at once: the next hog must be admitted.
    node.config_mut()["evictionPressureTransitionPeriod"] = json!("1s");
    Ok(node)
}

/// A hog from its start to its end, and until the pressure that it made has passed.
pub(super) fn evict_one(node: &mut TestNode, stop: &Interrupted, name: &str) -> Result<()> {
    let mut hog = with_memory(
        pod(name, "hog", &["--rate-mib-s", "200", "--max-mib", "1000", "--sigterm-ms", "10"]),
        "16Mi",
        "",
    );
    hog["spec"]["restartPolicy"] = json!("Never");
    node.put_manifest(name, &hog)?;
    wait(node, stop, "a hog is evicted and gone", |node| {
        let evicted = node.trace()?.iter().any(|r| r.kind == "Decision" && is_pod_of(r.pod_name(), name));
        Ok(evicted && !node.running()?.iter().any(|c| is_pod_of(&c.pod, name)))
    })?;
    node.remove_manifest(name)?;
    wait(node, stop, "the pressure has passed", |node| {
        let trace = node.trace()?;
        let last = trace.iter().rev().find(|r| r.kind == "Node");
        Ok(last.is_none_or(|r| r.reason == "MemoryPressureEnded"))
    })
}

/// In per cent of the speed without the programs; below zero when noise outweighs it.
fn fault_overhead(options: &Options, stop: &Interrupted) -> Result<f64> {
    let workload = build::workload_path()?;
    let mut node = node("bench-faults", 400)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..options.fault_rounds {
        node.kill_agent()?;
        for _ in 0..FAULT_LOOPS {
            without.push(faults_per_s(&workload)?);
        }
        node.start_agent()?;
        wait(&mut node, stop, "the agent has started", |node| {
            Ok(node.trace()?.iter().any(|r| r.reason == "AgentStarted"))
        })?;
        for _ in 0..FAULT_LOOPS {
            with.push(faults_per_s(&workload)?);
        }
        // The next start's records are told from this one's by the file being new.
        node.kill_agent()?;
        std::fs::remove_file(node.trace_path()).context("removing the trace")?;
    }
    Ok((fastest(&without) / fastest(&with) - 1.0) * 100.0)
}

fn faults_per_s(workload: &std::path::Path) -> Result<f64> {
    let text = process::output(std::process::Command::new(workload).args(["fault-loop", "--seconds", "1"]))?;
    let number = text.split_whitespace().nth(1).with_context(|| format!("no figure in {text:?}"))?;
    number.parse().with_context(|| format!("no figure in {text:?}"))
}

/// Resident memory in MiB and CPU in per cent of one, of the agent with that many idle pods.
fn footprint(options: &Options, pods: usize, stop: &Interrupted) -> Result<(f64, f64)> {
    let mut node = node("bench-idle", 800)?;
    for i in 0..pods {
        let name = format!("idle{i}");
        node.put_manifest(&name, &pod(&name, "idle", &["--mib", "1"]))?;
    }
    node.start_agent()?;
    wait(&mut node, stop, "the agent has started", |node| {
        Ok(node.trace()?.iter().any(|r| r.reason == "AgentStarted"))
    })?;
    wait(&mut node, stop, "all pods run", |node| Ok(node.running()?.len() == pods))?;
    let pid = node.agent.as_ref().context("the agent has ended")?.pid();
    // The wait is the measurement.
    let before = cpu_ticks(pid)?;
    std::thread::sleep(Duration::from_secs(options.seconds));
    stop.check()?;
    let ticks = cpu_ticks(pid)? - before;
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((rss_mib(pid)?, ticks as f64 / per_second / options.seconds as f64 * 100.0))
}

/// utime + stime of proc(5).
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent has ended")?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("/proc/PID/stat has no name")?.1.split_whitespace().collect();
    let field = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
    field(11).zip(field(12)).map(|(user, system)| user + system).context("/proc/PID/stat is short")
}

fn rss_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the agent has ended")?;
    let kib =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).context("/proc/PID/status has no VmRSS")
}

fn fastest(per_s: &[f64]) -> f64 {
    per_s.iter().copied().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_footprint() {
        let pid = std::process::id();
        assert!(rss_mib(pid).unwrap() > 0.1);
        cpu_ticks(pid).unwrap();
    }
}
