//! `compare --node-api`: the node's own API, asked the same by the same callers of kubelet and of the agent, over the same
//! pod: statuses and headers of every route, the configuration in effect, and the numbers ([`super::numbers`]). What
//! differs has its reason in node-api-reasons.yaml or is to be mended; docs/differences.md has it below the marks.
//!
//! - [`request`]: what is asked. - [`caller`]: by whom. - [`answer`]: what of an answer counts.

mod answer;
mod caller;
mod request;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::difference::{self, Difference, Reasons, Standing};
use super::numbers::{self, Families, Numbers};
use super::peer::{Kind, Peer};
use super::record::Recording;
use super::{KUBELET, Options, kubelet_program, page, recorded_dir};
use crate::control_plane::{ControlPlane, Options as PlaneOptions};
use crate::node::TestNode;
use crate::paths;
use crate::process;
use crate::scratch::Scratch;
use caller::Caller;
use request::Request;

const FILE: &str = "node-api.json";
/// The pod that is asked about.
const POD: &str = "numbers";
/// Until the pod's numbers are there: two of cAdvisor's readings, and one of its volumes.
const SOON: Duration = Duration::from_secs(120);
/// Until a server that was started anew answers.
const SERVES: Duration = Duration::from_secs(60);
const READ_ONLY_PORT: u16 = 10255;

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// By everybody, of each configuration; numbers too.
    All,
    /// Of one configuration, and no numbers.
    Answers,
}

/// Why differences stand.
#[must_use]
pub fn reasons_path() -> PathBuf {
    paths::repository().join("tests/compare/node-api-reasons.yaml")
}

/// What kubelet answered.
pub fn recorded() -> Result<Recording> {
    read(&recorded_dir())
}

fn read(dir: &Path) -> Result<Recording> {
    let path = dir.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("reading {}; `cargo xtask compare --node-api --record` makes it", path.display())
    })?;
    let of = serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    Ok(Recording { of })
}

fn write(dir: &Path, recording: &Recording) -> Result<()> {
    let path = dir.join(FILE);
    fs::write(&path, serde_json::to_string_pretty(&recording.of)? + "\n")
        .with_context(|| format!("writing {}", path.display()))
}

pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let reasons = Reasons::read(&reasons_path())?;
    let (kubelets, ours) = match &options.replay {
        Some(dir) => (recorded()?, read(dir)?),
        None => run_both(options)?,
    };
    let found = between(&kubelets, &ours, &reasons)?;
    super::tell(&found);
    page::write_node_api(&found, &reasons)?;
    let unexplained = found.iter().filter(|one| one.standing == Standing::Unexplained).count();
    println!("compare: {} differences of the node's API, {unexplained} without a reason", found.len());
    Ok(if unexplained == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_both(options: &Options) -> Result<(Recording, Recording)> {
    let scratch = Scratch::new("node-api")?;
    let plane = ControlPlane::start(&scratch, &PlaneOptions::default())?;
    if options.record {
        let program = kubelet_program(options)?;
        let recording = of(&plane, Kind::Kubelet(program), Extent::All).context("kubelet")?;
        write(&recorded_dir(), &recording)?;
        numbers::write(&numbers_of(&recording)?)?;
        println!("{KUBELET} answers: {}", recorded_dir().join(FILE).display());
    }
    let ours = of(&plane, Kind::Oomlet, Extent::All).context("oomlet")?;
    if let Some(dir) = &options.keep {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        write(dir, &ours)?;
    }
    Ok((recorded()?, ours))
}

/// A family that only one of them has is one difference, not one of each of its properties.
pub fn between(kubelets: &Recording, ours: &Recording, reasons: &Reasons) -> Result<Vec<Difference>> {
    let (mut kubelets, mut ours) = (kubelets.clone(), ours.clone());
    for page in numbers::PAGES {
        let name = page_name(page);
        let (Some(theirs), Some(own)) = (kubelets.of.get(&name), ours.of.get(&name)) else { continue };
        let [theirs, own]: [Families; 2] =
            [serde_json::from_value(theirs.clone())?, serde_json::from_value(own.clone())?];
        let told = |of: &Families, other: &Families| -> Value {
            let one = |(name, family): (&String, &numbers::Family)| {
                let told = if other.contains_key(name) { json!(family) } else { json!(family.kind) };
                (name.clone(), told)
            };
            Value::Object(of.iter().map(one).collect())
        };
        kubelets.of.insert(name.clone(), told(&theirs, &own));
        ours.of.insert(name, told(&own, &theirs));
    }
    Ok(difference::between(&kubelets, &ours, reasons))
}

fn page_name(page: &str) -> String {
    format!("the page {page}")
}

fn numbers_of(recording: &Recording) -> Result<Numbers> {
    let mut all = Numbers::default();
    for page in numbers::PAGES {
        let families = recording.of.get(&page_name(page)).with_context(|| format!("no {page}"))?;
        all.pages.insert(page.to_owned(), serde_json::from_value(families.clone())?);
    }
    let summary = recording.of.get("the Summary").and_then(Value::as_object).context("no Summary")?;
    all.summary = summary.keys().cloned().collect();
    Ok(all)
}

/// One peer's answers.
pub fn of(plane: &ControlPlane, kind: Kind, extent: Extent) -> Result<Recording> {
    plane.apply(&caller::roles())?;
    let mut socket = None;
    let authority = plane.authority_path();
    let is_kubelet = matches!(kind, Kind::Kubelet(_));
    let mut peer = Peer::start_with(plane, kind, |node| {
        // Below the node's own folder, whose name is left out.
        let client_ca = node.scratch().path().join("client-ca.crt");
        fs::copy(&authority, &client_ca).with_context(|| format!("copying to {}", client_ca.display()))?;
        let config = node.config_mut();
        config["authentication"] = json!({
            "x509": { "clientCAFile": client_ca },
            "webhook": { "enabled": true },
            "anonymous": { "enabled": false },
        });
        config["authorization"] = json!({ "mode": "Webhook" });
        config["volumeStatsAggPeriod"] = json!("10s");
        config["readOnlyPort"] = json!(READ_ONLY_PORT);
        if is_kubelet {
            socket = Some(numbers::CadvisorSocket::link(&node.containerd.socket())?);
        }
        Ok(())
    })?;
    let asked = ask_all(plane, &mut peer, extent).with_context(|| peer.diagnosis());
    drop(socket);
    asked
}

fn ask_all(plane: &ControlPlane, peer: &mut Peer<'_>, extent: Extent) -> Result<Recording> {
    let mut spec = numbers::pod_spec();
    spec["nodeName"] = json!(peer.name());
    plane.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": POD, "namespace": peer.namespace() },
        "spec": spec,
    }))?;
    let callers = Caller::all(plane, peer.node().scratch().path(), peer.namespace())?;
    let admin = Caller::of(&callers, caller::ADMINISTRATOR)?;
    wait_numbers(peer.node(), admin, extent)?;
    let (all, few) = (Request::all(peer.namespace(), POD), Request::few(peer.namespace(), POD));
    let mut record = Record { of: BTreeMap::new(), normal: peer.normal() };
    for one in &callers {
        let asked = if one.name == caller::ADMINISTRATOR { &all } else { &few };
        record.answers(peer.node(), one, one.name, asked)?;
    }
    let plain = Caller::nobody();
    record.answers(peer.node(), &plain.at(READ_ONLY_PORT), "the read-only port", &few)?;
    record.answers(peer.node(), &plain.at(10248), "the port of health", &few)?;
    if extent == Extent::Answers {
        return Ok(record.finish());
    }
    record.http_version(peer.node(), admin)?;
    record.objects(peer.node(), admin)?;

    peer.restart_with(|node| {
        let config = node.config_mut();
        config["authentication"]["anonymous"]["enabled"] = json!(true);
        config["enableSystemLogHandler"] = json!(false);
        config["enableProfilingHandler"] = json!(false);
    })?;
    wait_serves(peer.node(), admin)?;
    for one in callers.iter().filter(|one| one.shows_nobody_known) {
        record.answers(peer.node(), one, &format!("{}, anonymous allowed", one.name), &few)?;
    }
    let disabled = Request::of(&["/logs/", "/logs/x", "/debug/pprof/", "/debug/flags/v"], &["GET", "POST"]);
    record.answers(peer.node(), admin, "logs and profiling disabled", &disabled)?;

    peer.restart_with(|node| {
        let config = node.config_mut();
        config["authorization"]["mode"] = json!("AlwaysAllow");
        config["enableDebuggingHandlers"] = json!(false);
    })?;
    wait_serves(peer.node(), admin)?;
    record.answers(peer.node(), &plain, "everybody may, debugging disabled", &few)?;
    Ok(record.finish())
}

fn wait_numbers(node: &TestNode, admin: &Caller, extent: Extent) -> Result<()> {
    let (mut last, mut pods) = (String::new(), String::new());
    let come = process::holds_within(SOON, || {
        pods = answer::body(node, admin, "/pods").unwrap_or_default();
        last = answer::body(node, admin, "/stats/summary").unwrap_or_default();
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        runs(&parsed(&pods)) && (extent == Extent::Answers || numbers::has_come(&parsed(&last), POD))
    });
    ensure!(come, "the pod's numbers are not all there: {last}\n{pods}");
    Ok(())
}

/// The pod is Ready by the node's own word.
fn runs(pods: &Value) -> bool {
    let pod = pods["items"].as_array().into_iter().flatten().find(|pod| pod["metadata"]["name"] == POD);
    pod.is_some_and(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
}

fn wait_serves(node: &TestNode, admin: &Caller) -> Result<()> {
    let serves = process::holds_within(SERVES, || {
        let pods = answer::body(node, admin, "/pods").unwrap_or_default();
        answer::body(node, admin, "/healthz").is_ok_and(|said| said == "ok") && pods.contains(POD)
    });
    ensure!(serves, "the node's API does not answer within {SERVES:?}");
    Ok(())
}

/// What is written down of one peer.
struct Record {
    of: BTreeMap<String, Value>,
    normal: super::normal::Normal,
}

impl Record {
    fn answers(&mut self, node: &TestNode, caller: &Caller, name: &str, asked: &[Request]) -> Result<()> {
        let mut answers = serde_json::Map::new();
        for request in asked {
            answers.insert(request.name(), answer::of(node, caller, request)?);
        }
        self.put(name, &Value::Object(answers));
        Ok(())
    }

    fn http_version(&mut self, node: &TestNode, admin: &Caller) -> Result<()> {
        let version = answer::http_version(node, admin)?;
        self.put("the connection", &json!({ "http": version }));
        Ok(())
    }

    fn objects(&mut self, node: &TestNode, admin: &Caller) -> Result<()> {
        let object = |path| -> Result<Value> { Ok(serde_json::from_str(&answer::body(node, admin, path)?)?) };
        self.put("the configuration", &object("/configz")?);
        for (name, path) in [("the pods", "/pods"), ("the Summary", "/stats/summary")] {
            let keys = numbers::keys(&object(path)?);
            self.of.insert(name.to_owned(), keys.into_iter().map(|key| (key, json!(true))).collect());
        }
        for page in numbers::PAGES {
            let families = numbers::families(&answer::body(node, admin, page)?)?;
            ensure!(!families.is_empty(), "{page} has nothing");
            self.of.insert(page_name(page), json!(families));
        }
        Ok(())
    }

    fn put(&mut self, name: &str, value: &Value) {
        self.of.insert(name.to_owned(), self.normal.value(value));
    }

    fn finish(self) -> Recording {
        Recording { of: self.of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_of_one_of_them_is_one_difference() {
        let page = |text: &str| {
            let families = numbers::families(text).unwrap();
            Recording { of: BTreeMap::from([(page_name("/metrics"), json!(families))]) }
        };
        let kubelets = page("# HELP a A\n# TYPE a gauge\na 1\n# HELP b B\n# TYPE b gauge\nb{x=\"1\"} 1\n");
        let ours = page("# HELP b B\n# TYPE b counter\nb{x=\"1\"} 1\n");
        let found = between(&kubelets, &ours, &Reasons::default()).unwrap();
        let paths: Vec<&str> = found.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["a", "b.kind"]);
    }

    #[test]
    fn the_reasons_are_read() {
        Reasons::read(&reasons_path()).unwrap();
    }
}
