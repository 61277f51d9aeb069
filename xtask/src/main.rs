//! `cargo xtask`: developer commands.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::build::{self, Profile};
use xtask::{bench, demo, lab, root, scratch, setup, test_run};

/// Developer commands for oomlet.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs what the other commands need and is missing; does nothing when all is there.
    Setup {
        /// Only reports; exit code 1 when something is missing.
        #[arg(long)]
        check: bool,
    },
    /// Sets up, then builds the agent and the workload that the sample pods run.
    Build {
        /// Unoptimised, as the tests use it.
        #[arg(long)]
        dev: bool,
        /// An agent that needs no C library, for a machine with an older one than this.
        #[arg(long = "static", conflicts_with = "dev")]
        static_agent: bool,
    },
    /// Sets up, builds, then checks format and lints and runs every test.
    Test {
        /// Passed to the test binaries: a filter, or libtest's own options.
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// A hog against its neighbours on a real containerd: first without eviction, then with it.
    Demo(demo::Options),
    /// Measures; prints a table and writes target/bench/NAME.json.
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Boots a virtual machine with a kernel that the agent supports, on cgroup v2, and runs a command inside.
    Lab(lab::Options),
    /// Removes what a test or demo that was killed has left: its processes, mounts, cgroups and folder.
    CleanLeftovers,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup { check: true } => {
            return Ok(if setup::check()? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Setup { check: false } => setup::run()?,
        Command::Build { static_agent: true, .. } => {
            setup::run()?;
            println!("agent: {}", build::static_program("oomlet")?.display());
        }
        Command::Build { dev, .. } => {
            setup::run()?;
            build::all(if dev { Profile::Dev } else { Profile::Release })?;
        }
        Command::Test { filter } => {
            root::require("its tests start containers, and make cgroups and network namespaces")?;
            setup::run()?;
            test_run::run(&filter)?;
        }
        Command::Demo(options) => {
            root::require("it starts pods in cgroups and a network namespace of their own")?;
            setup::run()?;
            build::all(Profile::Release)?;
            return demo::run(&options);
        }
        Command::Bench { bench } => {
            root::require("it starts pods and loads eBPF programs")?;
            if !bench.is_inside() {
                setup::run()?;
                build::all(Profile::Release)?;
            }
            bench::run(&bench)?;
        }
        Command::Lab(options) => {
            root::require("its machines' root file system is made with the owners of its files")?;
            setup::run()?;
            return lab::run(&options);
        }
        Command::CleanLeftovers => {
            root::require("what is left belongs to root")?;
            let swept = scratch::sweep_leftovers()?;
            println!("clean-leftovers: {swept} removed");
        }
    }
    Ok(ExitCode::SUCCESS)
}
