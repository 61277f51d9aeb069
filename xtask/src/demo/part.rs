//! One part of the demo on a node of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::outcome::{HOG, NEIGHBOURS, Outcome, Seen, oom_kills};
use super::show::Watcher;
use super::wait::wait;
use super::{Interrupted, Options, hog_arguments, longest_leak};
use crate::node::manifest::{guaranteed, is_pod_of, pod, with_host_path, with_memory};
use crate::node::{RunningContainer, TestNode};
use crate::private_containerd::Version;

/// Until three pods run; usually two seconds, more on a loaded machine with cold caches.
const START: Duration = Duration::from_secs(90);
/// Until the trace tells what the runtime already shows.
const SETTLE: Duration = Duration::from_secs(15);

pub fn run(options: &Options, version: Version, eviction: bool, stop: &Interrupted) -> Result<Outcome> {
    let mut node = TestNode::start(if eviction { "demo-b" } else { "demo-a" }, version)?;
    let result = play(&mut node, options, eviction, stop);
    // The logs go with the node, so they are shown now; who interrupted it does not look for a fault.
    if result.is_err() && stop.check().is_ok() {
        eprintln!("\nThe end of the logs:\n{}\n", node.diagnosis());
    }
    result
}

fn play(node: &mut TestNode, options: &Options, eviction: bool, stop: &Interrupted) -> Result<Outcome> {
    node.cap_kubepods(options.cap_mib)?;
    // kubelet's default threshold, written out.
    node.config_mut()["evictionHard"] = json!({ "memory.available": "100Mi" });
    node.config_mut()["oomlet"]["eviction"] = json!({ "enabled": eviction });
    for (name, manifest) in NEIGHBOURS.into_iter().zip(neighbours()) {
        node.put_manifest(name, &manifest)?;
    }
    let mut watcher = Watcher::new(options.cap_mib);
    node.start_agent()?;
    wait(node, &mut watcher, stop, START, "the neighbours run", |node| {
        Ok(NEIGHBOURS.iter().all(|name| running(&node.running().unwrap_or_default(), name)).then_some(()))
    })?;
    let before = neighbours_of(&node.running()?);
    let cap_mib = node.kubepods_memory()?.map_or(options.cap_mib, |(_, limit)| limit >> 20);

    let marks = node.scratch().create_dir("marks")?;
    node.put_manifest(HOG, &with_host_path(hog(options)?, &marks, "/marks"))?;
    wait(node, &mut watcher, stop, START, "the hog runs", |node| {
        Ok((running(&node.running()?, HOG) || hog_ended(node)?).then_some(()))
    })?;
    wait(node, &mut watcher, stop, longest_leak(options), "the hog is gone", |node| {
        Ok((!running(&node.running()?, HOG)).then_some(()))
    })?;
    let hog_gone_ms = monotonic_ms();
    let (kind, what) = if eviction {
        ("Decision", "the trace tells of the decision")
    } else {
        ("OomKill", "the trace tells of the kill")
    };
    // In B a kernel kill ends the waiting too: it is what the table has to show then.
    wait(node, &mut watcher, stop, SETTLE, what, |node| {
        let trace = node.trace()?;
        let told = trace.iter().any(|r| r.kind == kind && r.pod.is_some()) || !oom_kills(&trace).is_empty();
        Ok(told.then_some(()))
    })?;
    let after = neighbours_of(&node.running()?);
    let seen = Seen {
        neighbours_alive: before.len() == NEIGHBOURS.len() && before.is_subset(&after),
        mark: std::fs::read_to_string(marks.join("mark")).unwrap_or_default(),
        hog_gone_ms,
        cap_mib,
    };
    watcher.show(node)?;
    Ok(Outcome::of(&node.trace()?, &seen))
}

/// One of each QoS class, in the order of [`NEIGHBOURS`].
fn neighbours() -> [Value; 3] {
    [
        guaranteed(pod("guaranteed", "idle", &["--mib", "16"]), "64Mi", "500m"),
        with_memory(pod("burstable", "idle", &["--mib", "16"]), "32Mi", "128Mi"),
        pod("best-effort", "idle", &["--mib", "8"]),
    ]
}

/// It asks for little and takes all; once gone it stays away, so that each part shows one end.
fn hog(options: &Options) -> Result<Value> {
    let args = hog_arguments(options, "/marks/mark")?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut hog = with_memory(pod(HOG, "hog", &args), "16Mi", "");
    hog["spec"]["restartPolicy"] = json!("Never");
    hog["spec"]["terminationGracePeriodSeconds"] = json!(30);
    Ok(hog)
}

fn running(containers: &[RunningContainer], name: &str) -> bool {
    containers.iter().any(|c| is_pod_of(&c.pod, name))
}

fn neighbours_of(containers: &[RunningContainer]) -> BTreeSet<RunningContainer> {
    containers.iter().filter(|c| NEIGHBOURS.iter().any(|name| is_pod_of(&c.pod, name))).cloned().collect()
}

/// A fast hog may be gone before it is first looked for.
fn hog_ended(node: &TestNode) -> Result<bool> {
    Ok(node
        .trace()?
        .iter()
        .any(|r| matches!(r.kind.as_str(), "OomKill" | "Decision") && is_pod_of(r.pod_name(), HOG)))
}

fn monotonic_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
