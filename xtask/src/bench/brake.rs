//! `bench brake`: how fast a leak is frozen, and what holds it while its SIGTERM handler runs. The measuring is done by the
//! agent's own code in `agent/examples/brake.rs`, one JSON object a run; this makes the table.

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::quantile;
use crate::{build, paths, process, root};

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Runs of each candidate with each number of threads.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// One run, as `agent/examples/brake.rs` prints it.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Run {
    hierarchy: String,
    candidate: String,
    threads: u32,
    frozen_after_us: i64,
    grew_freezing_kib: i64,
    grew_frozen_kib: i64,
    grew_in_grace_mib: i64,
    /// From SIGTERM until the handler had done its work; none within the grace.
    handler_ms: Option<i64>,
    oom_kills: u64,
}

pub fn run(options: &Options) -> Result<Value> {
    root::require("a leak is put into cgroups")?;
    let workload = build::workload()?;
    let mut cargo = build::cargo();
    cargo.args(["build", "--release", "--package", "oomlet", "--example", "brake"]);
    process::run(cargo.arg("--target-dir").arg(paths::target()?))?;
    let program = paths::target()?.join("release/examples/brake");
    let text =
        process::output(std::process::Command::new(program).arg(workload).arg(options.runs.to_string()))?;
    let runs: Vec<Run> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a run: {line}")))
        .collect::<Result<_>>()?;
    ensure!(!runs.is_empty(), "no run was made");
    println!("{}\n\n{}", freezer_table(&runs), hold_table(&runs));
    Ok(json!({ "runs": runs }))
}

/// Of the same threads and candidate, in the order in which they were run.
fn groups(runs: &[Run]) -> Vec<Vec<&Run>> {
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    for run in runs {
        match groups.last_mut().filter(|g| g[0].threads == run.threads && g[0].candidate == run.candidate) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    groups
}

/// A Markdown table.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    table
}

fn freezer_table(runs: &[Run]) -> Table {
    let mut table = table([
        "freezer",
        "threads",
        "frozen after, p50 / max",
        "grew meanwhile, max",
        "grew while frozen, max",
    ]);
    let mut threads: Vec<u32> = runs.iter().map(|run| run.threads).collect();
    threads.dedup();
    for threads in threads {
        let of: Vec<&Run> = runs.iter().filter(|run| run.threads == threads).collect();
        let after: Vec<i64> = of.iter().map(|run| run.frozen_after_us).collect();
        let most = |figure: fn(&Run) -> i64| of.iter().map(|run| figure(run)).max().unwrap_or(0);
        table.add_row([
            of[0].hierarchy.clone(),
            threads.to_string(),
            format!("{} / {} µs", quantile(&after, 50), quantile(&after, 100)),
            format!("{:.1} MiB", most(|run| run.grew_freezing_kib) as f64 / 1024.0),
            format!("{:.1} MiB", most(|run| run.grew_frozen_kib) as f64 / 1024.0),
        ]);
    }
    table
}

fn hold_table(runs: &[Run]) -> Table {
    let mut table = table([
        "held by",
        "threads",
        "no OOM kill",
        "handler done",
        "handler took, p50",
        "grew in its grace, max",
    ]);
    for group in groups(runs) {
        let handled: Vec<i64> = group.iter().filter_map(|run| run.handler_ms).collect();
        let took = if handled.is_empty() { "-".to_owned() } else { format!("{} ms", quantile(&handled, 50)) };
        table.add_row([
            format!("{}: {}", group[0].hierarchy, group[0].candidate),
            group[0].threads.to_string(),
            format!("{} of {}", group.iter().filter(|run| run.oom_kills == 0).count(), group.len()),
            format!("{} of {}", handled.len(), group.len()),
            took,
            format!("{} MiB", group.iter().map(|run| run.grew_in_grace_mib).max().unwrap_or(0)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_become_rows() {
        let run = |candidate: &str, threads, handler_ms, oom_kills| Run {
            hierarchy: "v1".into(),
            candidate: candidate.into(),
            threads,
            frozen_after_us: 250,
            grew_freezing_kib: 512,
            grew_frozen_kib: 0,
            grew_in_grace_mib: 40,
            handler_ms,
            oom_kills,
        };
        let runs = [run("nothing", 1, None, 1), run("freezer", 1, Some(310), 0), run("freezer", 1, None, 0)];
        let text = hold_table(&runs).to_string();
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        let cells = |row: String| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(cells(row("nothing"))[2..6], ["1", "0 of 1", "0 of 1", "-"]);
        assert_eq!(cells(row("freezer"))[2..6], ["1", "2 of 2", "1 of 2", "310 ms"]);
        let text = freezer_table(&runs).to_string();
        assert!(text.contains("250 / 250 µs") && text.contains("0.5 MiB"), "{text}");
    }
}
