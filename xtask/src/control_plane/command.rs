//! `cargo xtask control-plane`: one control plane of the user's own, in the cache, that runs until it is told to end.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::metrics_server::program;
use super::programs::{Program, Programs, Source};
use super::version::Version;
use super::{ControlPlane, Options};
use crate::{paths, process, scratch};

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Builds its programs where they lack (minutes), and kubelet with `--kubelet`.
    Build {
        #[command(flatten)]
        source: SourceOptions,
        /// The agent's peer as well.
        #[arg(long)]
        kubelet: bool,
        /// What `kubectl top` and autoscalers ask, for the tests.
        #[arg(long)]
        metrics_server: bool,
    },
    /// Starts it and leaves it running; prints where the kubeconfig is.
    Up {
        #[command(flatten)]
        source: SourceOptions,
        /// Writes down each request.
        #[arg(long)]
        audit: bool,
        /// Writes a kubeconfig of this node's own identity as well; may be given several times.
        #[arg(long, value_name = "NAME")]
        node: Vec<String>,
    },
    /// Ends it and removes its data.
    Down,
    /// Says what runs; exit code 1 when not all of it does.
    Status,
}

impl Action {
    /// Whether it may need a compiler.
    #[must_use]
    pub fn may_build(&self) -> bool {
        matches!(self, Action::Build { .. } | Action::Up { .. })
    }
}

#[derive(Args, Clone, Debug)]
pub struct SourceOptions {
    /// Another release of Kubernetes than the tests' own, such as 1.34.4.
    #[arg(long, conflicts_with = "bin_dir")]
    version: Option<Version>,
    /// A folder with all programs, instead of building them.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

impl From<SourceOptions> for Source {
    fn from(options: SourceOptions) -> Source {
        Source { version: options.version, bin_dir: options.bin_dir }
    }
}

/// What `status` tells of one that another call has started.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    server: String,
    programs: PathBuf,
    kubeconfig: PathBuf,
    bootstrap_kubeconfig: PathBuf,
    node_kubeconfigs: Vec<PathBuf>,
}

/// The programs that run as long as the control plane does.
const DAEMONS: [Program; 4] =
    [Program::Etcd, Program::ApiServer, Program::ControllerManager, Program::Scheduler];

impl Running {
    fn read(dir: &Path) -> Result<Option<Running>> {
        let path = dir.join("running.json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is not what `up` writes; run `down`", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn describe(&self) -> String {
        let mut lines = vec![
            format!("server:               {}", self.server),
            format!("kubeconfig:           {}", self.kubeconfig.display()),
            format!("bootstrap-kubeconfig: {}", self.bootstrap_kubeconfig.display()),
        ];
        lines.extend(
            self.node_kubeconfigs.iter().map(|path| format!("node kubeconfig:      {}", path.display())),
        );
        let kubectl = self.programs.join(Program::Kubectl.name());
        lines.push(format!(
            "try:                  {} --kubeconfig {} get namespaces",
            kubectl.display(),
            self.kubeconfig.display()
        ));
        lines.join("\n")
    }
}

pub fn run(action: Action) -> Result<ExitCode> {
    let dir = paths::cache()?.join("control-plane/running");
    match action {
        Action::Build { source, kubelet, metrics_server } => {
            let wanted = if kubelet { &Program::ALL[..] } else { &Program::CONTROL_PLANE };
            println!("programs: {}", Programs::ensure(&source.into(), wanted)?.dir().display());
            if metrics_server {
                println!("metrics-server: {}", program::ensure()?.display());
            }
        }
        Action::Up { source, audit, node } => {
            let options = Options { source: source.into(), audit, ..Options::default() };
            up(&dir, &options, &node)?;
        }
        Action::Down => {
            let ended = scratch::end_programs_below(&dir)?;
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", dir.display()));
                }
                _ => println!("control-plane: {ended} programs ended"),
            }
        }
        Action::Status => return status(&dir),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(dir: &Path, options: &Options, nodes: &[String]) -> Result<()> {
    if !scratch::programs_below(dir)?.is_empty() {
        bail!("a control plane runs already; `cargo xtask control-plane status` says which, `down` ends it");
    }
    if dir.exists() {
        // What a machine that was switched off has left.
        std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    let programs = Programs::ensure(&options.source, &Program::CONTROL_PLANE)?;
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let begun = Instant::now();
    let control_plane = ControlPlane::start_in(dir, programs, options)?;
    let running = Running {
        server: control_plane.server(),
        programs: control_plane.programs().dir().to_owned(),
        kubeconfig: control_plane.kubeconfig_admin().to_owned(),
        bootstrap_kubeconfig: control_plane.bootstrap_kubeconfig()?,
        node_kubeconfigs: nodes
            .iter()
            .map(|name| control_plane.node_kubeconfig(name))
            .collect::<Result<_>>()?,
    };
    let path = dir.join("running.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&running)?)
        .with_context(|| format!("writing {}", path.display()))?;
    control_plane.leave_running();
    println!("control-plane: up after {:.1} s\n{}", begun.elapsed().as_secs_f64(), running.describe());
    Ok(())
}

fn status(dir: &Path) -> Result<ExitCode> {
    let running = scratch::programs_below(dir)?;
    let mut all = true;
    for program in DAEMONS {
        let pid = running.iter().find(|(name, _)| name == program.name()).map(|(_, pid)| pid);
        all &= pid.is_some();
        println!("{:24} {}", program.name(), pid.map_or("-".to_owned(), |pid| format!("pid {pid}")));
    }
    let Some(told) = Running::read(dir)?.filter(|_| !running.is_empty()) else {
        println!("control-plane: down");
        return Ok(ExitCode::FAILURE);
    };
    let mut kubectl = Command::new(told.programs.join(Program::Kubectl.name()));
    kubectl.arg("--kubeconfig").arg(&told.kubeconfig).args(["get", "--raw=/readyz", "--request-timeout=5s"]);
    let ready = match process::output(&mut kubectl) {
        Ok(said) => said,
        Err(error) => format!("{error:#}"),
    };
    println!("readyz:               {ready}\n{}", told.describe());
    Ok(if all && ready == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
