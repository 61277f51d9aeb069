//! What differs between two recordings, and which differences stand.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::record::Recording;

/// One place where the two are not the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub manifest: String,
    /// Such as `settled.status.conditions[Ready].reason`.
    pub path: String,
    pub kubelet: Value,
    pub oomlet: Value,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Unexplained,
    /// By the reason with this index.
    Explained(usize),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.manifest, self.path)?;
        writeln!(f, "    kubelet: {}", shown(&self.kubelet))?;
        write!(f, "    oomlet:  {}", shown(&self.oomlet))
    }
}

/// `-`: it is not there.
pub(super) fn shown(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { value.to_string() }
}

/// Why differences stand: reasons.yaml.
#[derive(Debug, Default)]
pub struct Reasons {
    pub(super) all: Vec<Reason>,
}

#[derive(Debug)]
pub(super) struct Reason {
    pub text: String,
    manifests: Vec<Regex>,
    paths: Vec<Regex>,
    used: Cell<bool>,
}

/// As it is written; `*` is any text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    reason: String,
    #[serde(default = "any")]
    manifests: Vec<String>,
    paths: Vec<String>,
}

fn any() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Reasons {
    pub fn read(path: &Path) -> Result<Reasons> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Reasons::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> Result<Reasons> {
        let written: Vec<Written> = serde_saphyr::from_str(text).context("not a list of reasons")?;
        let reason = |one: Written| {
            ensure!(!one.reason.trim().is_empty(), "{:?} has no reason", one.paths);
            let globs = |all: &[String]| all.iter().map(|one| glob(one)).collect::<Result<Vec<Regex>>>();
            let (manifests, paths) = (globs(&one.manifests)?, globs(&one.paths)?);
            Ok(Reason { text: one.reason.trim().to_owned(), manifests, paths, used: Cell::new(false) })
        };
        Ok(Reasons { all: written.into_iter().map(reason).collect::<Result<_>>()? })
    }

    fn of(&self, manifest: &str, path: &str) -> Standing {
        let any = |patterns: &[Regex], text: &str| patterns.iter().any(|pattern| pattern.is_match(text));
        let fits = |one: &Reason| any(&one.manifests, manifest) && any(&one.paths, path);
        let Some(index) = self.all.iter().position(fits) else { return Standing::Unexplained };
        self.all[index].used.set(true);
        Standing::Explained(index)
    }

    /// Those that explained nothing: what they are about may have been mended.
    #[must_use]
    pub fn unused(&self) -> Vec<&str> {
        self.all.iter().filter(|one| !one.used.get()).map(|one| one.text.as_str()).collect()
    }
}

/// `{a,b}` and `|` are not known: more lines are easier to read.
fn glob(pattern: &str) -> Result<Regex> {
    let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).with_context(|| format!("{pattern:?}"))
}

/// Of manifests that both have.
#[must_use]
pub fn between(kubelet: &Recording, oomlet: &Recording, reasons: &Reasons) -> Vec<Difference> {
    let mut found = Vec::new();
    for (manifest, ours) in &oomlet.of {
        let Some(theirs) = kubelet.of.get(manifest) else { continue };
        let (theirs, ours) = (flat(theirs), flat(ours));
        let same_cgroups = is_cgroup_v2(&theirs) == is_cgroup_v2(&ours);
        let paths: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for path in paths {
            let [a, b] = [&theirs, &ours].map(|side| side.get(path).cloned().unwrap_or(Value::Null));
            let is_comparable = same_cgroups || !path.starts_with("cgroups.");
            if a != b && is_comparable && !(is_over_time(path) && differ_in_steps_alone(&a, &b)) {
                let standing = reasons.of(manifest, path);
                let (manifest, path) = (manifest.clone(), path.clone());
                found.push(Difference { manifest, path, kubelet: a, oomlet: b, standing });
            }
        }
    }
    found
}

/// Written by chance: by Go's order of a map.
const UNORDERED: &str = ".envs";

/// The files of the other version say the same in other words: what was recorded on one says nothing of the other.
fn is_cgroup_v2(record: &BTreeMap<String, Value>) -> bool {
    record.keys().any(|path| path.starts_with("cgroups.") && path.ends_with(".cpu.weight"))
}

fn is_over_time(path: &str) -> bool {
    path.starts_with("over_time.") || path.starts_with("after_deletion.")
}

/// Where each container begins; whether it is told depends on when the first status is written.
const BEGINNINGS: [&str; 2] = ["waiting ContainerCreating", "waiting PodInitializing"];

/// Two sequences that end alike, of which one has what the other has and more: whoever writes faster than the API server
/// answers, or lists what runs once a second only, leaves out what was overtaken meanwhile.
fn differ_in_steps_alone(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return false };
    let [a, b] = [a, b].map(|all| match all.as_slice() {
        [first, rest @ ..] if !rest.is_empty() && BEGINNINGS.iter().any(|begun| first == begun) => rest,
        all => all,
    });
    let (fewer, more) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let mut rest = more.iter();
    fewer.last() == more.last() && fewer.iter().all(|step| rest.any(|other| other == step))
}

/// What names an item of a list.
const NAMES: [&str; 8] = ["name", "type", "key", "container_path", "containerPath", "mountPath", "ip", "uid"];

/// Each value by its path. An empty list or object, and null, are as if they were not there, as Kubernetes has it.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    flatten("", value, &mut all);
    all
}

fn flatten(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Null => {}
        Value::Object(object) => {
            for (key, one) in object {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{key}"), one, all);
            }
        }
        // Lists of words are one thing: where one lacks, all after it would differ.
        Value::Array(list) if list.iter().any(Value::is_object) => {
            let name = NAMES.into_iter().find(|name| are_named(list, name));
            let mut order = Vec::new();
            for (index, one) in list.iter().enumerate() {
                let named = name.and_then(|name| one[name].as_str()).map(str::to_owned);
                let index = named.unwrap_or_else(|| index.to_string());
                flatten(&format!("{path}[{index}]"), one, all);
                order.push(Value::String(index));
            }
            if name.is_some() && !path.ends_with(UNORDERED) {
                all.insert(format!("{path}[order]"), Value::Array(order));
            }
        }
        Value::Array(list) if list.is_empty() => {}
        other => {
            all.insert(path.to_owned(), other.clone());
        }
    }
}

fn are_named(list: &[Value], name: &str) -> bool {
    let names: BTreeSet<&str> = list.iter().filter_map(|one| one[name].as_str()).collect();
    names.len() == list.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recording(value: Value) -> Recording {
        Recording { of: BTreeMap::from([("one".to_owned(), value)]) }
    }

    #[test]
    fn differences_have_a_path_and_a_standing() {
        let theirs = recording(
            json!({ "conditions": [{ "type": "Ready", "reason": "A" }, { "type": "B" }], "x": [] }),
        );
        let ours = recording(
            json!({ "conditions": [{ "type": "B" }, { "type": "Ready" }], "words": ["a"], "n": null }),
        );
        let reasons =
            Reasons::parse("- reason: it is so\n  paths: ['conditions*order*', 'nothing']\n").unwrap();
        let found = between(&theirs, &ours, &reasons);
        let told: Vec<_> = found.iter().map(|one| (one.path.as_str(), one.standing)).collect();
        let expected = [
            ("conditions[Ready].reason", Standing::Unexplained),
            ("conditions[order]", Standing::Explained(0)),
            ("words", Standing::Unexplained),
        ];
        assert_eq!(told, expected);
        assert_eq!(found[0].to_string(), "one: conditions[Ready].reason\n    kubelet: \"A\"\n    oomlet:  -");
        assert!(reasons.unused().is_empty());
        assert_eq!(between(&theirs, &theirs, &reasons), []);
    }

    #[test]
    fn what_was_overtaken_is_no_difference() {
        for (a, b, expected) in [
            (json!(["Pending", "Running"]), json!(["Running"]), true),
            (json!(["Running"]), json!(["Pending", "Running"]), true),
            (json!(["Pending", "Running"]), json!(["Pending"]), false),
            (json!(["Pending", "Failed"]), json!(["Running", "Failed"]), false),
            (json!(["Running"]), json!(null), false),
            (json!(["waiting ContainerCreating", "ended"]), json!(["running", "ended"]), true),
            (json!(["waiting ContainerCreating"]), json!(["waiting PodInitializing"]), false),
        ] {
            assert_eq!(differ_in_steps_alone(&a, &b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_reason_says_something() {
        assert!(Reasons::parse("- reason: ' '\n  paths: ['*']\n").is_err());
        assert!(Reasons::parse("- reason: x\n  path: ['*']\n").is_err());
        let reasons = Reasons::parse("- reason: x\n  manifests: ['a*']\n  paths: ['b.*']\n").unwrap();
        assert_eq!(reasons.of("ab", "b.c"), Standing::Explained(0));
        assert_eq!(reasons.of("b", "b.c"), Standing::Unexplained);
        let unused = Reasons::parse("- reason: x\n  paths: ['b']\n").unwrap();
        assert_eq!(unused.unused(), ["x"]);
    }

    #[test]
    fn the_projects_own_reasons_are_read() {
        Reasons::read(&super::super::reasons_path()).unwrap();
    }
}
