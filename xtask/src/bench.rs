//! `cargo xtask bench NAME`: each prints a short table and writes `target/bench/NAME.json`, with the machine and its
//! load beside the figures.

mod machine;
mod signal;

use std::path::Path;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::paths;

#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// From kernel event to record and to decision; the cost of page-fault sampling; the agent's memory and CPU.
    Signal(signal::Options),
}

pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Signal(options) => write("signal", signal::run(options)?),
    }
}

/// Adds the machine to `figures` and writes them.
fn write(name: &str, mut figures: Value) -> Result<()> {
    figures["machine"] = json!(machine::describe()?);
    let dir = paths::target()?.join("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(&figures)? + "\n")
        .with_context(|| format!("writing {}", path.display()))?;
    println!("written: {}", shown(&path));
    Ok(())
}

/// Relative to the working directory where that is shorter.
fn shown(path: &Path) -> String {
    let relative =
        std::env::current_dir().ok().and_then(|dir| path.strip_prefix(dir).ok().map(Path::to_owned));
    relative.as_deref().unwrap_or(path).display().to_string()
}
