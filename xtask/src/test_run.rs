//! `cargo xtask test`: formatting, lints, every test of the workspace, and the suite in virtual machines of one kernel.
//!
//! The runner is plain `cargo test`: it is there wherever Rust is, and its closing lines are what people know. The
//! steps after a failed one still run, so that one round shows all that is wrong.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::build::WORKSPACE;
use crate::{build, lab, paths, process, scratch};

/// `filter` and what else follows `--` goes to the test binaries.
pub fn run(filter: &[String]) -> Result<()> {
    scratch::sweep_leftovers()?;
    let mut steps: Vec<(&str, Result<()>, f64)> = Vec::new();
    step(&mut steps, "format", || process::run(build::cargo().args(["fmt", "--all", "--check"])));
    step(&mut steps, "build", || {
        build::workload()?;
        // The same selection as the tests, so that both agree on features and nothing is compiled twice.
        process::run(in_target(build::cargo().arg("build").args(WORKSPACE).args(["--bins", "--tests"]))?)
    });
    step(&mut steps, "lints", || {
        let mut command = build::cargo();
        command.arg("clippy").args(WORKSPACE).arg("--all-targets");
        process::run(in_target(&mut command)?.args(["--", "-D", "warnings"]))
    });
    // Without the binaries every integration test would fail, and hide why.
    if steps.iter().all(|(name, result, _)| *name != "build" || result.is_ok()) {
        step(&mut steps, "tests", || {
            let mut command = build::cargo();
            command.arg("test").args(WORKSPACE).arg("--no-fail-fast");
            process::run(in_target(&mut command)?.arg("--").args(filter))
        });
    }
    if let Some(vagrant) = paths::program("vagrant") {
        step(&mut steps, "vagrant", || validate_vagrantfile(&vagrant));
    } else {
        println!("== vagrant: left out: there is no vagrant here");
    }
    // A filter is for somebody who looks for one test; the lab's machines are not part of that.
    if filter.is_empty() && steps.iter().all(|(name, result, _)| *name != "build" || result.is_ok()) {
        match lab::is_possible() {
            Ok(()) => step(&mut steps, "lab", lab::run_fast_suite),
            Err(error) => println!("== lab: left out on this machine: {error:#}"),
        }
    }
    if let Err(error) = scratch::sweep_leftovers() {
        steps.push(("clean-up", Err(error), 0.0));
    }
    println!();
    for (name, result, seconds) in &steps {
        match result {
            Ok(()) => println!("{name:8} ok      {seconds:6.1} s"),
            Err(error) => println!("{name:8} FAILED  {seconds:6.1} s  {error:#}"),
        }
    }
    let failed: Vec<&str> = steps.iter().filter(|(_, r, _)| r.is_err()).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
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

fn step(
    steps: &mut Vec<(&'static str, Result<()>, f64)>,
    name: &'static str,
    work: impl FnOnce() -> Result<()>,
) {
    println!("== {name}");
    let start = Instant::now();
    let result = work();
    steps.push((name, result, start.elapsed().as_secs_f64()));
}
