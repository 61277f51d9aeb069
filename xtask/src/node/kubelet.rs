//! kubelet in the agent's place, as the peer that oomlet is compared with: on the same node, with the same configuration,
//! command line and namespace. Reads the node's configuration; writes kubelet's file, and makes the cgroups that kubelet
//! wants to find.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::TestNode;
use crate::process;
use crate::scratch::Scratch;

/// What kubelet sets of its whole machine at its start (pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables).
const SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

impl TestNode {
    /// Starts this kubelet instead of the agent, which is killed if it runs, with the arguments that the agent would get.
    /// Its log is the agent's log. Keep [`Sysctls`] for as long as it runs.
    pub fn start_kubelet(&mut self, program: &Path) -> Result<()> {
        make_cgroup_root(&self.scratch)?;
        let path = self.config_path();
        fs::write(&path, serde_json::to_string_pretty(&config(&self.config))?)
            .with_context(|| format!("writing {}", path.display()))?;
        let mut command = self.containerd.netns().command(program);
        command.arg("--config").arg(&path);
        command.args(["--container-runtime-endpoint", &self.runtime_endpoint()]);
        command.arg("--root-dir").arg(self.root_dir()).args(&self.arguments).envs(&self.environment);
        self.start_in_its_place(command)
    }
}

/// Such as `v1.37.2`.
pub fn version(program: &Path) -> Result<String> {
    let said = process::output(Command::new(program).arg("--version"))
        .with_context(|| format!("is {} a kubelet for this machine?", program.display()))?;
    let version = said.trim().strip_prefix("Kubernetes ");
    version.map(str::to_owned).with_context(|| format!("`{} --version` says {said:?}", program.display()))
}

/// The node's, without what is oomlet's alone, and with what lets kubelet run on any machine and, where the node's does not
/// say who may, be asked by anybody: whoever can reach it is in its namespace.
#[must_use]
pub fn config(oomlets: &Value) -> Value {
    let mut config = oomlets.clone();
    if let Some(keys) = config.as_object_mut() {
        keys.remove("oomlet");
    }
    if config["authentication"].is_null() && config["authorization"].is_null() {
        config["authentication"] =
            json!({ "anonymous": { "enabled": true }, "webhook": { "enabled": false } });
        config["authorization"] = json!({ "mode": "AlwaysAllow" });
    }
    config["failCgroupV1"] = json!(false);
    config["failSwapOn"] = json!(false);
    config
}

/// kubelet ends when its cgroup root is not there; oomlet makes it.
fn make_cgroup_root(scratch: &Scratch) -> Result<()> {
    for dir in scratch.cgroup_dirs()? {
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let parent = dir.parent().context("a cgroup root is below its mount")?;
        let offered = parent.join("cgroup.controllers");
        if offered.is_file() {
            let names =
                fs::read_to_string(&offered).with_context(|| format!("reading {}", offered.display()))?;
            let control = parent.join("cgroup.subtree_control");
            for name in names.split_whitespace() {
                fs::write(&control, format!("+{name}"))
                    .with_context(|| format!("delegating {name} by {}", control.display()))?;
            }
        }
        // On v1 a new cpuset is empty, and no process may enter it.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (parent.join(file), dir.join(file));
            if from.is_file() && !offered.is_file() {
                fs::copy(&from, &to).with_context(|| format!("filling {}", to.display()))?;
            }
        }
    }
    Ok(())
}

/// What kubelet changes of the machine, put back when this is dropped.
#[derive(Debug)]
pub struct Sysctls(Vec<(PathBuf, String)>);

impl Sysctls {
    pub fn keep() -> Result<Sysctls> {
        let paths = SYSCTLS.map(|name| Path::new("/proc/sys").join(name));
        // Not every kernel has keys.
        let there = paths.into_iter().filter(|path| path.is_file());
        let read = |path: PathBuf| {
            let value = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            ensure!(!value.trim().is_empty(), "{} is empty", path.display());
            Ok((path, value))
        };
        Ok(Sysctls(there.map(read).collect::<Result<_>>()?))
    }
}

impl Drop for Sysctls {
    fn drop(&mut self) {
        for (path, was) in &self.0 {
            let is = fs::read_to_string(path).unwrap_or_default();
            if is != *was
                && let Err(error) = fs::write(path, was)
            {
                eprintln!("putting {} back to {}: {error}", path.display(), was.trim());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_as_oomlet_has_and_nothing_that_kubelet_refuses() {
        let oomlets = json!({ "kind": "KubeletConfiguration", "maxPods": 7, "oomlet": { "trace": {} } });
        let config = config(&oomlets);
        assert_eq!((&config["maxPods"], &config["failCgroupV1"]), (&json!(7), &json!(false)));
        assert_eq!(config.get("oomlet"), None);
        assert_eq!(config["authorization"]["mode"], "AlwaysAllow");
        let own = super::config(&json!({ "authentication": { "anonymous": { "enabled": false } } }));
        assert!(own["authorization"].is_null() && own["authentication"]["anonymous"]["enabled"] == false);
    }

    #[test]
    fn what_is_no_kubelet_is_named() {
        assert!(version(Path::new("/bin/true")).unwrap_err().to_string().contains("/bin/true"));
    }

    #[test]
    fn sysctls_are_kept() {
        assert!(Sysctls::keep().unwrap().0.len() >= 4);
    }
}
