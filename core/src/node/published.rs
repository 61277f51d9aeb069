//! A pod as everybody outside of the SyncLoop sees it: what is saved to disk, shown to people and, later, told to an API
//! server. Made anew only where it differs from what was published before.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use imbl::OrdMap;
use k8s_openapi::api::core::v1::PodStatus;
use serde::{Deserialize, Serialize};

use crate::node::event::PodSource;
use crate::pod::{Pod, PodRef, PodUid};
use crate::reason::Reason;

#[derive(Clone, Debug, Default)]
pub struct PublishedPod {
    /// The manifest with its defaults; its own `status` counts for nothing.
    pub pod: Arc<Pod>,
    pub status: Arc<PodStatus>,
    /// Who names it; `None`: nobody, it was found on the node.
    pub source: Option<PodSource>,
    /// The static pod manifest it came from.
    pub manifest_path: Option<PathBuf>,
    /// Why the pod may not run (again), when it may not.
    pub failure: Option<Failure>,
    /// Containers that were stopped before they reached their memory limit: id, and the message of their status.
    pub forestalled: BTreeMap<String, String>,
    pub probing: Probing,
    pub lifecycle: Lifecycle,
    /// The status is what was known when the agent last ran, of a pod that had not ended: nobody has looked at it since, and
    /// others may know better.
    pub as_saved: bool,
}

/// How far the pod is, in the words of kubelet's pod workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifecycle {
    /// It is to run, or waits to.
    #[default]
    Sync,
    Terminating,
    /// Nothing of it runs any more.
    Terminated,
}

impl Lifecycle {
    pub const ALL: [Lifecycle; 3] = [Lifecycle::Sync, Lifecycle::Terminating, Lifecycle::Terminated];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Lifecycle::Sync => "sync",
            Lifecycle::Terminating => "terminating",
            Lifecycle::Terminated => "terminated",
        }
    }
}

/// What of a pod's health is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probing {
    /// It does not run, or nobody has taken it over yet.
    #[default]
    Nothing,
    /// It is being ended, and is out of its Services as soon as it does not answer.
    Readiness,
    All,
}

/// Another manifest is a difference without being read: it is replaced as a whole.
impl PartialEq for PublishedPod {
    fn eq(&self, other: &PublishedPod) -> bool {
        Arc::ptr_eq(&self.pod, &other.pod)
            && (Arc::ptr_eq(&self.status, &other.status) || self.status == other.status)
            && self.source == other.source
            && self.manifest_path == other.manifest_path
            && self.failure == other.failure
            && self.forestalled == other.forestalled
            && self.probing == other.probing
            && self.lifecycle == other.lifecycle
            && self.as_saved == other.as_saved
    }
}

impl From<&SavedPod> for PublishedPod {
    fn from(saved: &SavedPod) -> PublishedPod {
        let mut pod = saved.pod.clone();
        let status = Arc::new(pod.status.take().unwrap_or_default());
        PublishedPod {
            pod: Arc::new(pod),
            as_saved: !has_ended(&status),
            status,
            source: saved.source,
            manifest_path: saved.manifest_path.clone(),
            failure: saved.failure.clone(),
            forestalled: saved.forestalled.clone(),
            probing: Probing::Nothing,
            lifecycle: Lifecycle::Sync,
        }
    }
}

/// For good: nothing changes of it any more.
pub(in crate::node) fn has_ended(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

impl PublishedPod {
    /// As it goes to disk.
    #[must_use]
    pub fn to_saved(&self) -> SavedPod {
        SavedPod {
            pod: Pod { status: Some(self.status.as_ref().clone()), ..self.pod.as_ref().clone() },
            source: self.source,
            manifest_path: self.manifest_path.clone(),
            failure: self.failure.clone(),
            forestalled: self.forestalled.clone(),
        }
    }
}

/// What holds for the node as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedNode {
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
    /// Why the container runtime does not answer, when it does not.
    pub runtime_error: Option<String>,
    /// All configured sources have named their pods: a pod that is not here is not wanted.
    pub sources_ready: bool,
}

/// All published pods at one moment. A copy costs nothing, and so does a change of one pod: the rest is shared.
#[derive(Clone, Debug, Default)]
pub struct NodeSnapshot {
    pub pods: OrdMap<PodUid, Arc<PublishedPod>>,
    /// Pods that were deleted and of which nothing is left on the node, while their source still names them: as they were
    /// last.
    pub ended: OrdMap<PodUid, Arc<PublishedPod>>,
    pub node: PublishedNode,
}

impl NodeSnapshot {
    /// As the last run of the agent left it on disk.
    #[must_use]
    pub fn of_saved(saved: &[SavedPod]) -> NodeSnapshot {
        let pods = saved.iter().map(|s| (s.uid(), Arc::new(PublishedPod::from(s)))).collect();
        NodeSnapshot { pods, ..NodeSnapshot::default() }
    }
}

/// A pod as it stands on disk, `<root-dir>/oomlet/pods/<uid>.json`: for `oomlet pods`, and for the next start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedPod {
    /// The manifest with its defaults, and the current status.
    pub pod: Pod,
    /// Who named it. An agent before there were several sources did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PodSource>,
    /// The static pod manifest it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_path: Option<PathBuf>,
    /// Why the pod may not run (again), when it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Containers that were stopped before they reached their memory limit: id, and the message of their status.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub forestalled: BTreeMap<String, String>,
}

impl SavedPod {
    #[must_use]
    pub fn uid(&self) -> PodUid {
        PodRef::of(&self.pod).uid
    }

    /// Who named it; where nobody wrote it down it was a file.
    #[must_use]
    pub fn source(&self) -> PodSource {
        self.source.unwrap_or(PodSource::File)
    }
}

/// Why a pod is Failed: evicted, or never admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: Reason,
    pub message: String,
    /// It had been running: condition DisruptionTarget.
    pub disruption: bool,
}

impl Failure {
    /// Its time was over: it ran as long as it was to, and has Failed when it has ended.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.reason == Reason::DeadlineExceeded
    }

    /// It had been admitted.
    #[must_use]
    pub fn had_run(&self) -> bool {
        self.disruption || self.is_overdue()
    }
}
