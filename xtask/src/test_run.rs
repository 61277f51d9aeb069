//! `cargo xtask test`: formatting, lints, every test of the workspace.
//!
//! The runner is plain `cargo test`: it is there wherever Rust is, and its closing lines are what people know. The
//! steps after a failed one still run, so that one round shows all that is wrong.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::build::WORKSPACE;
use crate::{build, paths, process, scratch};

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
