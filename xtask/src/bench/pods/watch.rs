//! A client's view of a namespace's pods: one `kubectl` that watches, and when it has seen what.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::control_plane::ControlPlane;

/// Ended when dropped. It is to be started while there is no pod yet.
#[derive(Debug)]
pub struct PodWatch {
    kubectl: Child,
    seen: Arc<Mutex<Seen>>,
}

/// By pod, when it was first seen so.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub there: BTreeMap<String, Instant>,
    pub ready: BTreeMap<String, Instant>,
    pub gone: BTreeMap<String, Instant>,
    /// Pods that have ended by themselves, which none should.
    failed: Option<String>,
    /// Why nothing more is seen.
    ended: Option<String>,
}

#[derive(Deserialize)]
struct Notice {
    #[serde(rename = "type")]
    kind: String,
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(rename = "deletionTimestamp")]
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl PodWatch {
    pub fn start(plane: &ControlPlane, namespace: &str) -> Result<PodWatch> {
        let mut command = plane.kubectl_command(plane.kubeconfig_admin());
        command.args(["get", "pods", "--namespace", namespace, "--watch", "--output-watch-events"]);
        command.arg("--output=json").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut kubectl = command.spawn().context("starting kubectl")?;
        let output = kubectl.stdout.take().context("kubectl has no stdout")?;
        let seen = Arc::<Mutex<Seen>>::default();
        let into = Arc::clone(&seen);
        thread::Builder::new().name("pod-watch".to_owned()).spawn(move || {
            let notices = serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Notice>();
            let mut why = "kubectl has ended".to_owned();
            for notice in notices {
                match notice {
                    Ok(notice) => into.lock().unwrap_or_else(PoisonError::into_inner).take(&notice),
                    Err(error) => {
                        why = format!("kubectl's output: {error}");
                        break;
                    }
                }
            }
            into.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(why);
        })?;
        Ok(PodWatch { kubectl, seen })
    }

    /// Until now.
    pub fn seen(&self) -> Result<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(why) = seen.failed.as_ref().or(seen.ended.as_ref()) {
            bail!("watching the pods: {why}");
        }
        Ok(seen)
    }
}

impl Seen {
    fn take(&mut self, notice: &Notice) {
        let now = Instant::now();
        let (pod, name) = (&notice.object, &notice.object.metadata.name);
        self.there.entry(name.clone()).or_insert(now);
        let is_ready = pod.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
        if is_ready {
            self.ready.entry(name.clone()).or_insert(now);
        }
        if notice.kind == "DELETED" {
            self.gone.entry(name.clone()).or_insert(now);
        }
        let has_ended = matches!(pod.status.phase.as_str(), "Failed" | "Succeeded");
        if has_ended && pod.metadata.deletion_timestamp.is_none() {
            self.failed = Some(format!("pod {name} is {}", pod.status.phase));
        }
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn each_state_is_seen_once() {
        let mut seen = Seen::default();
        let mut take = |kind: &str, status: Value, deleted: Value| {
            let metadata = json!({ "name": "a", "deletionTimestamp": deleted });
            let notice = json!({ "type": kind, "object": { "metadata": metadata, "status": status } });
            seen.take(&serde_json::from_value(notice).unwrap());
            (seen.there.len(), seen.ready.len(), seen.gone.len(), seen.failed.is_some())
        };
        let ready = |status: &str| json!({ "conditions": [{ "type": "Ready", "status": status }] });
        assert_eq!(take("ADDED", json!({}), json!(null)), (1, 0, 0, false));
        assert_eq!(take("MODIFIED", ready("False"), json!(null)), (1, 0, 0, false));
        assert_eq!(take("MODIFIED", ready("True"), json!(null)), (1, 1, 0, false));
        assert_eq!(take("MODIFIED", json!({ "phase": "Failed" }), json!("now")), (1, 1, 0, false));
        assert_eq!(take("DELETED", json!({ "phase": "Failed" }), json!("now")), (1, 1, 1, false));
        assert_eq!(take("MODIFIED", json!({ "phase": "Failed" }), json!(null)), (1, 1, 1, true));
    }
}
