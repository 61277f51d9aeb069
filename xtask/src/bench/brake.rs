//! `bench brake`: how fast a leak is frozen, and what holds it while its SIGTERM handler runs. The measuring is done by the
//! agent's own code in `agent/examples/brake.rs`, one JSON object a run; this makes the table.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::quantile;
use crate::build::TestBinary;
use crate::lab::kernel::Kernel;
use crate::lab::machine::{Machine, Output};
use crate::lab::{Lab, test_path};
use crate::{build, paths, process, root};

/// What measures, and what it measures with, as a machine of the lab gets them.
const PROGRAM: &str = "brake";
const WORKLOAD: &str = "oomlet-workload";
/// Where a machine leaves the runs, in `$OOMLET_LAB_OUT`.
const FILE: &str = "brake.jsonl";
/// All runs in a machine whose CPUs are emulated.
const BOUND: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Runs of each candidate with each number of threads.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// In a machine of the lab with this kernel, on cgroup v2.
    #[arg(long, value_name = "KERNEL")]
    lab: Option<Kernel>,
    /// Measures nothing: makes tables from the figures that are there.
    #[arg(long, conflicts_with_all = ["runs", "lab"])]
    report: bool,
    /// Puts the tables of all that was measured into docs/bench.md.
    #[arg(long)]
    write: bool,
}

impl Options {
    pub fn is_report(&self) -> bool {
        self.report
    }
}

/// The file with the figures of a place, without its ending.
fn name(lab: Option<Kernel>) -> String {
    lab.map_or("brake".to_owned(), |kernel| format!("brake-{}", kernel.line()))
}

/// What was measured in one place.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Figures {
    /// The lab's kernel; none: this machine.
    lab: Option<String>,
    runs: Vec<Run>,
    #[serde(default)]
    machine: Value,
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

pub fn run(options: &Options) -> Result<()> {
    if !options.report {
        super::write(&name(options.lab), serde_json::to_value(measure(options)?)?)?;
    }
    let mut tables = String::new();
    for lab in [None].into_iter().chain(Kernel::ALL.map(Some)) {
        let path = paths::target()?.join("bench").join(name(lab)).with_added_extension("json");
        if path.is_file() {
            let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let figures = serde_json::from_slice(&text).with_context(|| {
                format!("{} is of another version of this bench; remove it", path.display())
            })?;
            tables.push_str(&markdown(&figures));
        }
    }
    ensure!(!tables.is_empty(), "nothing was measured that a table could be made of");
    println!("{tables}");
    if options.write { super::write_between(super::PAGE, "brake", &tables) } else { Ok(()) }
}

fn markdown(figures: &Figures) -> String {
    let say = |key: &str| figures.machine[key].as_str().unwrap_or("?").to_owned();
    let (cpus, runs) = (figures.machine["cpus"].as_u64().unwrap_or(0), &figures.runs);
    let place = match &figures.lab {
        Some(kernel) => format!("In a machine of the lab, Linux {kernel}, emulated on the above"),
        None => format!("On {cpus} CPUs ({}), Linux {}, load {}", say("cpu"), say("kernel"), say("load")),
    };
    format!("{place}:\n\n{}\n\n{}\n\n", freezer_table(runs), hold_table(runs))
}

fn measure(options: &Options) -> Result<Figures> {
    let workload = build::workload()?;
    let mut cargo = build::cargo();
    cargo.args(["build", "--release", "--package", "oomlet", "--example", "brake"]);
    process::run(cargo.arg("--target-dir").arg(paths::target()?))?;
    let program = paths::target()?.join("release/examples/brake");
    let text = match options.lab {
        Some(kernel) => in_the_lab(kernel, program, workload, options.runs)?,
        None => here(&program, &workload, options.runs)?,
    };
    let runs: Vec<Run> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a run: {line}")))
        .collect::<Result<_>>()?;
    ensure!(!runs.is_empty(), "no run was made");
    Ok(Figures { lab: options.lab.map(|kernel| kernel.line().to_owned()), runs, machine: Value::Null })
}

fn here(program: &Path, workload: &Path, runs: u32) -> Result<String> {
    root::require("a leak is put into cgroups")?;
    process::output(Command::new(program).arg(workload).arg(runs.to_string()))
}

fn in_the_lab(kernel: Kernel, program: PathBuf, workload: PathBuf, runs: u32) -> Result<String> {
    let along = [(PROGRAM, program), (WORKLOAD, workload)]
        .map(|(name, path)| TestBinary { name: name.to_owned(), path });
    let profile = build::Profile::Release;
    build::agent(profile)?;
    let lab = Lab::new(profile, &along)?;
    let artifacts = lab.artifacts(&format!("brake-{}", kernel.line()))?;
    let [program, workload] = [PROGRAM, WORKLOAD].map(|name| test_path(profile, name));
    let line = format!("{} {} {runs} >\"$OOMLET_LAB_OUT/{FILE}\"", program.display(), workload.display());
    let machine = Machine { bound: BOUND, ..lab.machine(kernel)? };
    let code = machine.run(&line, Output::Inherit, Some(&artifacts))?;
    ensure!(code == 0, "the machine's command ended with exit code {code}; its output says why");
    let file = artifacts.join(FILE);
    std::fs::read_to_string(&file)
        .with_context(|| format!("reading what the machine left in {}", file.display()))
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
