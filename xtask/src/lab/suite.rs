//! `cargo xtask lab -- suite`: the whole test suite in the machines of the lab, and the tables of what came out.
//! `cargo xtask test` runs a [`selection`] of it.
//!
//! Two machines with one CPU each run at a time: under emulation they get more done together than one with two.

mod jobs;
mod report;
mod selection;

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use super::machine::{Machine, Output, Profile};
use super::{Lab, accel::Accel};
use crate::build::{self, Profile as BuildProfile};
use crate::progress::{self, Step};
use crate::{paths, process};
use jobs::{BINARIES, Job};
use report::{Outcome, Ran};

/// Runs it on each of these kernels, in the profiles given.
pub fn run(kernels: &[Kernel], profiles: &[Profile]) -> Result<()> {
    run_jobs(|names| {
        let mut all = Vec::new();
        for kernel in kernels {
            kernel.fetch()?;
            all.extend(jobs::of(*kernel, profiles, names)?);
        }
        Ok(all)
    })
}

/// Runs what a virtual machine alone can show: all of it, or in the machines of these names.
pub fn run_selection(machines: &[String]) -> Result<()> {
    let chosen = selection::named(machines)?;
    for chosen in &chosen {
        for group in chosen.groups {
            println!("lab: {:10} {:6} {}", chosen.about, group.binary, group.why);
        }
    }
    run_jobs(|names| {
        selection::KERNEL.fetch()?;
        selection::jobs(&chosen, names)
    })
}

fn run_jobs(choose: impl FnOnce(&jobs::Names) -> Result<Vec<Job>>) -> Result<()> {
    let begun = Instant::now();
    let tests = build::tests(&BINARIES)?;
    let lab = Lab::new(BuildProfile::Dev, &tests)?;
    let jobs = VecDeque::from(choose(&jobs::test_names(&tests)?)?);
    let count = jobs.len();
    let logs = paths::target()?.join("lab");
    fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    let heading = format!("lab: {count} machines to run, two at a time, by {}", lab.accel().name());
    let outcomes = progress::step(&heading, |step| Ok(run_all(&lab, jobs, &logs, step)))?;
    ensure!(outcomes.len() == count, "{} of {count} machines were run", outcomes.len());
    report::write(&outcomes, lab.accel(), begun.elapsed(), &logs)
}

fn run_all(lab: &Lab, jobs: VecDeque<Job>, logs: &Path, step: &Step) -> Vec<Outcome> {
    let (jobs, outcomes) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    let running = Mutex::new(BTreeSet::new());
    let now_running = |change: &dyn Fn(&mut BTreeSet<String>) -> bool| {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut running);
        step.doing(&running.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(job) = next else { return };
                    let name = job.name();
                    now_running(&|running| running.insert(name.clone()));
                    let outcome = run_job(lab, job, logs, step);
                    now_running(&|running| running.remove(&name));
                    step.say(&outcome.line());
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Never fails by itself: what went wrong is part of the outcome.
///
/// On an emulated CPU that others use as well, a test may miss what it waits for. Those that failed there are run once
/// more, alone, and the report names those that passed then only.
fn run_job(lab: &Lab, job: Job, logs: &Path, step: &Step) -> Outcome {
    let begun = Instant::now();
    let (mut ran, mut log) = attempt(lab, &job, logs);
    let mut second_try = Vec::new();
    if let Ok(first) = &mut ran
        && lab.accel() == Accel::Tcg
        && first.failed_by_name_only()
        && let Some(again) = job.of_tests(&first.failed)
    {
        let failed = std::mem::take(&mut first.failed);
        step.say(&format!("lab: {} once more: {}", job.name(), failed.join(", ")));
        let (second, its_log) = attempt(lab, &again, logs);
        log = its_log;
        match second {
            Ok(second) => {
                second_try = failed.into_iter().filter(|name| !second.failed.contains(name)).collect();
                *first = first.with_second_try(&second);
            }
            Err(error) => ran = Err(error),
        }
    }
    Outcome { job, ran, second_try, log, took: begun.elapsed() }
}

fn attempt(lab: &Lab, job: &Job, logs: &Path) -> (Result<Ran, String>, PathBuf) {
    let log = logs.join(format!("{}.log", job.name()));
    let ran = boot(lab, job, &log);
    let output = fs::read_to_string(&log).unwrap_or_default();
    (ran.map(|code| Ran::read(&output, code)).map_err(|error| format!("{error:#}")), log)
}

fn boot(lab: &Lab, job: &Job, log: &PathBuf) -> Result<i32> {
    let machine = Machine {
        profile: job.profile,
        memory_mib: job.memory_mib,
        cpus: 1,
        append: job.append.to_owned(),
        // Emulated CPUs of a machine that others use as well. A hang is found by the tests' own bounds.
        bound: Duration::from_secs(60 * 60),
        ..lab.machine(job.kernel)?
    };
    let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    machine.run(&job.command, Output::File(output), Some(&lab.artifacts(&job.name())?))
}
