//! `cargo xtask bench NAME`: each prints a short table and writes `target/bench/NAME.json`, with the machine and its
//! load beside the figures.

mod brake;
mod forestall;
mod machine;
mod node_api;
mod pods;
mod scrape;
mod signal;
mod sync_loop;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::paths;

#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// From kernel event to record and to decision; the cost of page-fault sampling; the agent's memory and CPU.
    Signal(signal::Options),
    /// How fast a leak is frozen, and what holds it while its SIGTERM handler runs.
    Brake(brake::Options),
    /// What an event costs the SyncLoop with 110, 1,000 and 5,000 pods, and what a pod takes of memory; no runtime.
    Loop(sync_loop::Options),
    /// From kernel event to decision while the node's own API is under attack, beside the same without.
    NodeApi(node_api::Options),
    /// Many pods at once on a node of a real control plane, their end, and a minute at rest: oomlet beside kubelet.
    Pods(pods::Options),
    /// What it costs to be scraped with many pods: oomlet beside kubelet.
    Scrape(scrape::Options),
    /// Leaks of each speed and shape: who ends them before the kernel does, and how.
    Forestall(forestall::Options),
}

impl Bench {
    /// It runs in a machine of the lab, or makes tables of what was measured: nothing is to be installed or built for it.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        match self {
            Bench::Signal(_) => false,
            Bench::NodeApi(options) => options.is_built(),
            // It builds the little that it needs by itself.
            Bench::Loop(_) => true,
            Bench::Brake(options) => options.is_report(),
            Bench::Pods(options) => options.is_built(),
            Bench::Scrape(options) => options.is_built(),
            Bench::Forestall(options) => options.is_inside(),
        }
    }
}

pub fn run(bench: &Bench) -> Result<()> {
    let path = match bench {
        Bench::Signal(options) => write("signal", signal::run(options)?),
        Bench::NodeApi(options) => write("node-api", node_api::run(options)?),
        Bench::Brake(options) => return brake::run(options),
        Bench::Loop(options) => return sync_loop::run(options),
        Bench::Pods(options) => return pods::run(options),
        Bench::Scrape(options) => return scrape::run(options),
        Bench::Forestall(options) => return forestall::run(options),
    }?;
    println!("written: {}", shown(&path));
    Ok(())
}

/// Adds the machine to `figures` and writes them; returns where.
fn write(name: &str, mut figures: Value) -> Result<PathBuf> {
    figures["machine"] = json!(machine::describe()?);
    let dir = paths::target()?.join("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join(format!("{name}.json"));
    // In one step: what is there may be hours of measuring.
    let new = path.with_extension("json.new");
    std::fs::write(&new, serde_json::to_string_pretty(&figures)? + "\n")
        .with_context(|| format!("writing {}", new.display()))?;
    std::fs::rename(&new, &path).with_context(|| format!("renaming to {}", path.display()))?;
    Ok(path)
}

/// Where what was measured is told, between the marks of each bench.
const README: &str = "README.md";
const PAGE: &str = "docs/bench.md";

/// Puts `new` between the two marks for this bench in the repository's file `name`.
fn write_between(name: &str, bench: &str, new: &str) -> Result<()> {
    let path = paths::repository().join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let text = replace_between(&text, bench, new).with_context(|| format!("in {}", path.display()))?;
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("written: {}", shown(&path));
    Ok(())
}

fn replace_between(text: &str, bench: &str, new: &str) -> Result<String> {
    let [begin, end] = ["begin", "end"].map(|which| format!("<!-- bench {bench}: {which} -->"));
    let missing = || {
        format!("the lines {begin} and {end} are not there in this order: add them where the tables belong")
    };
    let (before, rest) = text.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!("{before}{begin}\n{}\n{end}{after}", new.trim()))
}

/// Relative to the working directory where that is shorter.
fn shown(path: &Path) -> String {
    let relative =
        std::env::current_dir().ok().and_then(|dir| path.strip_prefix(dir).ok().map(Path::to_owned));
    relative.as_deref().unwrap_or(path).display().to_string()
}

/// Nearest rank.
fn quantile(samples: &[i64], per_cent: usize) -> i64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_cent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stand_between_their_marks() {
        let text = "a\n<!-- bench x: begin -->\nold\n<!-- bench x: end -->\nb\n";
        let new = replace_between(text, "x", "new\n\n").unwrap();
        assert_eq!(new, text.replace("old", "new"));
        assert_eq!(replace_between(&new, "x", "new").unwrap(), new);
        assert!(
            replace_between(text, "y", "new").unwrap_err().to_string().contains("<!-- bench y: begin -->")
        );
    }

    #[test]
    fn pages_have_their_marks() {
        for (name, bench) in
            [(README, "forestall"), (README, "pods"), (PAGE, "brake"), (PAGE, "loop"), (PAGE, "scrape")]
        {
            let text = std::fs::read_to_string(paths::repository().join(name)).unwrap();
            replace_between(&text, bench, "new").unwrap();
        }
    }

    #[test]
    fn quantiles_are_samples() {
        let hundred: Vec<i64> = (1..=100).rev().collect();
        for (samples, per_cent, expected) in
            [(&hundred[..], 50, 50), (&hundred[..], 99, 99), (&[7], 99, 7), (&[1, 2], 50, 1)]
        {
            assert_eq!(quantile(samples, per_cent), expected);
        }
    }
}
