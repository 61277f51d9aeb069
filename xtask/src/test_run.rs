//! `cargo xtask test`: formatting, lints, every test of the workspace, and in virtual machines what they alone can show.
//!
//! The runner is plain `cargo test`: it is there wherever Rust is, and its closing lines are what people know. The
//! steps after a failed one still run, so that one round shows all that is wrong.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets};

use crate::build::{TEST_TARGETS, WORKSPACE};
use crate::control_plane::programs::{Program, Programs, Source};
use crate::{build, lab, paths, process, scratch};

/// `filter` and what else follows `--` goes to the test binaries.
pub fn run(filter: &[String]) -> Result<()> {
    scratch::sweep_leftovers()?;
    let mut steps = Steps::default();
    steps.take("format", || process::run(build::cargo().args(["fmt", "--all", "--check"])));
    steps.take("build", || {
        build::workload()?;
        // The same selection as the tests, so that both agree on features and nothing is compiled twice.
        process::run(in_target(build::cargo().arg("build").args(WORKSPACE).args(TEST_TARGETS))?)
    });
    steps.take("lints", || {
        let mut command = build::cargo();
        command.arg("clippy").args(WORKSPACE).arg("--all-targets");
        process::run(in_target(&mut command)?.args(["--", "-D", "warnings"]))
    });
    // Without the binaries every integration test would fail, and hide why.
    if !steps.failed().contains(&"build") {
        steps.take("tests", || {
            let mut command = build::cargo();
            command.arg("test").args(WORKSPACE).args(TEST_TARGETS).arg("--no-fail-fast");
            process::run(in_target(&mut command)?.arg("--").args(filter))
        });
    }
    if !steps.failed().contains(&"build") {
        steps.take("control plane", || {
            // With kubelet: a test takes over from it.
            Programs::ensure(&Source::default(), &Program::ALL).map(drop)
        });
    }
    if !["build", "control plane"].iter().any(|step| steps.failed().contains(step)) {
        steps.take("cluster", || {
            let mut command = build::cargo();
            command.arg("test").args(WORKSPACE).args(["--test", "cluster"]);
            process::run(in_target(&mut command)?.arg("--").args(filter))
        });
    }
    if let Some(vagrant) = paths::program("vagrant") {
        steps.take("vagrant", || validate_vagrantfile(&vagrant));
    } else {
        println!(
            "== vagrant: left out: there is no vagrant here (`cargo xtask setup --vagrant` installs it)"
        );
    }
    // A filter is for somebody who looks for one test; the lab's machines are not part of that.
    if filter.is_empty() && !steps.failed().contains(&"build") {
        match lab::is_possible() {
            Ok(()) => steps.take("lab", lab::run_what_takes_a_machine),
            Err(error) => println!("== lab: left out on this machine: {error:#}"),
        }
    }
    if let Err(error) = scratch::sweep_leftovers() {
        steps.take("clean-up", || Err(error));
    }
    println!("\n{}", steps.table());
    for step in &steps.0 {
        if let Err(error) = &step.result {
            println!("{}: {error:#}", step.name);
        }
    }
    let failed = steps.failed();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    result: Result<()>,
    wall: Duration,
    /// Of the processes that it has started. `None`: the machine does not tell.
    cpu: Option<Duration>,
}

#[derive(Debug, Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn take(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        println!("== {name}");
        let (begun, before) = (Instant::now(), process::cpu_of_children().ok());
        let result = work();
        let after = process::cpu_of_children().ok();
        let cpu = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        self.0.push(Step { name, result, wall: begun.elapsed(), cpu });
    }

    fn failed(&self) -> Vec<&'static str> {
        self.0.iter().filter(|step| step.result.is_err()).map(|step| step.name).collect()
    }

    /// What each part took, and all together.
    fn table(&self) -> Table {
        let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["part", "", "seconds", "CPU seconds"]);
        for step in &self.0 {
            let verdict = if step.result.is_ok() { "ok" } else { "FAILED" };
            let cpu = step.cpu.map_or("?".to_owned(), seconds);
            table.add_row([step.name, verdict, &seconds(step.wall), &cpu]);
        }
        let wall = self.0.iter().map(|step| step.wall).sum();
        let cpu = self.0.iter().map(|step| step.cpu).sum::<Option<Duration>>();
        table.add_row(["all", "", &seconds(wall), &cpu.map_or("?".to_owned(), seconds)]);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// With folders of its own, so that nothing is left in the work tree and in the user's home.
fn validate_vagrantfile(vagrant: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(vagrant);
    // The providers are plugins, which need not be here to check all that is not theirs.
    command.args(["validate", "--ignore-provider"]).env("VAGRANT_CWD", paths::repository().join("vagrant"));
    command.env("VAGRANT_DOTFILE_PATH", dir.path().join("dot")).env("VAGRANT_HOME", dir.path().join("home"));
    process::run(&mut command)
}

fn in_target(command: &mut Command) -> Result<&mut Command> {
    Ok(command.arg("--target-dir").arg(paths::target()?))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_table_tells_what_each_part_took_and_what_failed() {
        let step = |name, result, wall, cpu: Option<u64>| {
            let wall = Duration::from_millis(wall);
            Step { name, result, wall, cpu: cpu.map(Duration::from_millis) }
        };
        let mut steps = Steps(vec![
            step("build", Ok(()), 61_000, Some(118_400)),
            step("lints", Err(anyhow!("no")), 2_500, Some(4_000)),
        ]);
        let rows = |steps: &Steps| -> Vec<Vec<String>> {
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            steps.table().to_string().lines().skip(1).map(words).collect()
        };
        let expected = [
            vec!["build", "ok", "61.0", "118.4"],
            vec!["lints", "FAILED", "2.5", "4.0"],
            vec!["all", "63.5", "122.4"],
        ];
        assert_eq!(rows(&steps), expected);
        assert_eq!(steps.failed(), ["lints"]);
        steps.0.push(step("lab", Ok(()), 1_000, None));
        assert_eq!(rows(&steps)[2..], [vec!["lab", "ok", "1.0", "?"], vec!["all", "64.5", "?"]]);
    }

    #[test]
    fn a_step_is_charged_with_its_processes() {
        let mut steps = Steps::default();
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        steps.take("busy", || process::run(Command::new("sh").args(["-c", busy])));
        let step = &steps.0[0];
        assert!(step.result.is_ok() && step.cpu > Some(Duration::ZERO), "{step:?}");
    }
}
