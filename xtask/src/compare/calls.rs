//! What a node's runtime was asked for: a proxy before its socket writes down what changes something there
//! (tests/cri-recorder); here it is read, pod by pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::build::{self, Profile};
use crate::process;

/// Until the proxy listens.
const LISTENING: Duration = Duration::from_secs(60);

/// The proxy; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Recorder {
    child: Child,
    socket: PathBuf,
    record: PathBuf,
}

impl Recorder {
    /// Its socket and its file are made in `dir`.
    pub fn start(dir: &Path, runtime: &Path) -> Result<Recorder> {
        let program = build::recorder_path(Profile::of_this_program())?;
        let (socket, record) = (dir.join("cri.sock"), dir.join("cri.jsonl"));
        let child = Command::new(&program)
            .arg("--listen")
            .arg(&socket)
            .arg("--runtime")
            .arg(runtime)
            .arg("--record")
            .arg(&record)
            // It ends when this end of the pipe is closed.
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}; `cargo xtask build` makes it", program.display()))?;
        let recorder = Recorder { child, socket, record };
        let listens = process::holds_within(LISTENING, || recorder.socket.exists());
        ensure!(listens, "{} does not listen on {}", program.display(), recorder.socket.display());
        Ok(recorder)
    }

    /// For `--container-runtime-endpoint`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// All that have been answered until now, in the order in which they came.
    pub fn calls(&self) -> Result<Calls> {
        let text =
            fs::read_to_string(&self.record).with_context(|| format!("reading {}", self.record.display()))?;
        Calls::parse(&text).with_context(|| format!("in {}", self.record.display()))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Deserialize)]
struct Call {
    at: u64,
    /// The first that came when this one had been answered.
    until: u64,
    call: String,
    request: Value,
    answer: Value,
    error: Option<String>,
}

impl Call {
    fn name(&self, key: &str) -> &str {
        self.request[key].as_str().unwrap_or_default()
    }

    /// A refusal's code alone: its message is the runtime's.
    fn outcome(&self) -> String {
        let code = self.error.as_ref().and_then(|error| error.split(':').next());
        code.map_or_else(String::new, |code| format!("({code})"))
    }
}

#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

impl Calls {
    fn parse(text: &str) -> Result<Calls> {
        // A last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let calls = whole.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
        let mut calls = calls.collect::<Result<Vec<Call>>>()?;
        calls.sort_by_key(|call| call.at);
        Ok(Calls(calls))
    }

    /// `order`: the calls about the pod as they came. `sandbox N` and `container NAME N`: the configurations, by attempt.
    /// `stop_timeouts`, `exec_timeouts`: the seconds that the runtime was to wait for a container's or a command's end, as it
    /// was told first.
    pub fn of_pod(&self, uid: &str) -> Value {
        let mut pod = PodCalls { uid, ..PodCalls::default() };
        for call in &self.0 {
            pod.take(call);
        }
        let mut all = std::mem::take(&mut pod.configs);
        all.insert("stop_timeouts".to_owned(), json!(pod.stop_timeouts));
        all.insert("exec_timeouts".to_owned(), json!(pod.exec_timeouts));
        all.insert("order".to_owned(), json!(pod.in_order()));
        Value::Object(all)
    }
}

/// One of them, in words.
struct Told {
    at: u64,
    until: u64,
    said: String,
}

/// Those about one pod.
#[derive(Default)]
struct PodCalls<'a> {
    uid: &'a str,
    /// Its sandboxes' ids.
    sandboxes: BTreeSet<String>,
    /// Its containers' names by their ids.
    containers: BTreeMap<String, String>,
    configs: Map<String, Value>,
    order: Vec<Told>,
    stop_timeouts: BTreeMap<String, i64>,
    exec_timeouts: BTreeMap<String, i64>,
    /// What was run in containers already: a probe runs over and over.
    executed: BTreeSet<String>,
}

impl PodCalls<'_> {
    fn take(&mut self, call: &Call) {
        let Some(what) = self.what(call) else { return };
        let said = [call.call.clone(), what, call.outcome()];
        let said = said.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        if call.call != "ExecSync" || self.executed.insert(said.clone()) {
            self.order.push(Told { at: call.at, until: call.until, said });
        }
    }

    /// Without repeats, which are new attempts at the same; and containers that are stopped side by side, by name.
    fn in_order(mut self) -> Vec<String> {
        let side_by_side = |a: &Told, b: &Told| {
            b.at < a.until && [a, b].iter().all(|call| call.said.starts_with("StopContainer "))
        };
        for stops in self.order.chunk_by_mut(side_by_side) {
            stops.sort_by(|a, b| a.said.cmp(&b.said));
        }
        let mut all: Vec<String> = self.order.into_iter().map(|call| call.said).collect();
        all.dedup();
        all
    }

    /// What of the pod the call is about. `None`: it is about another.
    fn what(&mut self, call: &Call) -> Option<String> {
        match call.call.as_str() {
            "RunPodSandbox" => {
                let config = &call.request["config"];
                if !self.is_of(config) {
                    return None;
                }
                self.sandboxes.extend(call.answer["pod_sandbox_id"].as_str().map(str::to_owned));
                let attempt = config["metadata"]["attempt"].as_u64().unwrap_or_default();
                let mut kept = config.clone();
                if let Some(handler) = call.request.get("runtime_handler") {
                    kept["runtime_handler"] = handler.clone();
                }
                self.configs.insert(format!("sandbox {attempt}"), kept);
                Some(String::new())
            }
            "CreateContainer" => {
                let (config, sandbox) = (&call.request["config"], &call.request["sandbox_config"]);
                if !self.is_of(sandbox) {
                    return None;
                }
                let name = config["metadata"]["name"].as_str().unwrap_or("?").to_owned();
                let attempt = config["metadata"]["attempt"].as_u64().unwrap_or_default();
                if let Some(id) = call.answer["container_id"].as_str() {
                    self.containers.insert(id.to_owned(), name.clone());
                }
                self.configs.insert(format!("container {name} {attempt}"), config.clone());
                if !self.configs.values().any(|known| same_but_for_handler(known, sandbox)) {
                    self.configs.insert(format!("sandbox as told for {name} {attempt}"), sandbox.clone());
                }
                Some(name)
            }
            "PullImage" => {
                let image = call.request["image"]["image"].as_str().unwrap_or("?");
                self.is_of(&call.request["sandbox_config"]).then(|| image.to_owned())
            }
            "StopPodSandbox" => self.sandboxes.contains(call.name("pod_sandbox_id")).then(String::new),
            // When what has ended is removed is up to who cleans up.
            "RemoveContainer" | "RemovePodSandbox" => None,
            "StopContainer" => {
                let name = self.containers.get(call.name("container_id"))?.clone();
                self.stop_timeouts.entry(name.clone()).or_insert_with(|| timeout(call));
                Some(name)
            }
            "ExecSync" => {
                let name = self.containers.get(call.name("container_id"))?.clone();
                self.exec_timeouts.entry(name.clone()).or_insert_with(|| timeout(call));
                Some(format!("{name} {}", call.request["cmd"]))
            }
            "UpdateContainerResources" => {
                let name = self.containers.get(call.name("container_id"))?;
                Some(format!("{name} {}", call.request["linux"]))
            }
            _ => self.containers.get(call.name("container_id")).cloned(),
        }
    }

    fn is_of(&self, sandbox_config: &Value) -> bool {
        sandbox_config["metadata"]["uid"] == self.uid
    }
}

/// Seconds.
fn timeout(call: &Call) -> i64 {
    call.request["timeout"].as_i64().unwrap_or_default()
}

fn same_but_for_handler(known: &Value, sandbox: &Value) -> bool {
    let mut known = known.clone();
    if let Some(fields) = known.as_object_mut() {
        fields.remove("runtime_handler");
    }
    known == *sandbox
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, call: &str, request: &Value, answer: &Value) -> String {
        // Each is answered when the next but one has come.
        let until = at + 2;
        let (request, answer) = (request.clone(), answer.clone());
        json!({ "at": at, "until": until, "call": call, "request": request, "answer": answer, "error": null })
            .to_string()
            + "\n"
    }

    #[test]
    fn calls_are_told_by_pod_and_in_the_order_they_came() {
        let sandbox = json!({ "metadata": { "name": "p", "uid": "u" } });
        let create = |name: &str| {
            json!({ "pod_sandbox_id": "s", "config": { "metadata": { "name": name } },
            "sandbox_config": sandbox })
        };
        let probe = json!({ "container_id": "a", "cmd": ["true"], "timeout": 1 });
        let stop = |id: &str| json!({ "container_id": id, "timeout": 30 });
        let text = [
            line(1, "CreateContainer", &create("main"), &json!({ "container_id": "a" })),
            line(0, "RunPodSandbox", &json!({ "config": sandbox }), &json!({ "pod_sandbox_id": "s" })),
            line(2, "StartContainer", &json!({ "container_id": "a" }), &json!({})),
            line(3, "CreateContainer", &create("also"), &json!({ "container_id": "b" })),
            line(4, "ExecSync", &probe, &json!({})),
            line(5, "ExecSync", &probe, &json!({})),
            line(6, "StartContainer", &json!({ "container_id": "of another pod" }), &json!({})),
            line(7, "StopContainer", &stop("a"), &json!({})),
            line(8, "StopContainer", &stop("b"), &json!({})),
            line(10, "StopContainer", &stop("b"), &json!({})),
            line(11, "StopPodSandbox", &json!({ "pod_sandbox_id": "s" }), &json!({})),
            "{\"at\": 12, \"half".to_owned(),
        ]
        .concat();
        let pod = Calls::parse(&text).unwrap().of_pod("u");
        let expected = [
            "RunPodSandbox",
            "CreateContainer main",
            "StartContainer main",
            "CreateContainer also",
            "ExecSync main [\"true\"]",
            "StopContainer also",
            "StopContainer main",
            "StopContainer also",
            "StopPodSandbox",
        ];
        assert_eq!(pod["order"], json!(expected));
        let kept: Vec<&String> = pod.as_object().unwrap().keys().collect();
        assert_eq!(
            kept,
            ["container also 0", "container main 0", "exec_timeouts", "order", "sandbox 0", "stop_timeouts"]
        );
        assert_eq!(pod["exec_timeouts"], json!({ "main": 1 }));
        assert_eq!(pod["stop_timeouts"], json!({ "also": 30, "main": 30 }));
        assert_eq!(pod["sandbox 0"], sandbox);
        assert_eq!(Calls::parse("").unwrap().of_pod("u")["order"], json!([]));
    }
}
