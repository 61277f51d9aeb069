//! What tasks are given of the rest of the agent.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Setup, facts};
use crate::cgroup::driver::CgroupDriver;
use crate::container_log::keeper::LogKeeper;
use crate::container_log::rotation::LogRotation;
use crate::cri::container_config::ContainerCgroups;
use crate::cri::{ImageClient, RuntimeClient};
use crate::image::ImagePuller;
use crate::instruments::workers::WorkerTimes;
use crate::node_resources::{PidsCgroups, ResourceContext};
use crate::pod_worker::{PodCgroups, WorkerContext};
use crate::probe::HttpError;
use crate::probe::hook::Hooks;
use crate::runtime_class::RuntimeClasses;
use crate::spans::Spans;
use crate::trace::journal::Journal;
use crate::volume::VolumeManager;
use crate::volume::contents::Contents;
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::env::EnvFacts;

/// What more than one of them needs.
pub(super) struct Shared<'a> {
    pub setup: &'a Setup,
    pub node: &'a facts::Node,
    pub runtime: &'a RuntimeClient,
    pub images: &'a ImageClient,
    pub cgroups: &'a Arc<CgroupDriver>,
    pub volumes: &'a Arc<VolumeManager>,
    pub times: &'a WorkerTimes,
}

pub(super) fn env_facts(node: &facts::Node) -> EnvFacts {
    EnvFacts {
        node_name: node.facts.name.clone(),
        host_ip: node.host_ips.first().cloned().unwrap_or_default(),
        pod_ips: Vec::new(),
        allocatable: node.facts.allocatable,
    }
}

pub(super) fn worker_context(
    shared: &Shared<'_>,
    contents: Arc<Contents>,
    (journal, spans): (Arc<Journal>, Spans),
    runtime_classes: RuntimeClasses,
    container_cgroups: ContainerCgroups,
) -> Result<WorkerContext, HttpError> {
    let config = &shared.setup.config;
    Ok(WorkerContext {
        spans,
        hooks: Hooks::new(shared.runtime.clone())?,
        runtime_classes,
        runtime: shared.runtime.clone(),
        times: shared.times.clone(),
        journal,
        images: ImagePuller::new(
            shared.images.clone(),
            facts::parallel_pulls(config),
            shared.times.images.clone(),
        ),
        cgroups: Arc::clone(shared.cgroups) as Arc<dyn PodCgroups>,
        volumes: Arc::clone(shared.volumes),
        contents,
        root_dir: shared.setup.root_dir.clone(),
        pod_logs_dir: config.pod_logs_dir.clone(),
        node: env_facts(shared.node),
        memory_capacity_bytes: shared.node.memory_capacity_bytes,
        dns: facts::dns(config),
        max_crash_backoff: config.max_container_restart_period,
        pids_limit: config.pod_pids_limit,
        seccomp_default: config.seccomp_default,
        container_cgroups,
    })
}

pub(super) fn log_keeper(
    shared: &Shared<'_>,
    snapshots: watch::Receiver<Arc<NodeSnapshot>>,
) -> Arc<LogKeeper> {
    let (config, runtime) = (&shared.setup.config, shared.runtime.clone());
    Arc::new(LogKeeper::new(runtime, snapshots, config.pod_logs_dir.clone(), config.oomlet.logs.keep))
}

pub(super) fn log_rotation(
    shared: &Shared<'_>,
    snapshots: watch::Receiver<Arc<NodeSnapshot>>,
) -> LogRotation {
    let config = &shared.setup.config;
    LogRotation {
        runtime: shared.runtime.clone(),
        snapshots,
        pod_logs_dir: config.pod_logs_dir.clone(),
        policy: config.container_log.clone(),
    }
}

pub(super) fn resource_context(shared: &Shared<'_>, log_keeper: Arc<LogKeeper>) -> ResourceContext {
    ResourceContext {
        log_keeper,
        runtime: shared.runtime.clone(),
        images: shared.images.clone(),
        cgroups: Arc::clone(shared.cgroups) as Arc<dyn PidsCgroups>,
        volumes: Arc::clone(shared.volumes),
        root_dir: shared.setup.root_dir.clone(),
        pod_logs_dir: shared.setup.config.pod_logs_dir.clone(),
        gc_policy: shared.setup.config.image_gc,
        counts: shared.times.images.clone(),
    }
}
