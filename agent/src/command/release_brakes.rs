//! `oomlet release-brakes`: lets go of every pod that an agent which is no more has held. The unit runs it when the service
//! has stopped; with `--guard` it is the process that watches over a running agent.

use std::path::PathBuf;

use crate::actuator::{BrakeFiles, guard};
use crate::cgroup::CgroupError;
use crate::config_file;
use crate::node_agent::protect;
use oomlet_core::config::Config;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's KubeletConfiguration, for its `cgroupRoot`.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Its drop-ins.
    #[arg(long)]
    config_dir: Option<PathBuf>,
    /// The cgroup below which `kubepods` is. `/`.
    #[arg(long)]
    cgroup_root: Option<String>,
    /// Wait until standard input ends, and meanwhile for an agent that is stuck.
    #[arg(long, hide = true)]
    guard: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot read what the agent says: {0}")]
    Watch(#[from] std::io::Error),
}

/// # Errors
/// When the node's cgroups cannot be read.
pub fn release_brakes(args: &Args) -> Result<(), ReleaseError> {
    let configured = match config_file::load(args.config.as_deref(), args.config_dir.as_deref(), &[]) {
        Ok(loaded) => Some(loaded.config.cgroup_root),
        Err(error) => {
            // Where the agent could not read it either, it has held nothing anywhere else.
            eprintln!("oomlet: {error}; looking below the default cgroup root");
            None
        }
    };
    let root = args.cgroup_root.clone().or(configured).unwrap_or_else(|| Config::default().cgroup_root);
    let files = BrakeFiles::of_node(&root)?;
    if args.guard {
        protect::lock_memory();
        guard::watch_stdin(&files)?;
    } else {
        guard::release(&files);
    }
    Ok(())
}
