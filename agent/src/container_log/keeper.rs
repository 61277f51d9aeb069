//! Keeps the logs of pods that are gone for a while, and removes them then: what a pod said is to be read after its manifest
//! has been changed, and log shippers get to its end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::dir;
use crate::clock;
use crate::cri::{CriError, RuntimeClient};
use oomlet_core::container_log::KeptLogs;
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::{PodRef, PodUid};

/// How often it is looked whose time is over, unless they are to be kept for less.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LEAST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct LogKeeper {
    runtime: RuntimeClient,
    snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pod_logs_dir: PathBuf,
    keep: Duration,
    kept: Mutex<KeptLogs>,
}

impl LogKeeper {
    #[must_use]
    pub fn new(
        runtime: RuntimeClient,
        snapshots: watch::Receiver<Arc<NodeSnapshot>>,
        pod_logs_dir: PathBuf,
        keep: Duration,
    ) -> LogKeeper {
        LogKeeper { runtime, snapshots, pod_logs_dir, keep, kept: Mutex::default() }
    }

    pub async fn run(self: Arc<LogKeeper>, cancel: CancellationToken) {
        let every = self.keep.clamp(LEAST, LOOK_EVERY);
        loop {
            // Cancel-safe: what is half removed is removed after the next start.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = async {
                    tokio::time::sleep(every).await;
                    self.look().await;
                } => {}
            }
        }
    }

    async fn look(&self) {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        // Before all pods are named, any of them may be.
        if !snapshot.node.sources_ready {
            return;
        }
        let root = self.pod_logs_dir.clone();
        let dirs = match spawn_blocking(move || dir::names(&root)).await {
            Ok(Ok(dirs)) => dirs,
            Ok(Err(error)) => {
                tracing::warn!(%error, dir = %self.pod_logs_dir.display(), "logs of pods that are gone stay");
                return;
            }
            Err(_) => return,
        };
        let known = |uid: &PodUid| snapshot.pods.contains_key(uid);
        let due = self.with_kept(|kept| kept.due(&dirs, known, self.keep, clock::now()));
        for why in self.remove(due).await {
            tracing::warn!(why, "logs of a pod that is gone stay");
        }
    }

    fn with_kept<T>(&self, act: impl FnOnce(&mut KeptLogs) -> T) -> T {
        act(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All that are kept, for their room; what went wrong.
    pub async fn remove_all(&self) -> Vec<String> {
        let kept = self.with_kept(|kept| kept.all());
        let snapshot = Arc::clone(&self.snapshots.borrow());
        self.remove(kept.into_iter().filter(|pod| !snapshot.pods.contains_key(&pod.uid)).collect()).await
    }

    /// But for those of which the runtime still has something: they are being ended, however long that takes.
    async fn remove(&self, pods: Vec<PodRef>) -> Vec<String> {
        if pods.is_empty() {
            return Vec::new();
        }
        let there = match self.in_runtime().await {
            Ok(there) => there,
            Err(error) => return vec![format!("what still runs is not known: {error}")],
        };
        let root = self.pod_logs_dir.clone();
        let removed = spawn_blocking(move || {
            let gone = pods.iter().filter(|pod| !there.contains(&pod.uid));
            let remove = |pod: &PodRef| {
                let removed = dir::remove_pod(&root, pod);
                removed.err().map(|error| format!("the logs of pod {pod} cannot be removed: {error}"))
            };
            gone.filter_map(remove).collect()
        });
        removed.await.unwrap_or_else(|error| vec![format!("removing logs failed: {error}")])
    }

    async fn in_runtime(&self) -> Result<BTreeSet<PodUid>, CriError> {
        let sandboxes = self.runtime.list_sandboxes(None).await?.into_iter().map(|sandbox| sandbox.pod.uid);
        let containers =
            self.runtime.list_containers(None).await?.into_iter().map(|container| container.pod.uid);
        Ok(sandboxes.chain(containers).collect())
    }
}

#[cfg(test)]
mod tests {
    use oomlet_core::node::published::{PublishedNode, PublishedPod};

    use super::*;
    use crate::cri::Connection;
    use crate::cri::fake::{FakeRuntime, labels};

    #[tokio::test]
    async fn logs_of_nobody_go_and_those_of_a_pod_that_is_being_ended_stay() {
        let fake = FakeRuntime::start();
        let dir = tempfile::tempdir().unwrap();
        for uid in ["known", "gone", "ends"] {
            std::fs::create_dir_all(dir.path().join(format!("ns_web_{uid}/c"))).unwrap();
        }
        let container = k8s_cri::v1::ContainerStatus {
            id: "1".into(),
            labels: labels("ends", "c"),
            metadata: Some(k8s_cri::v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            ..Default::default()
        };
        fake.state().containers.push(("s".into(), container));
        let mut snapshot = NodeSnapshot::default();
        snapshot.pods.insert("known".into(), Arc::new(PublishedPod::default()));
        let (told, snapshots) = watch::channel(Arc::new(snapshot.clone()));
        let runtime = RuntimeClient::new(&Connection::open(&fake.endpoint(), LOOK_EVERY).unwrap());
        let keeper = LogKeeper::new(runtime, snapshots, dir.path().to_owned(), Duration::ZERO);
        let there = || {
            let mut names = dir::names(dir.path()).unwrap();
            names.sort();
            names
        };
        for _ in 0..3 {
            keeper.look().await;
        }
        assert_eq!(there().len(), 3, "not all pods are named yet");
        snapshot.node = PublishedNode { sources_ready: true, ..PublishedNode::default() };
        told.send_replace(Arc::new(snapshot));
        keeper.look().await;
        assert_eq!(there().len(), 3, "it may have just come");
        fake.fail("ListContainers", tonic::Code::Unavailable, "away");
        keeper.look().await;
        assert_eq!(there().len(), 3);
        fake.heal("ListContainers");
        keeper.look().await;
        assert_eq!(there(), ["ns_web_ends", "ns_web_known"]);
        fake.state().containers.clear();
        assert_eq!(keeper.remove_all().await, [""; 0]);
        assert_eq!(there(), ["ns_web_known"]);
    }
}
