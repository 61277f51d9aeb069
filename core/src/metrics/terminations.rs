//! Containers that have ended, each told once. Owns what was published last.

use std::collections::BTreeSet;

use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, PodStatus};

use crate::node::published::NodeSnapshot;

#[derive(Debug)]
pub struct Terminations {
    seen: NodeSnapshot,
    /// Unix nanoseconds: what ended before is told by nobody.
    since: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminated {
    /// `container`, `init_container` or `ephemeral_container`.
    pub container_type: &'static str,
    pub exit_code: i32,
    pub reason: String,
}

impl Terminations {
    #[must_use]
    pub fn new(snapshot: &NodeSnapshot, since_unix_ns: i64) -> Terminations {
        Terminations { seen: snapshot.clone(), since: since_unix_ns }
    }

    /// Also of a container that is started anew by now: its last state has the end of the run before.
    pub fn observe(&mut self, snapshot: &NodeSnapshot) -> Vec<Terminated> {
        let before = std::mem::replace(&mut self.seen, snapshot.clone());
        let mut ended = Vec::new();
        for change in before.pods.diff(&snapshot.pods) {
            match change {
                DiffItem::Add(_, pod) => ended.extend(self.between(&PodStatus::default(), &pod.status)),
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    ended.extend(self.between(&old.status, &new.status));
                }
                DiffItem::Remove(..) => {}
            }
        }
        ended
    }

    fn between(&self, old: &PodStatus, new: &PodStatus) -> Vec<Terminated> {
        let known: BTreeSet<Option<&str>> = ends(old).map(|(_, end)| end.container_id.as_deref()).collect();
        let is_new = |end: &ContainerStateTerminated| {
            let since =
                end.finished_at.as_ref().is_none_or(|at| at.0.as_nanosecond() >= i128::from(self.since));
            since && end.container_id.is_some() && !known.contains(&end.container_id.as_deref())
        };
        let new = ends(new).filter(|(_, end)| is_new(end)).map(|(container_type, end)| Terminated {
            container_type,
            exit_code: end.exit_code,
            reason: end.reason.clone().unwrap_or_default(),
        });
        new.collect()
    }
}

fn ends(status: &PodStatus) -> impl Iterator<Item = (&'static str, &ContainerStateTerminated)> {
    let lists = [
        ("container", &status.container_statuses),
        ("init_container", &status.init_container_statuses),
        ("ephemeral_container", &status.ephemeral_container_statuses),
    ];
    lists.into_iter().flat_map(|(kind, list)| {
        list.iter().flatten().flat_map(move |container| {
            let states = [&container.state, &container.last_state].into_iter().flatten();
            states.filter_map(move |state| Some((kind, state.terminated.as_ref()?)))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::node::published::PublishedPod;

    fn snapshot(statuses: &Value) -> NodeSnapshot {
        let status = json!({ "containerStatuses": statuses });
        let pod = PublishedPod {
            status: Arc::new(serde_json::from_value(status).unwrap()),
            ..PublishedPod::default()
        };
        let mut snapshot = NodeSnapshot::default();
        snapshot.pods.insert("u".into(), Arc::new(pod));
        snapshot
    }

    fn container(state: &Value, last: &Value) -> Value {
        json!([{ "name": "a", "image": "", "imageID": "", "restartCount": 0, "ready": false, "state": state,
            "lastState": last }])
    }

    fn end(id: &str, code: i32, at: &str) -> Value {
        json!({ "terminated": { "containerID": id, "exitCode": code, "reason": "Error", "finishedAt": at } })
    }

    #[test]
    fn each_end_is_told_once_and_none_from_before() {
        let (early, late) = ("1970-01-01T00:00:01Z", "1970-01-01T00:00:09Z");
        let mut terminations = Terminations::new(&NodeSnapshot::default(), 5_000_000_000);
        let mut codes = |statuses: Value| -> Vec<i32> {
            terminations.observe(&snapshot(&statuses)).into_iter().map(|ended| ended.exit_code).collect()
        };
        let running = json!({ "running": {} });
        assert_eq!(codes(container(&end("a", 1, early), &Value::Null)), [0; 0], "before the agent");
        assert_eq!(codes(container(&running, &end("a", 1, early))), [0; 0]);
        assert_eq!(codes(container(&end("b", 2, late), &end("a", 1, early))), [2]);
        assert_eq!(codes(container(&running, &end("b", 2, late))), [0; 0]);
        // It ended and runs again, seen at once.
        assert_eq!(codes(container(&running, &end("c", 3, late))), [3]);
        assert_eq!(codes(container(&end("e", 5, late), &end("d", 4, late))), [5, 4]);
    }
}
