//! What is seen of a pod on its node: what it printed, and its cgroups' files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::node::TestNode;

/// By controller of cgroup version 1; on version 2 all are in one folder.
const FILES: [(&str, &[&str]); 4] = [
    ("cpu", &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.weight", "cpu.max"]),
    ("memory", &["memory.limit_in_bytes", "memory.max", "memory.high", "memory.min", "memory.oom.group"]),
    ("pids", &["pids.max"]),
    ("hugetlb", &["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"]),
];

/// Each container's log, by its first attempt.
pub(super) fn logs(node: &TestNode, pod: &Value) -> Map<String, Value> {
    let of = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
    let dir = node.pod_logs_dir().join(format!("{}_{}_{}", of("namespace"), of("name"), of("uid")));
    let containers = fs::read_dir(dir).into_iter().flatten().flatten();
    let log = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("0.log")).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), sections(&text)))
    };
    containers.filter_map(log).collect()
}

/// Lines by the heading (`# NAME`) above them.
fn sections(log: &str) -> Value {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut heading = "output".to_owned();
    for line in log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)) {
        match line.strip_prefix("# ").filter(|rest| rest.split(' ').count() == 1) {
            Some(new) => heading = new.to_owned(),
            None => all.entry(heading.clone()).or_default().push(line.to_owned()),
        }
    }
    json!(all)
}

/// The files of the pod's cgroup and of those of its containers.
pub(super) fn cgroups(node: &TestNode, pod: &Value) -> Result<Value> {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let class = match pod["status"]["qosClass"].as_str() {
        Some("Guaranteed") => "kubepods",
        Some("Burstable") => "kubepods/burstable",
        _ => "kubepods/besteffort",
    };
    let names = container_names(pod);
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (controller, files) in FILES {
        let dir = node.scratch().cgroup_dir_below(controller, &format!("{class}/pod{uid}"))?;
        let mut read = |of: &str, dir: &Path| {
            for file in files {
                if let Ok(text) = fs::read_to_string(dir.join(file)) {
                    all.entry(of.to_owned()).or_default().insert((*file).to_owned(), text.trim().to_owned());
                }
            }
        };
        read("pod", &dir);
        for (id, name) in &names {
            read(&format!("container {name}"), &dir.join(id));
        }
    }
    Ok(json!(all))
}

/// Ids without the runtime's name.
fn container_names(pod: &Value) -> Vec<(String, String)> {
    let statuses = ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|key| pod["status"][key].as_array().into_iter().flatten());
    let named = |one: &Value| {
        let id = one["containerID"].as_str()?.rsplit('/').next()?.to_owned();
        Some((id, one["name"].as_str()?.to_owned()))
    };
    statuses.filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_sections() {
        let log = "t stdout F # env\nt stdout F A=b c\nt stdout F # two words\nt stderr F x\nt stdout F # id\nt stdout F 0\n";
        let expected = json!({ "env": ["A=b c", "# two words", "x"], "id": ["0"] });
        assert_eq!(sections(log), expected);
    }
}
