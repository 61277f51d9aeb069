//! Everything that can happen to the node, as one closed enum.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};

use crate::brake::Held;
use crate::clock::Mono;
use crate::eviction::resources::ResourceAnswer;
use crate::pod::containers::{ListedContainer, ListedSandbox};
use crate::pod::order::WorkerReport;
use crate::pod::probe::ProbeReport;
use crate::pod::{Pod, PodRef, PodUid};
use crate::signal::attribution::Target;
use crate::signal::{CgroupId, KernelEvent, MemoryReading};

#[derive(Clone, Debug)]
pub enum Event {
    /// A pod source's complete, current list.
    Pods(PodUpdate),
    /// What has come, gone or changed of a source's pods since its last list.
    PodsChanged(PodChanges),
    /// A source cannot be reached. What the last run of the agent knew of its pods holds until it can.
    SourceSilent(PodSource),
    /// The labels and taints that the Node object has, whoever gave them to it.
    NodeObject { labels: BTreeMap<String, String>, taints: Vec<Taint> },
    /// PLEG saw something change in the runtime.
    Lifecycle(PodLifecycleEvent),
    /// PLEG finished a relist: everything the runtime has, by pod.
    Relisted(RuntimePods),
    /// A record from the eBPF programs.
    Kernel(KernelEvent),
    /// The ring buffer cannot be read any more, and why: the sampler is alone from here on.
    KernelSilent(String),
    /// Fresh numbers from the cgroup files.
    Reading(MemoryReading),
    /// Disks, process ids and images: what was read or cleared up.
    Resources(ResourceAnswer),
    /// Pods that have cgroups or volumes on the node at start.
    Leftovers(Vec<PodUid>),
    /// What these cgroups are in Kubernetes' terms.
    Cgroups(Vec<(CgroupId, Target)>),
    /// A pod or container that is to be held cannot be, and why.
    BrakeFailed { held: Held, error: String },
    /// A pod worker finished a piece of work.
    Worker(WorkerReport),
    /// A probe has something new to tell.
    Probe(ProbeReport),
    /// The runtime stopped answering (`Err`: why) or answers again.
    Runtime(Result<(), String>),
    /// ConfigMaps or Secrets that these pods name have changed: what failed for want of them may succeed now.
    ObjectsChanged(Vec<PodUid>),
    /// The time for which the state asked to be woken has come.
    Tick,
}

/// A complete list, so what was lost before heals with it.
#[derive(Clone, Debug)]
pub struct PodUpdate {
    pub source: PodSource,
    /// Valid pods, defaulted, each with uid, namespace and name.
    pub pods: Vec<SourcePod>,
    /// Manifests that do not count. A pod that an earlier version of a file named runs on while the file cannot be read.
    pub rejected: Vec<RejectedManifest>,
}

/// Of a source that knows each change by itself, once it has sent its list. No pod is both named and gone.
#[derive(Clone, Debug)]
pub struct PodChanges {
    pub source: PodSource,
    pub named: Vec<SourcePod>,
    /// The source has them no more.
    pub gone: Vec<PodUid>,
}

/// A valid pod and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct SourcePod {
    /// The manifest file, or the URL; of a pod from the API server its path there.
    pub path: PathBuf,
    pub pod: Arc<Pod>,
    /// The manifest gives the pod its UID (`metadata.uid`), which then says nothing of its content: an edit of it is of the
    /// same pod. Always so with the API server.
    pub own_uid: bool,
}

/// Who names pods. In this order where two sources name one pod and nothing else decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PodSource {
    /// `staticPodPath`.
    File,
    /// `staticPodURL`.
    Http,
    /// The API server.
    Api,
}

impl PodSource {
    /// As kubelet's annotation `kubernetes.io/config.source` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PodSource::File => "file",
            PodSource::Http => "http",
            PodSource::Api => "api",
        }
    }

    /// Its pods are static: a manifest stands for the wish to run the pod on this node, and nobody else makes another
    /// in place of one that has failed.
    #[must_use]
    pub const fn is_static(self) -> bool {
        match self {
            PodSource::File | PodSource::Http => true,
            PodSource::Api => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedManifest {
    pub path: PathBuf,
    /// Names the thing and the remedy.
    pub error: String,
    /// It can be read, and another manifest names its pod: a pod that it named before is not kept for it.
    pub duplicate: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLifecycleEvent {
    pub pod: PodUid,
    pub kind: PodLifecycleEventKind,
    /// Container or sandbox id.
    pub id: String,
}

/// kubelet's PLEG event types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodLifecycleEventKind {
    ContainerStarted,
    ContainerDied,
    ContainerRemoved,
    PodSandboxChanged,
}

/// The runtime's whole list at one moment.
#[derive(Clone, Debug, Default)]
pub struct RuntimePods {
    /// When the listing began: what happened since may or may not be in it.
    pub listed_at: Mono,
    pub pods: Vec<RuntimePod>,
}

#[derive(Clone, Debug)]
pub struct RuntimePod {
    pub pod: PodRef,
    /// Newest first.
    pub containers: Vec<ListedContainer>,
    pub sandboxes: Vec<ListedSandbox>,
}
