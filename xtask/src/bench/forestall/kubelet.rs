//! kubelet in oomlet's place: it runs the pods and evicts them. In a machine of the lab, since a kubelet sets sysctls of its
//! whole machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::build::Profile;
use crate::lab::test_path;
use crate::node::TestNode;
use crate::process;

/// Of this name among the programs that a machine gets.
pub const PROGRAM: &str = "kubelet";
/// Since this minor version it speaks CRI only, and has no flag to say so.
const REMOTE_ALONE: u32 = 24;
/// What kubelet's eviction manager says at each of its looks, every ten seconds, when nothing is short
/// (pkg/kubelet/eviction/eviction_manager.go); the same words since 1.3.
const CALM: &str = "no resources are starved";

/// Inside a machine.
fn path() -> PathBuf {
    test_path(Profile::Release, PROGRAM)
}

/// Such as `v1.31.2`.
pub fn version(program: &Path) -> Result<String> {
    let said = process::output(Command::new(program).arg("--version"))
        .with_context(|| format!("is {} a kubelet for this machine?", program.display()))?;
    let version = said.trim().strip_prefix("Kubernetes ");
    version.map(str::to_owned).with_context(|| format!("`{} --version` says {said:?}", program.display()))
}

fn minor(version: &str) -> Result<u32> {
    let minor = version.strip_prefix("v1.").and_then(|rest| rest.split('.').next());
    minor.and_then(|minor| minor.parse().ok()).with_context(|| format!("{version:?} is no kubelet 1.x"))
}

/// To be run on the node, with the configuration that oomlet would have; its file is written.
pub fn command(node: &mut TestNode) -> Result<Command> {
    let minor = minor(&version(&path())?)?;
    delegate_controllers(&node.scratch().cgroup_dir("memory")?)?;
    let (file, root) = (node.config_path(), node.root_dir());
    let config = config(node.config_mut(), minor);
    fs::write(&file, serde_json::to_string_pretty(&config)?)
        .with_context(|| format!("writing {}", file.display()))?;
    let mut command = Command::new(path());
    command.arg("--config").arg(file).arg("--root-dir").arg(root);
    command.args(["--container-runtime-endpoint", &node.containerd.endpoint()]);
    if minor < REMOTE_ALONE {
        command.args(["--container-runtime", "remote"]);
    }
    // Its eviction manager tells of every look.
    command.args(["--v", "3"]);
    Ok(command)
}

/// Of oomlet's, what kubelets of any version know, and what goes without a server, a network or a full disk.
fn config(oomlets: &Value, minor: u32) -> Value {
    let mut config = json!({
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "enableServer": false,
        "healthzPort": 0,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "fileCheckFrequency": "1s",
    });
    let same = [
        "apiVersion",
        "kind",
        "staticPodPath",
        "cgroupDriver",
        "cgroupRoot",
        "enforceNodeAllocatable",
        "evictionHard",
        "evictionPressureTransitionPeriod",
        "imageGCHighThresholdPercent",
    ];
    for key in same {
        config[key] = oomlets[key].clone();
    }
    if minor >= 32 {
        config["podLogsDir"] = oomlets["podLogsDir"].clone();
    }
    config
}

/// kubelet wants its cgroup root to be there, with all controllers; oomlet makes it.
fn delegate_controllers(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let parent = dir.parent().context("a cgroup root is below its mount")?;
    let there = parent.join("cgroup.controllers");
    if !there.is_file() {
        return Ok(());
    }
    let names = fs::read_to_string(&there).with_context(|| format!("reading {}", there.display()))?;
    let control = parent.join("cgroup.subtree_control");
    for name in names.split_whitespace() {
        fs::write(&control, format!("+{name}"))
            .with_context(|| format!("delegating {name} by {}", control.display()))?;
    }
    ensure!(dir.join("memory.current").is_file(), "{} has no memory controller", dir.display());
    Ok(())
}

/// How often it has found that nothing is short, so that it admits pods.
pub fn calm_looks(node: &TestNode) -> usize {
    node.agent_log().matches(CALM).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in
            [("v1.20.2", Some(20)), ("v1.36.0-rc.1", Some(36)), ("1.20", None), ("", None)]
        {
            assert_eq!(minor(text).ok(), expected, "{text}");
        }
        assert!(version(Path::new("/bin/true")).unwrap_err().to_string().contains("/bin/true"));
    }

    #[test]
    fn the_same_as_oomlet_has_and_nothing_that_it_does_not_know() {
        let oomlets = json!({
            "kind": "KubeletConfiguration",
            "evictionHard": { "memory.available": "100Mi" },
            "podLogsDir": "/logs",
            "oomlet": {},
        });
        for (minor, logs) in [(20, Value::Null), (36, json!("/logs"))] {
            let config = config(&oomlets, minor);
            assert_eq!(config["evictionHard"]["memory.available"], "100Mi");
            assert_eq!((&config["oomlet"], &config["podLogsDir"]), (&Value::Null, &logs), "{minor}");
        }
    }
}
