//! `cargo xtask`: developer commands.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::build::{self, Profile, Selection};
use xtask::control_plane::command as control_plane;
use xtask::setup::role;
use xtask::{bench, compare, conformance, demo, lab, root, scratch, setup, test_run};

/// Developer commands for oomlet.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs what the other commands need and is missing; does nothing when all is there. Each of them installs its
    /// own needs by itself.
    Setup {
        /// Only reports; exit code 1 when something is missing.
        #[arg(long)]
        check: bool,
        /// Vagrant as well: `test` checks vagrant/Vagrantfile where it is there.
        #[arg(long)]
        vagrant: bool,
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
    /// A hog against its neighbours on a real containerd: first without eviction, then with it. With --cluster: on a node
    /// of a Kubernetes cluster.
    Demo(demo::Options),
    /// Measures; prints a table and writes target/bench/NAME.json.
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Runs a corpus of manifests and holds what is seen against what kubelet did; writes docs/differences.md. Exit code 1
    /// when something differs without a reason.
    Compare(compare::Options),
    /// Kubernetes' own tests of a node, against the agent or against kubelet. Exit code 1 when one that has passed before does
    /// not pass.
    Conformance(conformance::Options),
    /// Boots a virtual machine with a kernel that the agent supports, on cgroup v2, and runs a command inside.
    Lab(lab::Options),
    /// A real Kubernetes control plane on loopback, without nodes.
    ControlPlane {
        #[command(subcommand)]
        action: control_plane::Action,
    },
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
        Command::Setup { check, vagrant } => {
            let roles = if vagrant { role::WITH_VAGRANT } else { role::TEST };
            if !check {
                setup::run(roles)?;
            } else if !setup::check(roles)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Build { static_agent: true, .. } => {
            setup::run(role::BUILD)?;
            println!("agent: {}", build::static_program("oomlet")?.display());
        }
        Command::Build { dev, .. } => {
            setup::run(role::BUILD)?;
            let (profile, selection) =
                if dev { (Profile::Dev, Selection::Tests) } else { (Profile::Release, Selection::Agent) };
            build::all(profile, selection)?;
        }
        Command::Test { filter } => {
            root::require("its tests start containers, and make cgroups and network namespaces")?;
            setup::run(role::TEST)?;
            test_run::run(&filter)?;
        }
        Command::Demo(options) => {
            root::require("it starts pods in cgroups and a network namespace of their own")?;
            let begun = Instant::now();
            setup::run(options.roles())?;
            build::all(Profile::Dev, Selection::Agent)?;
            println!("ready after {:.0} s", begun.elapsed().as_secs_f64());
            return demo::run(&options);
        }
        Command::Bench { bench } => {
            root::require("it starts pods and loads eBPF programs")?;
            if !bench.is_inside() {
                setup::run(role::DEMO)?;
                build::all(Profile::Release, Selection::Agent)?;
            }
            bench::run(&bench)?;
        }
        Command::Compare(options) if options.is_replay() => return compare::run(&options),
        Command::Compare(options) => {
            root::require("it starts pods in cgroups and a network namespace of their own")?;
            setup::run(role::COMPARE)?;
            build::all(Profile::Dev, Selection::Compare)?;
            return compare::run(&options);
        }
        Command::Conformance(options) if options.is_page() => return conformance::run(&options),
        Command::Conformance(options) => {
            root::require("it makes a machine of namespaces and starts pods in it")?;
            setup::run(role::CONFORMANCE)?;
            return conformance::run(&options);
        }
        Command::Lab(options) => {
            root::require("its machines' root file system is made with the owners of its files")?;
            setup::run(role::LAB)?;
            return lab::run(&options);
        }
        Command::ControlPlane { action } => {
            if action.may_build() {
                setup::run(role::CONTROL_PLANE)?;
            }
            return control_plane::run(action);
        }
        Command::CleanLeftovers => {
            root::require("what is left belongs to root")?;
            let swept = scratch::sweep_leftovers()?;
            println!("clean-leftovers: {swept} removed");
        }
    }
    Ok(ExitCode::SUCCESS)
}
