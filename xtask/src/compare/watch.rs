//! Objects of a namespace as a watcher sees them, in the order of their changes.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Deserializer, Value};

use crate::control_plane::ControlPlane;

/// Ends when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    child: Child,
    /// `{"type": "ADDED", "object": …}`
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Watch {
    pub fn start(plane: &ControlPlane, kind: &str, namespace: &str) -> Result<Watch> {
        let mut child = plane
            .kubectl_command(plane.kubeconfig_admin())
            .args(["get", kind, "--namespace", namespace, "--watch", "--output-watch-events"])
            .arg("--output=json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting kubectl")?;
        let output = child.stdout.take().context("kubectl has no stdout")?;
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            // Ends with kubectl; what it was printing then is nothing that anybody waits for.
            for event in Deserializer::from_reader(BufReader::new(output)).into_iter().map_while(Result::ok) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        Ok(Watch { child, seen })
    }

    /// All that was seen of the objects for which this holds.
    pub fn changes(&self, of: impl Fn(&Value) -> bool) -> Vec<Value> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|event| of(&event["object"])).cloned().collect()
    }

    pub fn of_name(&self, name: &str) -> Vec<Value> {
        self.changes(|object| object["metadata"]["name"] == name)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
