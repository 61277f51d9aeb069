//! `cargo xtask demo --cluster`: the agent as the node of a real cluster. It joins by a bootstrap token, a Deployment
//! becomes ready with all that a pod is given, and the hog, a Deployment too, is evicted and replaced.
//!
//! Reads the API server by kubectl, as an administrator would, and the trace and the hog's mark as the other demo does.
//! [`api`]: the cluster, the demo's own or one that is there already; `objects`: what is made in it.

mod api;
mod objects;
mod outcome;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::outcome::oom_kills;
use super::show::Watcher;
use super::wait::wait;
use super::{Interrupted, Options, hog_arguments, longest_leak};
use crate::control_plane::programs::{Program, Programs, Source};
use crate::control_plane::{self, ControlPlane};
use crate::node::{RunningContainer, TestNode};
use crate::private_containerd::Version;
use crate::scratch::Scratch;
use crate::{paths, process, progress};
use api::Cluster;
use objects::{HOG, WEB, WEB_REPLICAS};
pub use outcome::Outcome;
use outcome::Seen;

/// Until the node is Ready, or a pod that needs nothing but this machine; a second or two where that is idle.
const START: Duration = Duration::from_secs(90);
/// Until others know what the agent has done.
const SETTLE: Duration = Duration::from_secs(30);

/// The system's own, for a cluster that is there already.
pub fn has_kubectl() -> bool {
    paths::program(Program::Kubectl.name()).is_some()
}

/// What came of it. Nothing of it is left then, also in a cluster that was there already.
pub fn run(options: &Options, version: Version, stop: &Interrupted) -> Result<Outcome> {
    // Dropped last: what lives in it ends first.
    let scratch = Scratch::new("demo-plane")?;
    let (cluster, plane) = match &options.kubeconfig {
        Some(file) => (Cluster::new(kubectl()?, file, scratch.path())?, None),
        None => {
            Programs::ensure(&Source::default(), &Program::CONTROL_PLANE)?;
            let plane = progress::step("control plane", |_| {
                ControlPlane::start(&scratch, &control_plane::Options::default())
            })?;
            let kubectl = plane.programs().path(Program::Kubectl);
            (Cluster::new(kubectl, plane.kubeconfig_admin(), scratch.path())?, Some(plane))
        }
    };
    stop.check()?;
    println!(
        "containerd {}, {} MiB for all pods, a hog that leaks {} MiB/s, on the node {} of {}\n",
        version.series(),
        options.cap_mib,
        options.rate_mib_s,
        cluster.name(),
        cluster.server()
    );
    let mut node = TestNode::start("demo-node", version)?;
    let result = play(&mut node, &cluster, options, stop);
    if result.is_err() && stop.check().is_ok() {
        // The logs go with the node, so they are shown now.
        let plane = plane.as_ref().map(ControlPlane::diagnosis).unwrap_or_default();
        eprintln!("\nThe end of the logs:\n{}\n{plane}\n", node.diagnosis());
    }
    // The demo's own control plane goes with all that is in it.
    let left = if plane.is_none() { leave(&mut node, &cluster) } else { Ok(()) };
    if result.is_ok() && left.is_err() {
        eprintln!("\nThe end of the logs:\n{}\n", node.diagnosis());
    }
    // What was interrupted may have failed for that alone.
    let outcome = result.or_else(|error| stop.check().and(Err(error)))?;
    left?;
    Ok(outcome)
}

/// Exit code 0 only when it holds.
pub fn tell(outcome: &Outcome, options: &Options) -> Result<ExitCode> {
    println!("\n{}\n", outcome.table());
    let failures = outcome.failures();
    if failures.is_empty() {
        println!(
            "It holds: the hog was evicted before the kernel had to kill, and the cluster has replaced it."
        );
    } else {
        println!("It does not hold: {}.", failures.join("; "));
    }
    if options.headless {
        println!("{}", serde_json::to_string(outcome)?);
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn kubectl() -> Result<PathBuf> {
    if let Some(path) = paths::program(Program::Kubectl.name()) {
        return Ok(path);
    }
    let programs = Programs::ensure(&Source::default(), &[Program::Kubectl])?;
    Ok(programs.path(Program::Kubectl))
}

fn play(node: &mut TestNode, cluster: &Cluster, options: &Options, stop: &Interrupted) -> Result<Outcome> {
    let mut watcher = Watcher::new(options.cap_mib);
    prepare(node, cluster, options)?;
    let begun = Instant::now();
    node.start_agent()?;
    wait(node, &mut watcher, stop, START, "the node is Ready", |_| {
        Ok(cluster.find(&["node", cluster.name()])?.filter(|node| is(node, "Ready")))
    })?;
    let node_ready_ms = begun.elapsed().as_millis().try_into().unwrap_or(i64::MAX);
    println!("\nThe node is Ready, {node_ready_ms} ms after its agent had nothing but a bootstrap token.\n");

    cluster.apply(&objects::web(cluster.name()))?;
    wait(node, &mut watcher, stop, START, "the Deployment is ready", |_| {
        Ok((pods_ready(cluster)? == WEB_REPLICAS).then_some(()))
    })?;
    println!("\n{}", cluster.kubectl(&["get", "pods", "--output=wide"])?);

    let marks = node.scratch().create_dir("marks")?;
    cluster.apply(&objects::hog(cluster.name(), &hog_arguments(options, objects::MARK)?, &marks))?;
    let evicted = wait(node, &mut watcher, stop, longest_leak(options), "the hog is evicted", |node| {
        let killed = !oom_kills(&node.trace()?).is_empty();
        let evicted = pods_of(cluster, HOG)?.into_iter().find(is_evicted);
        // A kernel kill ends the waiting too: it is what the table has to show then.
        Ok(if evicted.is_some() { Some(evicted) } else { killed.then_some(None) })
    })?;
    let seen = match evicted {
        Some(pod) => after(node, cluster, &mut watcher, stop, &pod)?,
        None => Seen::default(),
    };
    let mark = std::fs::read_to_string(marks.join("mark")).unwrap_or_default();
    // On a busy machine a probe may just have timed out.
    let mut ready = 0;
    process::holds_within(SETTLE, || {
        ready = pods_ready(cluster).unwrap_or(0);
        ready == WEB_REPLICAS || stop.check().is_err()
    });
    let seen = Seen { node_ready_ms, pods_ready: ready, mark, ..seen };
    watcher.show(node)?;
    Ok(Outcome::of(&node.trace()?, seen))
}

/// What a node of its own needs to join, and nothing else: no kubeconfig, no certificate.
fn prepare(node: &mut TestNode, cluster: &Cluster, options: &Options) -> Result<()> {
    cluster.make_token()?;
    cluster.apply(&objects::namespace(cluster.name()))?;
    node.cap_kubepods(options.cap_mib)?;
    node.config_mut()["evictionHard"] = json!({ "memory.available": "100Mi" });
    node.join(cluster.address()?)?;
    let dir = node.scratch().path().to_owned();
    let bootstrap = dir.join("bootstrap.kubeconfig");
    cluster.write_bootstrap_kubeconfig(&bootstrap)?;
    let (label, taint) = objects::label_and_taint(cluster.name());
    node.add_arguments(&[
        &format!("--bootstrap-kubeconfig={}", bootstrap.display()),
        &format!("--kubeconfig={}", dir.join("node.kubeconfig").display()),
        &format!("--cert-dir={}", node.cert_dir().display()),
        &format!("--hostname-override={}", cluster.name()),
        &format!("--node-labels={label}"),
        // For a cluster with pods of others.
        &format!("--register-with-taints={taint}"),
    ]);
    Ok(())
}

/// From the eviction on: the pod's end, what its controller makes of it, and what people are told.
fn after(
    node: &mut TestNode,
    cluster: &Cluster,
    watcher: &mut Watcher,
    stop: &Interrupted,
    evicted: &Value,
) -> Result<Seen> {
    let name = evicted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    wait(node, watcher, stop, SETTLE, "the evicted pod has ended", |node| {
        let runs = |c: &RunningContainer| c.pod == name;
        Ok((!node.running()?.iter().any(runs)).then_some(()))
    })?;
    // None within the bound: that is for the table to tell.
    let mut replaced = false;
    let look = |_: &TestNode| {
        let others =
            pods_of(cluster, HOG)?.into_iter().filter(|pod| pod["metadata"]["name"] != name.as_str());
        replaced = others.into_iter().any(|pod| is(&pod, "Ready"));
        Ok(replaced.then_some(()))
    };
    let waited = wait(node, watcher, stop, START, "the hog's replacement is ready", look);
    if let (Err(error), false) = (&waited, replaced) {
        stop.check()?;
        println!("{error:#}");
    }
    let mut described = String::new();
    process::holds_within(SETTLE, || {
        described = cluster.kubectl(&["describe", "pod", &name]).unwrap_or_default();
        outcome::tells_why(&described) || stop.check().is_err()
    });
    println!("\n$ kubectl describe pod {name}\n{described}");
    println!("{}", cluster.kubectl(&["get", "pods", "--output=wide"])?);
    Ok(Seen { replaced, described, ..Seen::default() })
}

/// Takes back what was made in a cluster that goes on. Each is tried, whatever becomes of the others.
fn leave(node: &mut TestNode, cluster: &Cluster) -> Result<()> {
    progress::step("leaving the cluster", |_| {
        // While the agent runs, so that the pods end in order.
        let pods = cluster.delete_namespace();
        // It would register once more.
        let agent = node.kill_agent();
        cluster.delete_node_and_token().and(pods).and(agent)
    })
    .with_context(|| format!("not all of {} is removed from the cluster", cluster.name()))
}

/// Of the Deployment beside the hog. One whose container has been started again does not count.
fn pods_ready(cluster: &Cluster) -> Result<usize> {
    let unharmed =
        |pod: &Value| is(pod, "Ready") && pod["status"]["containerStatuses"][0]["restartCount"] == 0;
    Ok(pods_of(cluster, WEB)?.iter().filter(|pod| unharmed(pod)).count())
}

fn pods_of(cluster: &Cluster, app: &str) -> Result<Vec<Value>> {
    let mut listed = cluster.get(&["pods", "--selector", &format!("app={app}")])?;
    Ok(listed["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

fn is_evicted(pod: &Value) -> bool {
    pod["status"]["phase"] == "Failed" && pod["status"]["reason"] == "Evicted"
}

fn is(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == condition && c["status"] == "True"))
}
