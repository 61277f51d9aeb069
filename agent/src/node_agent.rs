//! The agent as a whole: start order, wiring, shutdown. Shell; decides nothing.
//!
//! | task | thread | in | out |
//! |---|---|---|---|
//! | SyncLoop with ring buffer | its own | all events | orders, readings, trace |
//! | pod sources: files, a server | workers | manifests | `Event::Pods` |
//! | what talks to the API server, see [`crate::apiserver`] | workers | pods, snapshots | `Event::PodsChanged`, requests |
//! | PLEG | workers | CRI | `Event::Relisted`, `Lifecycle`, `Runtime` |
//! | pod workers, one a pod | workers | orders | `Event::Worker` |
//! | volumes' content | workers | ConfigMaps, Secrets, tokens' times | files, `Event::ObjectsChanged` |
//! | prober | workers | published pods, who is held | `Event::Probe` |
//! | node resources | workers | orders, disks, CRI | `Event::Resources` |
//! | containers' logs: rotation, removal | workers | published pods | files, CRI |
//! | QoS classes' shares | workers | orders | cgroups |
//! | the node's own API, see [`crate::node_api`] | its own two | requests | answers |
//! | limit of all pods, until it can be set | workers | usage, pods that have gone | cgroup, records |
//! | pod store, trace file, trace server | workers | saved pods, records | files, gRPC |
//! | numbers, disks, starts of pods | workers | readings, CRI, pods | pages of the node's API |
//! | watchdog, where systemd asks for it | its own | the loop's heartbeat | pings |
//!
//! Stopping leaves every pod running: the loop ends, workers finish the call they are in or drop it, files are written.

mod beginning;
mod brakes;
mod cgroup_driver;
mod cluster;
mod cluster_options;
mod contents;
mod contexts;
mod error;
mod facts;
mod loop_thread;
mod node_api;
mod numbers;
pub(crate) mod protect;
mod root_lock;
mod service_manager;
mod sources;
mod state_config;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::class_updates::ClassUpdates;
use crate::cgroup::driver::{self, CgroupDriver};
use crate::cgroup::kubepods_limit::{KubepodsLimit, KubepodsLimitHandle};
use crate::cgroup::stats::MemoryFiles;
use crate::clock;
use crate::content_store::ContentStore;
use crate::cri::{Connection, ImageClient, RuntimeClient};
use crate::instruments::Instruments;
use crate::node_api::Sockets;
use crate::node_resources::NodeResources;
use crate::pleg::{self, PlegHandle};
use crate::pod_source::TakenOver;
use crate::pod_store::PodStore;
use crate::pod_worker::PodWorkers;
use crate::probe::{ContainerProcesses, NodeChecks};
use crate::prober::ProberTask;
use crate::prober::counted::CountedProbes;
use crate::runtime_class::RuntimeClasses;
use crate::spans::Spans;
use crate::sync_loop::execute::Executor;
use crate::sync_loop::heartbeat::Heartbeat;
use crate::sync_loop::outlet::Outlet;
use crate::trace::journal::{FileWriter, Journal};
use crate::trace::wire;
use crate::volume::VolumeManager;
use beginning::{load_kernel, load_saved, tell_start};
pub use cluster_options::ClusterOptions;
use contexts::{Shared, env_facts, log_keeper, log_rotation, resource_context, worker_context};
pub use error::NodeAgentError;
use loop_thread::LoopParts;
use oomlet_core::clock::Mono;
use oomlet_core::config::Config;
use oomlet_core::node::event::Event;
use oomlet_core::node::prober::Prober;
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::node::state::State;
use oomlet_core::pod::PodUid;
use oomlet_core::reason::Reason;
use oomlet_core::signal::attribution::Target;
use oomlet_core::trace::record::{Kind, Record};
pub use root_lock::RootLockError;
use service_manager::Watchdog;

/// Events on their way to the loop. Senders wait when it is full: each of them has its own task.
const EVENT_QUEUE: usize = 1024;
/// How long tasks may take to end after SIGTERM.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(5);
/// A far deadline of the loop is looked at again after this time.
const LONGEST_REST: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub struct Setup {
    pub config: Config,
    /// The whole KubeletConfiguration in effect, as `/configz` shows it.
    pub effective_config: serde_json::Value,
    pub root_dir: PathBuf,
    /// `--hostname-override`.
    pub hostname: Option<String>,
    pub cluster: ClusterOptions,
}

/// Where the agent answers `oomlet trace`.
#[must_use]
pub fn trace_socket(root_dir: &Path) -> PathBuf {
    root_dir.join("oomlet/trace.sock")
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start; pods that run are left alone then.
pub fn run(setup: Setup) -> Result<(), NodeAgentError> {
    if !rustix::process::geteuid().is_root() {
        return Err(NodeAgentError::NotRoot);
    }
    let _lock = root_lock::take(&setup.root_dir)?;
    brakes::release_leftovers(&setup.config.cgroup_root);
    protect::lower_oom_score(setup.config.oom_score_adj);
    // Two workers are enough: what they do is wait for the runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()?;
    let result = runtime.block_on(start(setup));
    // A blocking call into a hung file system must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn start(setup: Setup) -> Result<(), NodeAgentError> {
    let config = &setup.config;
    let sockets = Sockets::bind(config)?;
    let instruments = Instruments::default();
    instruments.node_startup.began(clock::now().since(Mono::ZERO));
    let open = |endpoint: &str| {
        Connection::open(endpoint, config.runtime_request_timeout)
            .map(|connection| connection.counted(instruments.runtime.clone()))
    };
    let connection = open(&config.container_runtime_endpoint)?;
    let version = connection.check().await?;
    tracing::info!(runtime = version.runtime_name, version = version.runtime_version, "container runtime");
    let images = match &config.image_service_endpoint {
        Some(endpoint) => ImageClient::new(&open(endpoint)?),
        None => ImageClient::new(&connection),
    };
    let node = facts::gather(&setup)?;
    let client = RuntimeClient::new(&connection);
    let recursive_read_only = client.status().await?.has_recursive_read_only_mounts();
    let driver = cgroup_driver::choose(config.cgroup_driver, &client).await?;
    let options = driver::Options { cgroup_root: config.cgroup_root.clone(), driver };
    let cgroups = Arc::new(CgroupDriver::open(options)?);
    facts::refuse_node(config, cgroups.memory_hierarchy())?;
    let oom_kill_group = facts::oom_kill_group(config.single_process_oom_kill, cgroups.memory_hierarchy())?;
    let lower_later = KubepodsLimit::set(&cgroups, node.kubepods, node.eviction_hard_bytes)?;
    let guard = brakes::guard(config);
    let memory = MemoryFiles::open(&cgroups)?;
    let pressure = facts::pressure_files(config.oomlet.eviction.psi)?;
    let volumes = VolumeManager::new(&setup.root_dir)
        .timed(instruments.storage.clone())
        .with_node_allocatable_bytes(node.facts.allocatable.memory_bytes)
        .with_recursive_read_only(recursive_read_only);
    let volumes = Arc::new(volumes);
    let saved = load_saved(&setup.root_dir)?;
    let (outlet, snapshots) = Outlet::new(NodeSnapshot::of_saved(&saved));
    let taken_over = TakenOver::new(client.static_pods_of_kubelet().await?, &saved);
    let store = PodStore::open(&setup.root_dir, snapshots.clone())?;
    let (journal, file_writer) =
        Journal::open(config.oomlet.trace.journal_records, config.oomlet.trace.file.as_deref())?;
    let cancel = CancellationToken::new();
    let server = wire::serve(&trace_socket(&setup.root_dir), Arc::clone(&journal), cancel.clone())?;

    let kernel = load_kernel(config);
    protect::lock_memory();
    let (events, receiver) = mpsc::channel(EVENT_QUEUE);
    let tracker = TaskTracker::new();
    let pleg = PlegHandle::timed(instruments.pleg.clone());
    let processes = Arc::clone(&cgroups) as Arc<dyn ContainerProcesses>;
    let checks = Arc::new(NodeChecks::new(client.clone(), processes)?);
    let shared = Shared {
        setup: &setup,
        node: &node,
        runtime: &client,
        images: &images,
        cgroups: &cgroups,
        volumes: &volumes,
        times: &instruments.workers,
    };
    let log_keeper = log_keeper(&shared, snapshots.clone());
    tracker.spawn(Arc::clone(&log_keeper).run(cancel.clone()));
    tracker.spawn(log_rotation(&shared, snapshots.clone()).run(cancel.clone()));
    let resources = resource_context(&shared, log_keeper);
    let parts = cluster::Parts {
        snapshots: snapshots.clone(),
        pleg: pleg.clone(),
        runtime: client.clone(),
        images: images.clone(),
        events: events.clone(),
        journal: Arc::clone(&journal),
        instruments: instruments.clone(),
    };
    let session = cluster::session(&setup, &node, &version, parts, (&tracker, &cancel));
    let clients = session.as_ref().map(|session| session.client.subscribe());
    let to_api_server = session.as_ref().map(|session| session.connection.clone());
    if let Some(session) = session {
        tracker.spawn(session.run(cancel.clone()));
    }
    let heartbeat = Arc::new(Heartbeat::new(clock::now()));
    let account = watch::Sender::default();
    let parts = numbers::Parts {
        instruments: instruments.clone(),
        snapshots: snapshots.clone(),
        pleg: pleg.clone(),
        journal: Arc::clone(&journal),
        memory: account.subscribe(),
    };
    let pages = numbers::start(&shared, parts, (&tracker, &cancel)).await;
    let parts = node_api::Parts {
        sockets,
        runtime: client.clone(),
        snapshots: snapshots.clone(),
        heartbeat: Arc::clone(&heartbeat),
        clients: clients.clone(),
        connection: to_api_server,
        pages,
    };
    let _serves = node_api::start(&setup, &node, parts, (&tracker, &cancel))?;
    let tasks = (&tracker, &events, &cancel);
    // Standalone everything is on the node anyway.
    let kept = clients.as_ref().map(|_| ContentStore::open(&setup.root_dir)).unwrap_or_default();
    let kept_of = kept.pods();
    let runtime_classes = RuntimeClasses::new(clients.clone());
    let from = (clients, kept);
    let contents =
        contents::make((config, &setup.root_dir), from, env_facts(&node), (&volumes, &journal), tasks)
            .await?;
    let spans = Spans::to_collector(config.tracing.as_ref(), &node.facts.name)?;
    let told = (Arc::clone(&journal), spans.clone());
    let container_cgroups = facts::container_cgroups(oom_kill_group, &cgroups);
    let context = worker_context(&shared, contents, told, runtime_classes, container_cgroups)?;
    let runtime = (version.runtime_name.as_str(), recursive_read_only);
    let of_state = state_config::of(&setup, &node, &kernel, saved, runtime, oom_kill_group);
    let prober = Prober::new(clock::now(), of_state.unix_offset_ns);
    let state = State::new(of_state);
    let status = tell_start(&journal, &kernel, &node);

    spawn_tasks(&tracker, &cancel, Tasks { store, file_writer, server, journal: &journal });
    tracker.spawn(pleg::run(client, pleg.clone(), events.clone(), config.sync_frequency, cancel.clone()));
    sources::watch(&setup, (&node.facts.name, taken_over), &tracker, (&events, &cancel))?;
    let limit_handle = lower_later.map(|limit| {
        let handle = KubepodsLimitHandle::default();
        tracker.spawn(limit.run(handle.clone(), Arc::clone(&journal), cancel.clone()));
        handle
    });
    let workers = PodWorkers::new(Arc::new(context), events.clone(), tracker.clone(), cancel.clone());
    first_events(&events, &cgroups, &volumes, kept_of).await;
    let (resources, resource_task) = NodeResources::new(resources, events.clone(), cancel.clone());
    tracker.spawn(resource_task);
    let (classes, class_updates) = ClassUpdates::new(Arc::clone(&cgroups), cancel.clone());
    tracker.spawn(class_updates);
    let mut executor = Executor::new(workers, memory, cgroups, classes, kernel, pleg, (outlet, resources));
    executor.account = account;
    executor.guard = guard;
    executor.pressure = pressure;
    executor.kubepods_limit = limit_handle;
    let held = executor.held.subscribe();
    let counted = CountedProbes::new(instruments.probes.clone());
    tracker.spawn(ProberTask { prober, checks, snapshots, held, events, counted }.run(cancel.clone()));
    let watchdog = Watchdog::of_environment();
    let parts = LoopParts {
        state,
        executor,
        receiver,
        journal: Arc::clone(&journal),
        heartbeat: Arc::clone(&heartbeat),
        turns: instruments.turns.clone(),
        longest_rest: watchdog.map_or(LONGEST_REST, Watchdog::longest_rest),
    };
    let loop_ended = loop_thread::spawn(parts, cancel.clone())?;
    let pinging = watchdog.map(|watchdog| watchdog.ping(heartbeat)).transpose()?;
    service_manager::started(&status);

    wait_for_signal(&loop_ended).await?;
    service_manager::stopping();
    drop(pinging);
    journal.publish(Record::new(clock::now(), Kind::Agent, Reason::AgentStopping, "stopping; pods run on"));
    cancel.cancel();
    tracker.close();
    if tokio::time::timeout(SHUTDOWN_BOUND, tracker.wait()).await.is_err() {
        tracing::warn!("some tasks did not end within {} s", SHUTDOWN_BOUND.as_secs());
    }
    // It waits for the collector, by a thread of its own.
    let _ = tokio::task::spawn_blocking(move || spans.end()).await;
    Ok(())
}

struct Tasks<'a, S> {
    store: PodStore,
    file_writer: Option<FileWriter>,
    server: S,
    journal: &'a Arc<Journal>,
}

fn spawn_tasks<S: Future<Output = ()> + Send + 'static>(
    tracker: &TaskTracker,
    cancel: &CancellationToken,
    tasks: Tasks<'_, S>,
) {
    tracker.spawn(tasks.store.run(cancel.clone()));
    tracker.spawn(tasks.server);
    if let Some(writer) = tasks.file_writer {
        tracker.spawn(writer.run(cancel.clone()));
    }
    let (journal, cancel) = (Arc::clone(tasks.journal), cancel.clone());
    tracker.spawn(async move {
        cancel.cancelled().await;
        if journal.file_dropped() > 0 {
            tracing::warn!(records = journal.file_dropped(), "the trace file's queue was full at times");
        }
    });
}

/// What the loop must know before anything else: whose the top cgroups are, and what an earlier run left behind.
async fn first_events(
    events: &mpsc::Sender<Event>,
    cgroups: &CgroupDriver,
    volumes: &VolumeManager,
    kept: Vec<PodUid>,
) {
    let target = |class: Option<_>| class.map_or(Target::Kubepods, Target::Qos);
    let top = cgroups.top_cgroup_ids().into_iter().map(|(id, class)| (id, target(class))).collect();
    let mut leftovers: Vec<_> = match cgroups.list_pods() {
        Ok(pods) => pods.into_iter().map(|(uid, _)| uid).collect(),
        Err(error) => {
            tracing::warn!(%error, "cgroups of earlier pods are not cleaned up");
            Vec::new()
        }
    };
    match volumes.orphans() {
        Ok(pods) => leftovers.extend(pods),
        Err(error) => tracing::warn!(%error, "volumes of earlier pods are not cleaned up"),
    }
    leftovers.extend(kept);
    leftovers.sort();
    leftovers.dedup();
    for event in [Event::Cgroups(top), Event::Leftovers(leftovers)] {
        // The receiver is alive: the loop has not been started.
        let _ = events.send(event).await;
    }
}

async fn wait_for_signal(loop_ended: &CancellationToken) -> Result<(), NodeAgentError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping; pods run on"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping; pods run on"),
        () = loop_ended.cancelled() => {
            return Err(NodeAgentError::Start(std::io::Error::other("the SyncLoop ended by itself")));
        }
    }
    Ok(())
}
