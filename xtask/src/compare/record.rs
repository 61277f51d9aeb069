//! What one peer did with a corpus, as data that is the same in each run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::corpus::Case;
use super::normal::Normal;
use super::sequence;

/// The file of the Node object; no manifest is called so.
const NODE: &str = "node-object";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// By manifest, and the Node object.
    pub of: BTreeMap<String, Value>,
}

impl Recording {
    /// As it was kept, of these manifests.
    pub fn read(dir: &Path, cases: &[Case]) -> Result<Recording> {
        let names = cases.iter().map(|case| case.name.as_str()).chain([NODE]);
        let of = names.map(|name| {
            let path = dir.join(format!("{name}.json"));
            let text = fs::read(&path).with_context(|| {
                format!("reading {}; `cargo xtask compare --record` makes it", path.display())
            })?;
            let value = serde_json::from_slice(&text).with_context(|| format!("in {}", path.display()))?;
            Ok((name.to_owned(), value))
        });
        Ok(Recording { of: of.collect::<Result<_>>()? })
    }

    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        for (name, value) in &self.of {
            let path = dir.join(format!("{name}.json"));
            fs::write(&path, serde_json::to_string_pretty(value)? + "\n")
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    pub(super) fn set_node(&mut self, node: &Value, normal: &Normal) {
        self.of.insert(NODE.to_owned(), node_record(&normal.value(node)));
    }
}

/// What was seen of one manifest's pod.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Until what was waited for held.
    pub reached: bool,
    /// Whether it went after its deletion.
    pub gone: bool,
    /// Changes of the pod until then, and from its deletion on.
    pub before: Vec<Value>,
    pub after: Vec<Value>,
    /// The pod when it had come to rest.
    pub settled: Value,
    pub events: Vec<Value>,
    pub logs: Map<String, Value>,
    pub cgroups: Value,
    pub requests: Value,
}

impl Seen {
    pub fn record(&self, normal: &Normal) -> Value {
        let normal_objects = |changes: &[Value]| -> Vec<Value> {
            changes.iter().map(|change| normal.value(&change["object"])).collect()
        };
        let (before, after) = (normal_objects(&self.before), normal_objects(&self.after));
        let settled = normal.value(&self.settled);
        json!({
            "reached": self.reached,
            "gone": self.gone,
            "over_time": sequence::of(before.iter()),
            "settled": { "status": settled["status"], "metadata": metadata(&settled["metadata"]) },
            "after_deletion": sequence::of(after.iter()),
            "last": after.last().map(|pod| pod["status"].clone()),
            "events": events(&normal.value(&json!(self.events))),
            "inside": normal.value(&json!(self.logs)),
            "cgroups": normal.value(&self.cgroups),
            "requests": normal.value(&self.requests),
        })
    }
}

fn metadata(of: &Value) -> Value {
    json!({ "annotations": of["annotations"], "labels": of["labels"], "generation": of["generation"] })
}

/// Messages by type, reason, reporter and what the Event is about.
fn events(all: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut by: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in all.as_array().into_iter().flatten() {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reporter = [&event["reportingComponent"], &event["source"]["component"]].map(word);
        let reporter = reporter.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
        let words = [
            word(&event["type"]),
            word(&event["reason"]),
            reporter,
            word(&event["involvedObject"]["fieldPath"]),
        ];
        by.entry(words.join(" ").trim().to_owned()).or_default().insert(word(&event["message"]));
    }
    by
}

/// Without figures of the machine that it ran on.
fn node_record(node: &Value) -> Value {
    let mut node = node.clone();
    let machine =
        ["machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion"];
    for key in machine {
        if node["status"]["nodeInfo"][key].as_str().is_some_and(|said| !said.is_empty()) {
            node["status"]["nodeInfo"][key] = json!("$SET");
        }
    }
    for key in ["capacity", "allocatable"] {
        for (_, value) in node["status"][key].as_object_mut().into_iter().flatten() {
            // `16Gi` and `16777216Ki` are told apart by their unit.
            let unit = value.as_str().unwrap_or_default().trim_start_matches(|c: char| c.is_ascii_digit());
            *value = json!(format!("$NUMBER{unit}"));
        }
    }
    for image in node["status"]["images"].as_array_mut().into_iter().flatten() {
        image["sizeBytes"] = json!("$NUMBER");
    }
    let version = node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default().to_owned();
    // Of the release that it speaks as.
    node["status"]["nodeInfo"]["kubeletVersion"] = json!(version.split('+').next());
    node["metadata"]["creationTimestamp"].take();
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_kind_are_one() {
        let event = |message: &str| {
            json!({ "type": "Warning", "reason": "BackOff", "message": message, "source": { "component": "kubelet" },
                "involvedObject": { "fieldPath": "spec.containers{main}" } })
        };
        let told = events(&json!([event("a"), event("a"), event("b")]));
        let key = "Warning BackOff kubelet spec.containers{main}";
        assert_eq!(told[key], BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut recording = Recording::default();
        recording.set_node(&json!({ "status": { "capacity": { "memory": "12Ki" } } }), &Normal::new(&[]));
        recording.write(dir.path()).unwrap();
        assert_eq!(Recording::read(dir.path(), &[]).unwrap(), recording);
        assert_eq!(recording.of[NODE]["status"]["capacity"]["memory"], "$NUMBERKi");
    }
}
