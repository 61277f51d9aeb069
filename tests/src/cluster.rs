//! A control plane for tests: [`shared`] by all tests of a program, since each takes four seconds and half a GB, or one's
//! [`own`] for a test that stops it or wants it different.
//!
//! Tests share a cluster without meeting: each has a namespace of its own, by [`namespace`], and names of its own for its
//! nodes. A pod that may land on one node only says so by a node selector.

mod at_exit;
pub mod fault_proxy;
pub mod joined;
pub mod pod_signer;

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};
use xtask::process;
use xtask::scratch::Scratch;

use crate::slot::Slot;
use crate::speed;

/// For whatever a control plane does by itself, on a machine that is busy with other tests.
#[must_use]
pub fn soon() -> Duration {
    Duration::from_secs(if speed::is_emulated() { 240 } else { 60 })
}

/// The one that this program's tests share, with an audit log. It ends when the program does, however that ends.
#[track_caller]
#[must_use]
pub fn shared() -> &'static ControlPlane {
    static SHARED: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    let started = SHARED.get_or_init(|| {
        let start = || {
            let scratch = Scratch::new("cluster")?;
            at_exit::remove(&scratch)?;
            let control_plane =
                ControlPlane::start(&scratch, &Options { audit: true, ..Options::default() })?;
            // Nothing in this program drops a static: it is removed from outside.
            std::mem::forget(scratch);
            anyhow::Ok(control_plane)
        };
        start().map_err(|error| format!("{error:#}"))
    });
    // Not started once more for each test: that would take as long each time.
    started.as_ref().unwrap_or_else(|error| panic!("there is no control plane: {error}"))
}

/// A control plane of one test. Fields are dropped in this order.
#[derive(Debug)]
pub struct Own {
    control_plane: ControlPlane,
    _scratch: Scratch,
    _slot: Slot,
}

impl Deref for Own {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        &self.control_plane
    }
}

impl DerefMut for Own {
    fn deref_mut(&mut self) -> &mut ControlPlane {
        &mut self.control_plane
    }
}

/// `label` is for people who look at what runs.
#[track_caller]
#[must_use]
pub fn own(label: &str, options: &Options) -> Own {
    let slot = Slot::take();
    let scratch = Scratch::new(label).unwrap_or_else(|e| panic!("{label}: {e:#}"));
    let control_plane = ControlPlane::start(&scratch, options).unwrap_or_else(|e| panic!("{label}: {e:#}"));
    Own { control_plane, _scratch: scratch, _slot: slot }
}

/// Makes a namespace; returns when pods are admitted to it. It goes with the control plane.
#[track_caller]
pub fn namespace(control_plane: &ControlPlane, name: &str) {
    control_plane.kubectl(&["create", "namespace", name]).unwrap();
    // Without it no pod is admitted.
    wait(&format!("the service account of namespace {name}"), || {
        control_plane
            .kubectl(&["get", "serviceaccount", "default", "--namespace", name])
            .is_ok()
            .then_some(())
    });
}

/// Waits for a value.
#[track_caller]
pub fn wait<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + soon();
    loop {
        let looked = Instant::now();
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < end, "not within {:?}: {what}", soon());
        std::thread::sleep(process::pause_after(looked.elapsed()));
    }
}

/// Waits until the object is so; `args` are what `kubectl get` takes. An object that is not there yet is not so.
#[track_caller]
pub fn wait_object(
    control_plane: &ControlPlane,
    args: &[&str],
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let mut last = None;
    let end = Instant::now() + soon();
    loop {
        let looked = Instant::now();
        match control_plane.kubectl_json(&[&["get"], args].concat()) {
            Ok(object) if holds(&object) => return object,
            other => last = other.ok().or(last),
        }
        let seen = last.as_ref().unwrap_or(&Value::Null);
        assert!(looked < end, "{} is not {what} within {:?}, last seen {seen:#}", args.join(" "), soon());
        std::thread::sleep(process::pause_after(looked.elapsed()));
    }
}

/// The condition of this type in an object's status; `null` where it has none.
#[must_use]
pub fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|c| c["type"] == kind)).cloned().unwrap_or_default()
}

/// As Kubernetes writes times.
#[must_use]
pub fn rfc3339(unix_s: u64) -> String {
    let mut date = std::process::Command::new("date");
    process::output(date.args(["--utc", &format!("--date=@{unix_s}"), "+%Y-%m-%dT%H:%M:%SZ"]))
        .unwrap()
        .trim()
        .to_owned()
}

/// Seconds.
#[must_use]
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A Deployment of pods with one container, labelled `app: NAME`.
#[must_use]
pub fn deployment(namespace: &str, name: &str, replicas: u32, pod_spec: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod_spec },
        },
    })
}
