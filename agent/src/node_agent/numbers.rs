//! The node's numbers: the tasks that read them, and the pages that show them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contexts::Shared;
use crate::cri::RuntimeClient;
use crate::instruments::Instruments;
use crate::pleg::PlegHandle;
use crate::stats::collect::Collector;
use crate::stats::disks::{DiskTask, Disks};
use crate::stats::startup::StartupTask;
use crate::stats::{Pages, proc};
use crate::trace::journal::Journal;
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::signal::Hierarchy;
use oomlet_core::stats::account::MemoryAccount;

/// What they use of the rest of the agent.
pub(super) struct Parts {
    pub instruments: Instruments,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub pleg: PlegHandle,
    pub journal: Arc<Journal>,
    pub memory: watch::Receiver<Arc<MemoryAccount>>,
}

/// Starts the tasks.
pub(super) async fn start(
    shared: &Shared<'_>,
    parts: Parts,
    (tracker, cancel): (&TaskTracker, &CancellationToken),
) -> Pages {
    let Parts { instruments, snapshots, pleg, journal, memory } = parts;
    let config = &shared.setup.config;
    let (disks, read_disks) = watch::channel(Arc::new(Disks::default()));
    let disk_task = DiskTask {
        runtime: shared.runtime.clone(),
        images: shared.images.clone(),
        volumes: Arc::clone(shared.volumes),
        root_dir: shared.setup.root_dir.clone(),
        pod_logs_dir: config.pod_logs_dir.clone(),
        snapshots: snapshots.clone(),
        period: config.numbers.volume_stats_agg_period,
        disks,
    };
    tracker.spawn(disk_task.run(cancel.clone()));
    let (numbers, read_numbers) = watch::channel(None);
    let collector = Collector {
        name: shared.node.facts.name.clone(),
        agent_started_ns: crate::stats::unix_ns(),
        driver: Arc::clone(shared.cgroups),
        root_dir: shared.setup.root_dir.clone(),
        memory,
        snapshots: snapshots.clone(),
        pleg: pleg.clone(),
        disks: read_disks,
        journal: Arc::clone(&journal),
        system_cgroups: system_cgroups(shared).await,
        sandbox_image: sandbox_image(shared.runtime).await,
        machine: proc::machine(),
        numbers,
    };
    tracker.spawn(collector.run(cancel.clone()));
    let startups = StartupTask {
        snapshots: snapshots.clone(),
        journal: Arc::clone(&journal),
        times: instruments.workers.clone(),
    };
    tracker.spawn(startups.run(cancel.clone()));
    Pages {
        node_name: shared.node.facts.name.as_str().into(),
        in_cluster: shared.setup.cluster.kubeconfig.is_some(),
        cgroup_version: match shared.cgroups.memory_hierarchy() {
            Hierarchy::MemoryV1 => 1,
            Hierarchy::Unified => 2,
        },
        numbers: read_numbers,
        snapshots,
        pleg,
        instruments,
        journal,
    }
}

/// The agent's own, the runtime's, and those of everything else where the configuration names them.
async fn system_cgroups(shared: &Shared<'_>) -> BTreeMap<&'static str, String> {
    let config = &shared.setup.config.numbers;
    let mut cgroups = BTreeMap::new();
    cgroups.extend(
        config.kubelet_cgroups.clone().or_else(|| proc::cgroup_of("self")).map(|path| ("kubelet", path)),
    );
    cgroups.extend(
        runtime_cgroup(&shared.setup.config.container_runtime_endpoint).await.map(|path| ("runtime", path)),
    );
    cgroups.extend(config.system_cgroups.clone().map(|path| ("misc", path)));
    cgroups
}

/// Of the process at the other end of the socket. `None`: it is not one of this process namespace.
async fn runtime_cgroup(endpoint: &str) -> Option<String> {
    let path =
        endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    let pid = UnixStream::connect(path).await.ok()?.peer_cred().ok()?.pid().filter(|pid| *pid > 0)?;
    proc::cgroup_of(&pid.to_string())
}

/// Empty where the runtime does not tell.
async fn sandbox_image(runtime: &RuntimeClient) -> String {
    runtime.sandbox_image().await.ok().flatten().unwrap_or_default()
}
