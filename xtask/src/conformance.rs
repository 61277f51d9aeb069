//! `cargo xtask conformance`: Kubernetes' own tests of a node, `test/e2e_node` of the release that the control plane is of, run
//! against the agent or against kubelet.
//!
//! [`programs`], [`busybox`] and [`images`]: what is made once and kept in the cache. [`machine`]: namespaces that the suite takes for a
//! machine. [`suite`]: one run. [`results`]: what became of each test. [`page`]: docs/conformance.md.

mod busybox;
mod images;
mod machine;
mod page;
mod programs;
mod registry;
mod results;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build::{self, Profile, Selection as Built};
use crate::control_plane::programs::{Program as PlaneProgram, Programs as PlanePrograms, Source};
use crate::node::kubelet::Sysctls;
use crate::{paths, scratch};
use machine::Machine;
use programs::Programs;
use results::{KUBELET, OOMLET, Results};
use suite::{Selection, Suite};

/// The part that takes minutes: no test in it wants the node for itself.
const FAST: &str = "NodeConformance && !(Serial || Slow || Flaky || Disruptive)";

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Only tests whose name this regular expression finds.
    #[arg(long, value_name = "RE")]
    focus: Option<String>,
    /// Not the tests whose name this regular expression finds.
    #[arg(long, value_name = "RE")]
    skip: Option<String>,
    /// ginkgo's filter of labels. Serial tests want --processes 1.
    #[arg(long, value_name = "FILTER", default_value = FAST)]
    labels: String,
    /// How many tests run at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    processes: usize,
    /// kubelet instead of the agent.
    #[arg(long)]
    kubelet: bool,
    /// Builds nothing: tests the optimised agent that is there.
    #[arg(long, conflicts_with = "kubelet")]
    built: bool,
    /// Keeps what became of the tests that ran in tests/conformance, and writes docs/conformance.md.
    #[arg(long)]
    record: bool,
    /// Writes docs/conformance.md from what is kept, and runs nothing.
    #[arg(long, conflicts_with_all = ["record", "focus", "skip", "kubelet"])]
    page: bool,
}

impl Options {
    /// Nothing is run, and so nothing is to be installed for it.
    #[must_use]
    pub fn is_page(&self) -> bool {
        self.page
    }
}

/// Whether all that Go makes of it is there.
pub(crate) fn is_built() -> Result<bool> {
    Ok(Programs::find()?.are_there())
}

pub fn run(options: &Options) -> Result<ExitCode> {
    if options.page {
        page::write()?;
        return Ok(ExitCode::SUCCESS);
    }
    scratch::sweep_leftovers()?;
    let whose = if options.kubelet { KUBELET } else { OOMLET };
    let agent = if options.kubelet {
        PlanePrograms::ensure(&Source::default(), &[PlaneProgram::Kubelet])?.path(PlaneProgram::Kubelet)
    } else if options.built {
        build::agent_path(Profile::Release)?
    } else {
        build::all(Profile::Release, Built::Agent)?;
        build::agent_path(Profile::Release)?
    };
    let results = results_of(options, &agent)?;
    let mut recorded = Results::read(whose)?;
    for (name, one) in results.0.iter().filter(|(_, one)| !one.passed()) {
        println!("{} {name}\n       {}", one.state.to_uppercase(), first_line(&one.message));
    }
    let of_state = |state: &str| results.0.values().filter(|one| one.state == state).count();
    let lost = results.lost(&recorded);
    for name in &lost {
        println!("passed before: {name}");
    }
    let (passed, skipped) = (of_state("passed"), of_state("skipped"));
    println!(
        "conformance: {passed} passed, {} failed ({} of them passed before), {skipped} skipped",
        results.0.len() - passed - skipped,
        lost.len()
    );
    let ok = lost.is_empty();
    if options.record {
        recorded.0.extend(results.0);
        recorded.write(whose)?;
        page::write()?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn results_of(options: &Options, agent: &Path) -> Result<Results> {
    let programs = Programs::ensure()?;
    // kubelet changes the whole machine's.
    let _kept = Sysctls::keep()?;
    let machine = Machine::start()?;
    let suite = Suite::start(&machine, &programs, agent)?;
    let selection = Selection {
        focus: options.focus.as_deref(),
        skip: options.skip.as_deref(),
        labels: &options.labels,
        processes: options.processes,
    };
    let report = suite.run_tests(&selection)?;
    let kept = keep_logs(machine.state())?;
    println!("report and logs: {}", kept.display());
    let text = fs::read(&report).with_context(|| format!("reading {}", report.display()))?;
    let report = serde_json::from_slice(&text).context("parsing ginkgo's report")?;
    let results = Results::of_report(&report);
    ensure!(!results.0.is_empty(), "no test was selected");
    Ok(results)
}

/// The machine's folder goes with it.
fn keep_logs(state: &Path) -> Result<PathBuf> {
    let dir = paths::target()?.join("conformance");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    for name in ["report.json", "suite.log", "agent.log", "containerd.log", "services.log"] {
        let from = state.join(name);
        if from.is_file() {
            fs::copy(&from, dir.join(name)).with_context(|| format!("keeping {}", from.display()))?;
        }
    }
    Ok(dir)
}

fn first_line(message: &str) -> &str {
    message.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()
}
