//! What all pod workers share.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::CgroupError;
use crate::cgroup::driver::CgroupDriver;
use crate::cri::RuntimeClient;
use crate::cri::container_config::ContainerCgroups;
use crate::cri::dns::NodeDns;
use crate::image::ImagePuller;
use crate::instruments::workers::WorkerTimes;
use crate::probe::hook::Hooks;
use crate::runtime_class::RuntimeClasses;
use crate::spans::Spans;
use crate::trace::journal::Journal;
use crate::volume::VolumeManager;
use crate::volume::contents::Contents;
use oomlet_core::pod::PodUid;
use oomlet_core::pod::env::EnvFacts;
use oomlet_core::pod::qos::{CgroupResources, QosClass};

#[derive(Debug)]
pub struct WorkerContext {
    pub runtime: RuntimeClient,
    pub hooks: Hooks,
    pub runtime_classes: RuntimeClasses,
    pub times: WorkerTimes,
    /// What workers tell of their steps.
    pub journal: Arc<Journal>,
    /// The same for a collector of traces, where there is one.
    pub spans: Spans,
    pub images: ImagePuller,
    pub cgroups: Arc<dyn PodCgroups>,
    pub volumes: Arc<VolumeManager>,
    /// What volumes and environments are made from.
    pub contents: Arc<Contents>,
    /// kubelet's `--root-dir`.
    pub root_dir: PathBuf,
    /// kubelet's `podLogsDir`.
    pub pod_logs_dir: PathBuf,
    /// `pod_ips` is filled in for each pod.
    pub node: EnvFacts,
    /// MemTotal; Burstable `oom_score_adj` is relative to it.
    pub memory_capacity_bytes: u64,
    pub dns: NodeDns,
    /// `crashLoopBackOff.maxContainerRestartPeriod`.
    pub max_crash_backoff: Duration,
    /// `podPidsLimit`.
    pub pids_limit: Option<i64>,
    /// `seccompDefault`.
    pub seccomp_default: bool,
    pub container_cgroups: ContainerCgroups,
}

/// What a worker needs of the [`CgroupDriver`]; its own trait so that a worker's faults can be tested without
/// root. All calls block.
pub trait PodCgroups: Debug + Send + Sync {
    /// Makes the pod's cgroup and returns what the CRI is told as `cgroup_parent`. Idempotent.
    ///
    /// # Errors
    /// When the cgroup cannot be made or its limits not be set.
    fn ensure_pod(&self, uid: &PodUid, qos: QosClass, res: &CgroupResources) -> Result<String, CgroupError>;

    /// Idempotent.
    ///
    /// # Errors
    /// When processes are left in it.
    fn remove_pod(&self, uid: &PodUid, qos: QosClass) -> Result<(), CgroupError>;

    /// SIGKILL to every process in the pod's cgroup, its sandbox's pause process too; how many.
    ///
    /// # Errors
    /// When some do not end.
    fn kill_pod(&self, uid: &PodUid) -> Result<usize, CgroupError>;

    /// The same of one of its containers, by the runtime's id. `pod_ends`: a frozen pod is thawed for it.
    ///
    /// # Errors
    /// When some do not end.
    fn kill_container(&self, uid: &PodUid, id: &str, pod_ends: bool) -> Result<usize, CgroupError>;

    /// Process ids in one of its containers; none while it has no cgroup.
    ///
    /// # Errors
    /// When they cannot be read.
    fn container_processes(&self, uid: &PodUid, id: &str) -> Result<BTreeSet<i32>, CgroupError>;
}

impl PodCgroups for CgroupDriver {
    fn ensure_pod(&self, uid: &PodUid, qos: QosClass, res: &CgroupResources) -> Result<String, CgroupError> {
        CgroupDriver::ensure_pod(self, uid, qos, res)
    }

    fn remove_pod(&self, uid: &PodUid, qos: QosClass) -> Result<(), CgroupError> {
        CgroupDriver::remove_pod(self, uid, qos)
    }

    fn kill_pod(&self, uid: &PodUid) -> Result<usize, CgroupError> {
        CgroupDriver::kill_pod(self, uid)
    }

    fn kill_container(&self, uid: &PodUid, id: &str, pod_ends: bool) -> Result<usize, CgroupError> {
        CgroupDriver::kill_container(self, uid, id, pod_ends)
    }

    fn container_processes(&self, uid: &PodUid, id: &str) -> Result<BTreeSet<i32>, CgroupError> {
        CgroupDriver::container_processes(self, uid, id)
    }
}
