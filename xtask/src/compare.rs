//! `cargo xtask compare`: the yardstick of fidelity. Each manifest of a corpus is run by kubelet and by the agent, each on
//! a node of its own of one control plane; what is seen of them from outside is compared, and each difference is either
//! mended or stands with its reason in docs/differences.md, which this writes.
//!
//! - [`corpus`]: the manifests, and until when each is run. [`peer`]: a node that is run by either.
//! - [`watch`], [`look`], [`calls`]: what is seen: the API server's objects over time; the pod from inside, its cgroups;
//!   what the runtime was asked for, by a proxy before its socket. [`record`]: all of that of one manifest, with what changes from run to run taken out by
//!   [`normal`].
//! - [`node_api`]: what the node's own API answers, and [`numbers`]: what it says in numbers.
//! - [`difference`], [`page`]: what differs, the reasons, and the page.

mod calls;
pub mod corpus;
pub mod difference;
mod look;
pub mod node_api;
mod normal;
pub mod numbers;
mod page;
pub mod peer;
pub mod record;
mod sequence;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::control_plane::programs::{Program, Programs, Source};
use crate::control_plane::{ControlPlane, Options as PlaneOptions};
use crate::scratch::{self, Scratch};
use crate::{paths, process};
use corpus::Case;
use difference::{Reasons, Standing};
use peer::{Kind, Peer};
use record::Recording;

/// The release whose behaviour is recorded.
pub const KUBELET: &str = "kubelet-1.37.2";

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// A folder of manifests, instead of the project's own.
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Runs kubelet too and keeps what it did; without it the agent is compared with what was kept.
    #[arg(long)]
    record: bool,
    /// Only the manifests whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Another kubelet than the one built for the control plane.
    #[arg(long, value_name = "PATH")]
    kubelet: Option<PathBuf>,
    /// Writes what the agent did into this folder, one file a manifest.
    #[arg(long, value_name = "DIR", conflicts_with = "replay")]
    keep: Option<PathBuf>,
    /// Takes what the agent did from such a folder, instead of running it: after reasons have been edited.
    #[arg(long, value_name = "DIR", conflicts_with = "record")]
    replay: Option<PathBuf>,
    /// The node's own API instead of manifests: what every route answers to every kind of caller, the configuration in
    /// effect, metrics and the Summary.
    #[arg(long, conflicts_with_all = ["corpus", "only"])]
    node_api: bool,
}

impl Options {
    /// Nothing is run, and so nothing is to be installed or built for it.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.replay.is_some()
    }
}

/// The project's own manifests.
#[must_use]
pub fn corpus_dir() -> PathBuf {
    paths::repository().join("tests/compare/corpus")
}

/// What kubelet did with them.
#[must_use]
pub fn recorded_dir() -> PathBuf {
    paths::repository().join("tests/compare").join(KUBELET)
}

/// Why differences stand.
#[must_use]
pub fn reasons_path() -> PathBuf {
    paths::repository().join("tests/compare/reasons.yaml")
}

pub fn run(options: &Options) -> Result<ExitCode> {
    scratch::sweep_leftovers()?;
    if options.node_api {
        return node_api::run(options);
    }
    let own = options.corpus.is_none();
    let cases = corpus::read(&options.corpus.clone().unwrap_or_else(corpus_dir), options.only.as_deref())?;
    ensure!(!cases.is_empty(), "no manifest of the corpus is called so");
    let reasons = Reasons::read(&reasons_path())?;
    let (expected, actual) = match &options.replay {
        Some(dir) => (Recording::read(&recorded_dir(), &cases)?, Recording::read(dir, &cases)?),
        None => run_both(options, own, &cases)?,
    };
    let found = difference::between(&expected, &actual, &reasons);
    tell(&found);
    if own && options.only.is_none() {
        page::write(&found, &reasons)?;
    }
    let unexplained = found.iter().filter(|one| one.standing == Standing::Unexplained).count();
    println!(
        "compare: {} manifests, {} differences, {unexplained} without a reason",
        cases.len(),
        found.len()
    );
    Ok(if unexplained == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What kubelet did, now or when it was recorded, and what the agent does.
fn run_both(options: &Options, own: bool, cases: &[Case]) -> Result<(Recording, Recording)> {
    let scratch = Scratch::new("compare")?;
    let plane = ControlPlane::start(&scratch, &PlaneOptions::default())?;
    let expected = if options.record || !own {
        let recording = run_kubelet(&plane, options, cases).context("kubelet")?;
        if options.record && own {
            recording.write(&recorded_dir())?;
        }
        recording
    } else {
        Recording::read(&recorded_dir(), cases)?
    };
    let actual = run_peer(&plane, Kind::Oomlet, cases).context("oomlet")?;
    if let Some(dir) = &options.keep {
        actual.write(dir)?;
    }
    Ok((expected, actual))
}

fn kubelet_program(options: &Options) -> Result<PathBuf> {
    Ok(match &options.kubelet {
        Some(path) => path.clone(),
        None => Programs::find(&Source::default(), &[Program::Kubelet])?.path(Program::Kubelet),
    })
}

fn run_kubelet(plane: &ControlPlane, options: &Options, cases: &[Case]) -> Result<Recording> {
    let program = kubelet_program(options)?;
    let said = process::output(std::process::Command::new(&program).arg("--version"))?;
    println!("{}: {}", program.display(), said.trim());
    run_peer(plane, Kind::Kubelet(program), cases)
}

/// All manifests on one new node of this kind.
pub fn run_peer(plane: &ControlPlane, kind: Kind, cases: &[Case]) -> Result<Recording> {
    let peer = Peer::start(plane, kind)?;
    let recording = peer.run(cases);
    recording.with_context(|| peer.diagnosis())
}

fn tell(found: &[difference::Difference]) {
    for one in found.iter().filter(|one| one.standing == Standing::Unexplained) {
        println!("{one}");
    }
}
