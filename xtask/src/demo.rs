//! `cargo xtask demo`: a hog among three neighbours on a real containerd, under a kubepods cap. Part A without
//! eviction, where the kernel kills; part B with it. [`cluster`] is the other demo, `--cluster`: the same hog as a
//! Deployment on a node of a cluster.
//!
//! Reads the agent's trace, the kernel's cgroup files, containerd's tasks and the mark that the hog's SIGTERM handler
//! leaves; prints the trace as it comes, a table of A against B, and with `--headless` one line of JSON.

pub mod cluster;
mod outcome;
mod part;
mod show;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::private_containerd::Version;
use crate::scratch;
use crate::setup::role::{self, Role};

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// On a node of a cluster: a control plane is started, the node joins it by a bootstrap token, and the hog is a
    /// Deployment.
    #[arg(long)]
    pub cluster: bool,
    /// An administrator's, of a cluster that is there already, instead of a control plane of the demo's own.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// For scripts: adds a last line of JSON, `{"a": …, "b": …}`, or with --cluster `{"node_ready_ms": …}`.
    #[arg(long)]
    pub headless: bool,
    /// How fast the hog leaks, in MiB a second.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate_mib_s: u64,
    /// The cap on all pods together, in MiB.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(256..=4096))]
    pub cap_mib: u64,
    /// How long the hog's SIGTERM handler works, in ms.
    #[arg(long, default_value_t = 500)]
    pub sigterm_ms: u64,
}

impl Options {
    /// As of a command line, without the command.
    pub fn parse(words: &[&str]) -> Result<Options> {
        #[derive(Parser)]
        #[command(no_binary_name = true)]
        struct Alone {
            #[command(flatten)]
            options: Options,
        }
        Ok(Alone::try_parse_from(words)?.options)
    }

    /// What the machine needs for it.
    #[must_use]
    pub fn roles(&self) -> &'static [Role] {
        let builds_programs = self.cluster && !(self.kubeconfig.is_some() && cluster::has_kubectl());
        if builds_programs { role::CLUSTER_DEMO } else { role::DEMO }
    }
}

/// Exit code 0 only when it held: part B, or the demo in a cluster.
pub fn run(options: &Options) -> Result<ExitCode> {
    scratch::sweep_leftovers()?;
    let stop = Interrupted::install()?;
    let version = Version::of_the_system()?;
    if options.cluster {
        let outcome = cluster::run(options, version, &stop)?;
        return cluster::tell(&outcome, options);
    }
    println!(
        "containerd {}, {} MiB for all pods, a hog that leaks {} MiB/s\n",
        version.series(),
        options.cap_mib,
        options.rate_mib_s
    );
    println!("A: eviction off\n");
    let a = part::run(options, version, false, &stop).context("part A")?;
    println!("\nB: eviction on\n");
    let b = part::run(options, version, true, &stop).context("part B")?;
    println!("\n{}\n", show::table(&a, &b));
    let failures = b.failures();
    if failures.is_empty() {
        println!("B holds: the hog was evicted before the kernel had to kill, and its neighbours live on.");
    } else {
        println!("B does not hold: {}.", failures.join("; "));
    }
    if options.headless {
        println!("{}", serde_json::json!({ "a": a, "b": b }));
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ctrl-C and SIGTERM: turned into an error, so that everything is removed on the way out.
#[derive(Clone, Debug, Default)]
pub struct Interrupted(Arc<AtomicBool>);

/// Without [`Interrupted::install`] nobody interrupts.
impl Interrupted {
    pub fn install() -> Result<Interrupted> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, flag.clone()).context("handling signals")?;
        }
        Ok(Interrupted(flag))
    }

    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted; everything it made is removed");
        }
        Ok(())
    }
}

/// Of `oomlet-workload hog`; what its SIGTERM handler did is added to `mark`.
fn hog_arguments(options: &Options, mark: &str) -> Result<Vec<String>> {
    // It needs room to leak in: neighbours and thresholds take the rest.
    let max = options.cap_mib * 4;
    ensure!(max > options.cap_mib, "a cap of {} MiB is too large", options.cap_mib);
    let numbers =
        [("--rate-mib-s", options.rate_mib_s), ("--max-mib", max), ("--sigterm-ms", options.sigterm_ms)];
    let mut arguments: Vec<String> =
        numbers.iter().flat_map(|(name, number)| [(*name).to_owned(), number.to_string()]).collect();
    arguments.extend(["--mark".to_owned(), mark.to_owned()]);
    Ok(arguments)
}

/// Time to reach the cap, with much to spare for a machine that is busy.
fn longest_leak(options: &Options) -> Duration {
    Duration::from_secs(60 + 4 * options.cap_mib / options.rate_mib_s)
}
