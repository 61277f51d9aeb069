//! How long a pod took from being seen, and from its creation, until all its containers had started. Owns the pods that are on
//! their way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use crate::node::published::{NodeSnapshot, PublishedPod};
use crate::pod::PodUid;

#[derive(Debug)]
pub struct Startups {
    seen: NodeSnapshot,
    /// Since when, Unix nanoseconds.
    on_their_way: BTreeMap<PodUid, i64>,
}

/// One that has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub pod: PodUid,
    pub since_seen: Duration,
    /// `None` for a static pod: nobody has created it.
    pub since_created: Option<Duration>,
    /// What its init containers took.
    pub initialising: Duration,
    /// Its network is the node's.
    pub host_network: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of each new pod, how many containers it has.
    pub new_pods: Vec<usize>,
    pub started: Vec<Started>,
}

impl Startups {
    /// Those that are there are nobody's start.
    #[must_use]
    pub fn new(snapshot: &NodeSnapshot) -> Startups {
        Startups { seen: snapshot.clone(), on_their_way: BTreeMap::new() }
    }

    pub fn observe(&mut self, snapshot: &NodeSnapshot, now_unix_ns: i64) -> Seen {
        let before = std::mem::replace(&mut self.seen, snapshot.clone());
        let mut seen = Seen::default();
        for change in before.pods.diff(&snapshot.pods) {
            let (uid, pod) = match change {
                DiffItem::Add(uid, pod) => {
                    self.on_their_way.insert(uid.clone(), now_unix_ns);
                    seen.new_pods.push(pod.pod.spec.as_ref().map_or(0, |spec| spec.containers.len()));
                    (uid, pod)
                }
                DiffItem::Update { new: (uid, pod), .. } => (uid, pod),
                DiffItem::Remove(uid, _) => {
                    self.on_their_way.remove(uid);
                    continue;
                }
            };
            if !has_started(pod) {
                continue;
            }
            if let Some(since) = self.on_their_way.remove(uid) {
                seen.started.push(started(uid, pod, since, now_unix_ns));
            }
        }
        seen
    }
}

fn has_started(pod: &Arc<PublishedPod>) -> bool {
    let wanted = pod.pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let has =
        |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    let begun = pod.status.container_statuses.iter().flatten().filter(|c| has(c)).count();
    pod.status.phase.as_deref() == Some("Running") && begun >= wanted && wanted > 0
}

fn started(uid: &PodUid, pod: &PublishedPod, since: i64, now: i64) -> Started {
    let is_static = pod.source.is_none_or(crate::node::event::PodSource::is_static);
    let created = pod.pod.metadata.creation_timestamp.as_ref().filter(|_| !is_static);
    let created = created.and_then(|at| i64::try_from(at.0.as_nanosecond()).ok());
    let passed = |from: i64| Duration::from_nanos(u64::try_from(now.saturating_sub(from)).unwrap_or(0));
    Started {
        pod: uid.clone(),
        since_seen: passed(since),
        since_created: created.map(passed),
        initialising: initialising(&pod.status),
        host_network: pod.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)),
    }
}

fn initialising(status: &PodStatus) -> Duration {
    let took = |c: &ContainerStatus| {
        let ended = c.state.as_ref()?.terminated.as_ref()?;
        let ns = ended.finished_at.as_ref()?.0.as_nanosecond() - ended.started_at.as_ref()?.0.as_nanosecond();
        u64::try_from(ns).ok().map(Duration::from_nanos)
    };
    status.init_container_statuses.iter().flatten().filter_map(took).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::node::event::PodSource;

    fn pod(phase: &str, running: bool, source: PodSource) -> Arc<PublishedPod> {
        let pod = json!({"metadata": {"uid": "u", "creationTimestamp": "1970-01-01T00:00:10Z"},
            "spec": {"containers": [{"name": "a"}]}});
        let state = if running { json!({"running": {}}) } else { json!({"waiting": {}}) };
        let status = json!({"phase": phase, "containerStatuses": [{"name": "a", "image": "", "imageID": "",
            "restartCount": 0, "ready": false, "state": state}],
            "initContainerStatuses": [{"name": "i", "image": "", "imageID": "", "restartCount": 0, "ready": true,
            "state": {"terminated": {"exitCode": 0, "startedAt": "1970-01-01T00:00:11Z",
                "finishedAt": "1970-01-01T00:00:13Z"}}}]});
        Arc::new(PublishedPod {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            status: Arc::new(serde_json::from_value(status).unwrap()),
            source: Some(source),
            ..PublishedPod::default()
        })
    }

    fn snapshot(pod: &Arc<PublishedPod>) -> NodeSnapshot {
        let mut snapshot = NodeSnapshot::default();
        snapshot.pods.insert("u".into(), Arc::clone(pod));
        snapshot
    }

    const S: i64 = 1_000_000_000;

    #[test]
    fn a_start_is_told_once() {
        let mut startups = Startups::new(&NodeSnapshot::default());
        let pending = snapshot(&pod("Pending", false, PodSource::Api));
        assert_eq!(startups.observe(&pending, 12 * S), Seen { new_pods: vec![1], started: Vec::new() });
        let running = snapshot(&pod("Running", true, PodSource::Api));
        let want = Started {
            pod: "u".into(),
            since_seen: Duration::from_secs(3),
            since_created: Some(Duration::from_secs(5)),
            initialising: Duration::from_secs(2),
            host_network: false,
        };
        assert_eq!(startups.observe(&running, 15 * S).started, [want]);
        let again = snapshot(&pod("Running", true, PodSource::Api));
        assert_eq!(startups.observe(&again, 20 * S), Seen::default());
    }

    #[test]
    fn what_ran_before_was_not_started_and_a_static_pod_not_created() {
        let running = snapshot(&pod("Running", true, PodSource::File));
        let mut startups = Startups::new(&running);
        assert_eq!(startups.observe(&NodeSnapshot::default(), S), Seen::default());
        let seen = startups.observe(&running, 2 * S);
        assert_eq!((seen.started[0].since_created, seen.started[0].since_seen), (None, Duration::ZERO));
    }
}
