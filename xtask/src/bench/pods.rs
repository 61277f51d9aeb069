//! `bench pods`: what a node agent costs when many pods come at once, when they go, and at rest: oomlet, and kubelet in its
//! place, one after the other on the same control plane, each on a fresh node with a containerd of the same release.
//!
//! - [`watch`]: when pods are Ready and when they are gone, as a client of the API server sees it.
//! - [`requests`]: what a node has asked of the API server, by its audit log; [`gauge`]: its process.
//! - [`round`]: one agent's rounds; [`report`]: the tables.

pub(super) mod gauge;
mod report;
mod requests;
mod round;
mod watch;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::build::Profile;
use crate::control_plane::programs::{Program, Programs, Source};
use crate::control_plane::{self, ControlPlane};
use crate::demo::Interrupted;
use crate::node::kubelet::{self, Sysctls};
use crate::private_containerd::Version;
use crate::progress;
use crate::scratch::{self, Scratch};
use crate::setup::{self, role};
use requests::Requests;

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// This kubelet beside oomlet, instead of the one that `cargo xtask control-plane build --kubelet` has built. The sysctls
    /// that it sets are put back.
    #[arg(long, value_name = "PATH")]
    kubelet: Option<PathBuf>,
    /// How many pods at once, one number after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,20,60,110",
        value_parser = clap::value_parser!(u32).range(1..=110))]
    pods: Vec<u32>,
    /// How long the last of them are left at rest.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    rest_seconds: u64,
    /// Without a kubelet beside it.
    #[arg(long, conflicts_with = "kubelet")]
    alone: bool,
    /// Puts the tables into README.md.
    #[arg(long)]
    write: bool,
    /// Installs and builds nothing: measures what is built already.
    #[arg(long)]
    built: bool,
    /// With `--built`: the unoptimised oomlet.
    #[arg(long, requires = "built")]
    dev: bool,
}

impl Options {
    pub fn is_built(&self) -> bool {
        self.built
    }
}

/// All of one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figures {
    containerd: String,
    /// oomlet, and kubelet where there is one.
    agents: Vec<AgentFigures>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct AgentFigures {
    /// Such as `kubelet v1.37.2`.
    agent: String,
    rounds: Vec<Round>,
    rest: Rest,
}

/// So many pods at once: first they come, then they go.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Round {
    pods: u32,
    /// From the first pod's creation until the last one is Ready.
    ready_s: f64,
    /// Of each pod, from when it is there until it is Ready: half of them.
    ready_p50_s: f64,
    create: Cost,
    gone_s: f64,
    delete: Cost,
    /// Of the machine, when all were Ready.
    load: String,
}

/// From the beginning until [`round::AFTERMATH`] after the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cost {
    cpu_s: f64,
    /// Of containerd, which does what the agent asks for.
    containerd_cpu_s: f64,
    peak_rss_mib: f64,
    requests: Requests,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Rest {
    pods: u32,
    seconds: f64,
    rss_mib: f64,
    cost: Cost,
}

/// Which agent a node has.
#[derive(Clone, Debug)]
enum Agent {
    Oomlet(Profile),
    Kubelet { program: PathBuf, version: String },
}

impl Agent {
    fn name(&self) -> String {
        match self {
            Agent::Oomlet(Profile::Release) => "oomlet".to_owned(),
            Agent::Oomlet(Profile::Dev) => "oomlet (unoptimised)".to_owned(),
            Agent::Kubelet { version, .. } => format!("kubelet {version}"),
        }
    }

    /// Of its node, and its pods' namespace.
    fn node_name(&self) -> &'static str {
        match self {
            Agent::Oomlet(_) => "bench-oomlet",
            Agent::Kubelet { .. } => "bench-kubelet",
        }
    }
}

pub fn run(options: &Options) -> Result<()> {
    scratch::sweep_leftovers()?;
    if !options.built {
        setup::run(role::CONTROL_PLANE)?;
        Programs::ensure(&Source::default(), &Program::CONTROL_PLANE)?;
    }
    let stop = Interrupted::install()?;
    let mut agents = vec![Agent::Oomlet(if options.dev { Profile::Dev } else { Profile::Release })];
    match kubelet(options)? {
        Some(program) => {
            let version = kubelet::version(&program)?;
            agents.push(Agent::Kubelet { program, version });
        }
        None if options.alone => {}
        None => println!(
            "oomlet alone is measured: there is no kubelet. Name one by --kubelet, or have one built by \
             `cargo xtask control-plane build --kubelet`.\n"
        ),
    }
    let containerd =
        Version::available()?.pop().context("there is no containerd here; run `cargo xtask setup`")?;
    let scratch = Scratch::new("bench-pods")?;
    let plane = progress::step("control plane", |_| {
        let options = control_plane::Options { audit: true, ..control_plane::Options::default() };
        ControlPlane::start(&scratch, &options)
    })?;
    let _sysctls = Sysctls::keep()?;
    let mut figures = Figures { containerd: containerd.series().to_owned(), agents: Vec::new() };
    for agent in &agents {
        let measured = round::run(agent, options, &plane, containerd, &stop)
            .with_context(|| format!("measuring {}", agent.name()))?;
        figures.agents.push(measured);
    }
    let path = super::write("pods", serde_json::to_value(&figures)?)?;
    let machine = json!(super::machine::describe()?);
    println!("\n{}\n\nwritten: {}", report::tables(&figures, &machine), super::shown(&path));
    println!("\n{}", report::kinds(&figures));
    if options.write {
        super::write_between(super::README, "pods", &report::tables(&figures, &machine))?;
    }
    Ok(())
}

/// `None`: none is wanted, or none is built.
fn kubelet(options: &Options) -> Result<Option<PathBuf>> {
    if options.alone {
        return Ok(None);
    }
    if let Some(given) = &options.kubelet {
        ensure!(given.is_file(), "--kubelet {}: there is no such file", given.display());
        // Started in another folder than this one, perhaps.
        return std::path::absolute(given).map(Some).context("finding the folder that --kubelet is in");
    }
    let built = Programs::find(&Source::default(), &[Program::Kubelet]);
    Ok(built
        .ok()
        .map(|programs| programs.path(Program::Kubelet))
        .filter(|path: &PathBuf| Path::is_file(path)))
}
