//! What a node says in numbers: the names, types and labels of its pages of metrics, and the keys of its Summary. Recorded
//! of kubelet by `cargo xtask compare --node-api --record`; a test holds the agent's against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::recorded_dir;
use crate::images::BUSYBOX;
use crate::node::TestNode;
use crate::{paths, process};

/// The pages, as kubelet has them.
pub const PAGES: [&str; 5] =
    ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes", "/metrics/slis"];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// `counter`, `gauge`, `histogram`.
    pub kind: String,
    pub help: String,
    /// Names of the labels that any of its series has, but for a histogram's `le`.
    pub labels: BTreeSet<String>,
    /// Its series show the time of their reading.
    pub timed: bool,
}

pub type Families = BTreeMap<String, Family>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// By path.
    pub pages: BTreeMap<String, Families>,
    /// Such as `pods[].containers[].cpu.time`.
    pub summary: BTreeSet<String>,
}

/// Where kubelet's are.
#[must_use]
pub fn path() -> PathBuf {
    recorded_dir().join("numbers.json")
}

/// As they were recorded.
pub fn recorded() -> Result<Numbers> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not as it was written", path.display()))
}

/// Of a page in Prometheus' text format.
pub fn families(page: &str) -> Result<Families> {
    let mut families = Families::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').with_context(|| format!("no type: {line}"))?;
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
        } else if !line.starts_with('#') && !line.is_empty() {
            let (name, labels, rest) = series(line).with_context(|| format!("no series: {line}"))?;
            let own = |name: &str| families.contains_key(name).then(|| name.to_owned());
            let of_parts =
                ["_bucket", "_sum", "_count"].iter().find_map(|part| own(name.strip_suffix(part)?));
            let family = own(name).or(of_parts).with_context(|| format!("no family: {line}"))?;
            let family = families.entry(family).or_default();
            family.labels.extend(labels.into_iter().filter(|label| label != "le" && label != "quantile"));
            family.timed |= rest.split_whitespace().count() == 2;
        }
    }
    Ok(families)
}

/// Name, names of labels, and what follows them.
fn series(line: &str) -> Option<(&str, Vec<String>, &str)> {
    let Some(open) = line.find('{') else {
        let (name, rest) = line.split_once(' ')?;
        return Some((name, Vec::new(), rest));
    };
    let (name, mut rest) = (&line[..open], &line[open + 1..]);
    let mut labels = Vec::new();
    while !rest.starts_with('}') {
        let (label, value) = rest.trim_start_matches(',').split_once("=\"")?;
        labels.push(label.to_owned());
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        rest = &value[end + 1..];
    }
    Some((name, labels, rest[1..].trim_start()))
}

/// The paths of all that is in it.
#[must_use]
pub fn keys(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, at: &str, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    walk(field, &if at.is_empty() { name.clone() } else { format!("{at}.{name}") }, keys);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, &format!("{at}[]"), keys)),
            _ => drop(keys.insert(at.to_owned())),
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found
}

/// What the node answers to somebody in its own network, whom it lets in.
pub fn get(node: &TestNode, path: &str) -> Result<String> {
    let mut command = node.containerd.netns().command("curl");
    command.args(["--silent", "--show-error", "--fail", "--insecure", "--max-time", "30"]);
    process::output(command.arg(format!("https://127.0.0.1:10250{path}")))
}

/// All of it.
pub fn ask(node: &TestNode) -> Result<Numbers> {
    let mut numbers = Numbers::default();
    for page in PAGES {
        numbers.pages.insert(page.to_owned(), families(&get(node, page)?)?);
    }
    let summary: Value = serde_json::from_str(&get(node, "/stats/summary")?)?;
    numbers.summary = keys(&summary);
    Ok(numbers)
}

/// The node lets everybody in, and walks through volumes as often as it can.
pub fn let_in(node: &mut TestNode) {
    let config = node.config_mut();
    config["authentication"] = json!({ "anonymous": { "enabled": true }, "webhook": { "enabled": false } });
    config["authorization"] = json!({ "mode": "AlwaysAllow" });
    config["volumeStatsAggPeriod"] = json!("10s");
}

/// A pod that has every number that a node can have without a network or a disk of its own.
#[must_use]
pub fn pod_spec() -> Value {
    let script = "i=0; while true; do i=$((i+1)); echo line $i; date > /cache/now; cat /proc/self/stat > /dev/null; sleep 0.2; done";
    json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
        "initContainers": [{
            "name": "first", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "true"],
        }],
        "containers": [{
            "name": "app", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script],
            "resources": {
                "requests": { "cpu": "20m", "memory": "16Mi" },
                "limits": { "cpu": "200m", "memory": "64Mi" },
            },
            "readinessProbe": { "exec": { "command": ["/bin/true"] }, "periodSeconds": 1 },
            "livenessProbe": { "exec": { "command": ["/bin/true"] }, "periodSeconds": 1 },
            "volumeMounts": [{ "name": "cache", "mountPath": "/cache" }],
        }],
        "volumes": [{ "name": "cache", "emptyDir": {} }],
    })
}

/// The pod's numbers have come: of its container CPU use, and of its volume.
#[must_use]
pub fn has_come(summary: &Value, pod: &str) -> bool {
    let pods = summary["pods"].as_array();
    let Some(pod) = pods.into_iter().flatten().find(|p| p["podRef"]["name"] == pod) else { return false };
    let app = pod["containers"].as_array().into_iter().flatten().find(|c| c["name"] == "app");
    let used = |of: &Value, key: &str| of[key].as_u64().is_some_and(|n| n > 0);
    let running = app.is_some_and(|app| {
        used(&app["cpu"], "usageNanoCores")
            && used(&app["memory"], "workingSetBytes")
            && used(&app["rootfs"], "usedBytes")
            && used(&app["logs"], "usedBytes")
    });
    let volume = pod["volume"].as_array().is_some_and(|volumes| volumes.iter().any(|v| v["name"] == "cache"));
    running && volume && used(&pod["network"], "rxBytes")
}

/// What kubelet says, to be held against.
pub(super) fn write(numbers: &Numbers) -> Result<()> {
    let path = path();
    fs::write(&path, serde_json::to_string_pretty(numbers)? + "\n")
        .with_context(|| format!("writing {}", path.display()))
}

/// Where the cAdvisor in kubelet looks for containerd, without which it does not know whose cgroup is which container's; no
/// flag of kubelet 1.37 tells it of another place.
const CADVISOR_SOCKET: &str = "/run/containerd/containerd.sock";

/// A link there, while it lives.
#[derive(Debug)]
pub(super) struct CadvisorSocket;

impl CadvisorSocket {
    pub fn link(to: &Path) -> Result<CadvisorSocket> {
        let at = Path::new(CADVISOR_SOCKET);
        fs::create_dir_all(at.parent().context("a path with a parent")?)?;
        std::os::unix::fs::symlink(to, at)
            .with_context(|| format!("{CADVISOR_SOCKET}: of the machine's own containerd?"))?;
        Ok(CadvisorSocket)
    }
}

impl Drop for CadvisorSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(CADVISOR_SOCKET);
    }
}

/// What differs between a family of ours and kubelet's of the same name; nothing if it is the same. Which labels a series has
/// depends on what has happened on the node, so that all that is said of labels is that there is none that kubelet's has not.
#[must_use]
pub fn differences(ours: &Families, kubelets: &Families) -> Vec<String> {
    let both = ours.iter().filter_map(|(name, ours)| Some((name, ours, kubelets.get(name)?)));
    let differs = both.filter_map(|(name, ours, theirs)| {
        let same = ours.kind == theirs.kind
            && ours.help == theirs.help
            && (ours.timed == theirs.timed || ours.labels.is_empty())
            && (theirs.labels.is_empty() || ours.labels.is_subset(&theirs.labels));
        (!same).then(|| format!("{name}: {ours:?}, kubelet's {theirs:?}"))
    });
    differs.collect()
}

/// What kube-prometheus asks for: names of metrics, a line each, with where they are read.
pub fn asked_by_kube_prometheus() -> Result<String> {
    let path = paths::repository().join("tests/compare/kube-prometheus.tsv");
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let page = "# HELP a_total What \"it\" is.\n# TYPE a_total counter\na_total{x=\"1,}\\\"\",y=\"\"} 3 1700\na_total 4\n# HELP h H\n# TYPE h histogram\nh_bucket{z=\"1\",le=\"+Inf\"} 1\nh_sum{z=\"1\"} 1\nh_count{z=\"1\"} 1\n";
        let families = families(page).unwrap();
        let a = &families["a_total"];
        assert_eq!((a.kind.as_str(), a.help.as_str(), a.timed), ("counter", "What \"it\" is.", true));
        assert_eq!(a.labels.iter().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!((families["h"].labels.len(), families["h"].timed, families.len()), (1, false, 2));
        assert!(super::families("b 1\n").is_err(), "a series without a family");
    }

    #[test]
    fn keys_of_a_value() {
        let value = json!({ "a": { "b": 1 }, "c": [{ "d": null }, { "e": [] }] });
        assert_eq!(keys(&value).into_iter().collect::<Vec<_>>(), ["a.b", "c[].d"]);
    }
}
