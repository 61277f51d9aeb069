mod any_events;
mod brake;
mod deadline;
mod kernel_records;
mod limits;
mod preempt;
mod probes;
mod races;
mod reports;
mod resources;
mod retry;
mod sources;
mod update;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::brake::Held;
use crate::eviction::resources::{PodScope, ResourceAnswer, ResourceOrder};
use crate::eviction::threshold::{Signal, Threshold, ThresholdValue};
use crate::node::action::{ActionKind, MemoryAction, NodeAction, PodAction, ResourceAction};
use crate::node::event::{
    PodChanges, PodSource, PodUpdate, RejectedManifest, RuntimePod, RuntimePods, SourcePod,
};
use crate::node::plan::plan;
use crate::node::published::Failure;
use crate::pod::containers::{ListedContainer, ListedSandbox};
use crate::pod::order::{WorkOrder, WorkerOutcome, WorkerReport};
use crate::pod::qos::Amounts;
use crate::pod::runtime_status::{ContainerState, ContainerStatus, PodRuntimeStatus};
use crate::pod::{ContainerInstance, Pod};
use crate::signal::{Domain, DomainReading, KernelEvent, KernelEventKind, StatAge};

const MIB: u64 = 1 << 20;

fn config() -> StateConfig {
    let allocatable = Threshold {
        signal: Signal::AllocatableMemoryAvailable,
        value: ThresholdValue::Bytes(60 * MIB),
        grace_period: Duration::ZERO,
        min_reclaim: None,
    };
    StateConfig {
        oom_kill_group: false,
        node: NodeFacts {
            name: "node".into(),
            allocatable: Amounts { milli_cpu: 2000, memory_bytes: 300 * MIB },
            max_pods: 110,
            os: "linux".into(),
            arch: "amd64".into(),
            ..NodeFacts::default()
        },
        eviction: EvictionConfig { thresholds: vec![allocatable], ..EvictionConfig::default() },
        resources: ResourceConfig::default(),
        sync_frequency: Duration::from_secs(60),
        sources: BTreeSet::from([PodSource::File]),
        static_pods_critical: false,
        saved: Vec::new(),
        host_ips: Vec::new(),
        runtime_name: "containerd".into(),
        recursive_read_only: false,
        unix_offset_ns: 0,
    }
}

fn pod(name: &str, uid: &str) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "default", "uid": uid},
            "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 5}
        }))
        .unwrap(),
    )
}

/// As the last agent left it.
fn saved(name: &str, uid: &str, failure: Option<Failure>) -> SavedPod {
    SavedPod {
        pod: (*pod(name, uid)).clone(),
        source: Some(PodSource::File),
        manifest_path: Some(format!("/m/{name}.yaml").into()),
        failure,
        forestalled: BTreeMap::new(),
    }
}

fn source(pods: &[(&str, &str)]) -> Event {
    Event::Pods(PodUpdate {
        source: PodSource::File,
        pods: pods
            .iter()
            .map(|(name, uid)| SourcePod {
                path: format!("/m/{name}.yaml").into(),
                pod: pod(name, uid),
                own_uid: false,
            })
            .collect(),
        rejected: Vec::new(),
    })
}

fn relist(running: &[(&str, &str)]) -> Event {
    let pods = running.iter().map(|(name, uid)| RuntimePod {
        pod: PodRef { uid: (*uid).into(), namespace: "default".into(), name: (*name).into() },
        containers: vec![ListedContainer {
            container: ContainerInstance { name: "c".into(), id: format!("{uid}-c") },
            state: ContainerState::Running,
        }],
        sandboxes: vec![ListedSandbox { id: "s".into(), ready: true }],
    });
    Event::Relisted(RuntimePods { listed_at: Mono(u64::MAX), pods: pods.collect() })
}

fn running(uid: &str, pid: u32) -> PodRuntimeStatus {
    let container = ContainerStatus {
        created_at_ns: 1,
        started_at_ns: 1,
        image: "i".into(),
        image_ref: "i".into(),
        pid: Some(pid),
        ..ContainerStatus::bare(&format!("{uid}-c"), "c", ContainerState::Running)
    };
    PodRuntimeStatus { sandboxes: Vec::new(), containers: vec![container] }
}

fn report(uid: &str, outcome: WorkerOutcome, runtime: PodRuntimeStatus) -> Event {
    Event::Worker(WorkerReport { pod: uid.into(), at: Mono::from_millis(1), outcome, runtime: Some(runtime) })
}

/// Nothing is left to be done.
fn done() -> WorkerOutcome {
    WorkerOutcome::Synced { next_sync_in: None, waiting: Vec::new(), settled: true }
}

fn synced(uid: &str) -> Event {
    report(uid, done(), running(uid, 42))
}

/// The state, its clock, and what the plan said in short.
struct Node {
    state: State,
    now: Mono,
}

impl Node {
    fn new(config: StateConfig) -> Node {
        Node { state: State::new(config), now: Mono::from_millis(1000) }
    }

    /// Applies, plans, notes, as the loop does, until there is nothing left to do; returns the plan but for readings
    /// and file writes, which every step brings.
    fn step(&mut self, event: Event) -> Vec<String> {
        self.now = self.now + Duration::from_millis(1);
        self.state.apply(event, self.now);
        let mut done = Vec::new();
        // What is noted may itself change what is to be saved; beyond that nothing follows from a plan.
        for _ in 0..3 {
            let actions = plan(&self.state, self.now);
            self.state.planned();
            for action in &actions {
                self.state.note(action, self.now);
            }
            done.extend(actions.iter().filter_map(|a| short(&a.kind)));
        }
        let again = plan(&self.state, self.now);
        assert!(again.is_empty(), "planned again: {:?}", again.iter().map(|a| &a.reason).collect::<Vec<_>>());
        let distinct: BTreeSet<&String> = done.iter().collect();
        assert_eq!(distinct.len(), done.len(), "planned twice: {done:?}");
        done
    }

    /// Whether the kernel is known to have killed a process of the container.
    fn killed(&self, id: &str) -> bool {
        self.state.pods().any(|pod| pod.oom_killed.contains(id))
    }

    fn records(&mut self) -> Vec<(Kind, Reason, String)> {
        self.state.take_records().into_iter().map(|r| (r.kind, r.reason, r.message)).collect()
    }
}

fn short(kind: &ActionKind) -> Option<String> {
    Some(match kind {
        ActionKind::Pod(PodAction::Dispatch { pod, order })
        | ActionKind::Memory(MemoryAction::CutGrace { pod, order, .. }) => match order {
            WorkOrder::Sync { .. } => format!("sync {pod}"),
            WorkOrder::Terminate { grace, remove, .. } => {
                format!("{} {pod} grace {}", if *remove { "remove" } else { "stop" }, grace.as_secs())
            }
        },
        ActionKind::Memory(MemoryAction::Evict { eviction, .. }) => format!("evict {}", eviction.pod.uid),
        ActionKind::Memory(MemoryAction::Brake { step, .. }) => match &step.held.container {
            Some(container) => format!("{} {} of {}", step.gear.as_str(), container.name, step.held.pod),
            None => format!("{} {}", step.gear.as_str(), step.held.pod),
        },
        ActionKind::Memory(
            MemoryAction::StopContainer { order, .. } | MemoryAction::CutContainerGrace { order, .. },
        ) => {
            let (container, pod, grace) = (&order.container.id, &order.pod.uid, order.grace.as_secs());
            format!("stop {container} of {pod} grace {grace}")
        }
        ActionKind::Pod(PodAction::Forget(uid)) => format!("forget {uid}"),
        ActionKind::Pod(PodAction::WatchInit { pids, .. }) => format!("watch {pids:?}"),
        ActionKind::Pod(PodAction::MapCgroups { pod, .. }) => format!("map {pod}"),
        ActionKind::Node(NodeAction::KickPleg) => "kick".into(),
        ActionKind::Pod(PodAction::Unlist(uid)) => format!("unlist {uid}"),
        ActionKind::Resources(ResourceAction::Evict { eviction, .. }) => {
            format!("evict {} for disk", eviction.pod.uid)
        }
        ActionKind::Resources(ResourceAction::Order(ResourceOrder::Reclaim(reclaim))) => {
            let finished: Vec<_> = reclaim.finished.iter().map(|p| p.uid.as_str()).collect();
            format!("reclaim {finished:?} images {}", reclaim.images)
        }
        ActionKind::Resources(ResourceAction::Order(ResourceOrder::Read(query)))
            if query.scope == PodScope::All =>
        {
            "read all".into()
        }
        ActionKind::Resources(_)
        | ActionKind::Memory(
            MemoryAction::Read { .. } | MemoryAction::ReadLimits { .. } | MemoryAction::QuietGrowth { .. },
        )
        | ActionKind::Pod(PodAction::Publish(_))
        | ActionKind::Node(NodeAction::UpdateQos { .. } | NodeAction::Publish(_)) => return None,
    })
}

#[test]
fn a_pod_starts_once_source_and_runtime_have_spoken() {
    let mut node = Node::new(config());
    assert_eq!(node.step(source(&[("a", "1")])), [""; 0], "the runtime has not been listed");
    assert_eq!(node.step(relist(&[])), ["sync 1"]);
    assert_eq!(node.step(synced("1")), ["map 1", "watch [42]"]);
    assert_eq!(node.step(Event::Tick), [""; 0]);
}

#[test]
fn a_running_pod_is_taken_over_whatever_admission_would_say() {
    let mut tight = config();
    tight.node.max_pods = 0;
    let mut node = Node::new(tight);
    node.step(relist(&[("a", "1")]));
    assert_eq!(node.step(source(&[("a", "1"), ("b", "2")])), ["sync 1", "map 1"]);
    let records = node.records();
    assert!(records.iter().any(|(_, r, _)| *r == Reason::PodAdopted), "{records:?}");
    assert!(records.iter().any(|(_, r, _)| *r == Reason::OutOfpods), "{records:?}");
}

#[test]
fn a_removed_manifest_ends_the_pod_and_nothing_stays() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1")]));
    node.step(synced("1"));
    assert_eq!(node.step(source(&[])), ["remove 1 grace 5"]);
    let stopped = WorkerOutcome::Stopped { took: Duration::from_millis(80), killed: false };
    assert_eq!(node.step(report("1", stopped, PodRuntimeStatus::default())), [""; 0]);
    assert_eq!(node.step(report("1", WorkerOutcome::Removed, PodRuntimeStatus::default())), ["forget 1"]);
    assert_eq!(node.state.pods().count(), 0);
}

#[test]
fn a_changed_manifest_ends_the_old_pod_before_the_new_one_starts() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1")]));
    node.step(synced("1"));
    assert_eq!(node.step(source(&[("a", "2")])), ["remove 1 grace 5"]);
    assert!(node.records().iter().any(|(_, r, _)| *r == Reason::PodReplaced));
    let removed = report("1", WorkerOutcome::Removed, PodRuntimeStatus::default());
    assert_eq!(node.step(removed), ["forget 1", "sync 2"]);
}

#[test]
fn a_pod_named_again_while_it_ends_starts_anew() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1")]));
    node.step(source(&[]));
    assert_eq!(node.step(source(&[("a", "1")])), [""; 0]);
    let removed = report("1", WorkerOutcome::Removed, PodRuntimeStatus::default());
    assert_eq!(node.step(removed), ["forget 1", "sync 1"]);
}

#[test]
fn a_container_that_pleg_lists_is_known_before_its_worker_reports() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    assert_eq!(node.step(source(&[("a", "1")])), ["sync 1"]);
    assert_eq!(node.step(relist(&[("a", "1")])), ["map 1"]);
    let known = node.state.pod(&"1".into()).unwrap().containers.known();
    assert_eq!(known, [ContainerInstance { name: "c".into(), id: "1-c".into() }]);
    assert_eq!(node.step(relist(&[("a", "1")])), [""; 0], "nothing new, nothing to map");
}

#[test]
fn orphans_end_only_once_the_source_has_spoken() {
    let mut node = Node::new(config());
    assert_eq!(node.step(relist(&[("old", "9")])), [""; 0]);
    assert_eq!(node.step(source(&[])), ["remove 9 grace 30", "map 9"]);
    assert_eq!(node.step(relist(&[("old", "9"), ("other", "8")])), ["remove 8 grace 30", "map 8"]);
}

#[test]
fn an_unreadable_manifest_leaves_its_pod_running() {
    let broken = |pods: &[(&str, &str)]| {
        let Event::Pods(mut update) = source(pods) else { unreachable!() };
        let error = "/m/a.yaml: not a pod".to_owned();
        update.rejected = vec![RejectedManifest { path: "/m/a.yaml".into(), error, duplicate: false }];
        Event::Pods(update)
    };
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1"), ("b", "2")]));
    node.step(synced("1"));
    assert_eq!(node.step(broken(&[("b", "2")])), [""; 0], "pod a runs on");
    let told = node.records().iter().filter(|(_, r, _)| *r == Reason::ManifestRejected).count();
    assert_eq!(told, 1);
    node.step(broken(&[("b", "2")]));
    assert_eq!(node.records(), [], "told once");
    assert_eq!(node.step(source(&[("b", "2")])), ["remove 1 grace 5"], "the file is gone now");

    // The same after a restart: the agent knows the pod from its own files.
    let saved = SavedPod { manifest_path: Some("/m/a.yaml".into()), ..saved("a", "1", None) };
    let mut node = Node::new(StateConfig { saved: vec![saved], ..config() });
    node.step(relist(&[("a", "1")]));
    assert_eq!(node.step(broken(&[])), ["sync 1", "map 1"]);
}

#[test]
fn what_was_evicted_stays_evicted_over_a_restart() {
    let failure = Failure { reason: Reason::Evicted, message: "low on memory".into(), disruption: true };
    let saved = SavedPod { manifest_path: None, ..saved("a", "1", Some(failure)) };
    let mut node = Node::new(StateConfig { saved: vec![saved], ..config() });
    node.step(relist(&[]));
    assert_eq!(node.step(source(&[("a", "1")])), ["stop 1 grace 0"]);
    let stopped = WorkerOutcome::Stopped { took: Duration::ZERO, killed: false };
    assert_eq!(node.step(report("1", stopped, PodRuntimeStatus::default())), [""; 0]);
    let state = node.state.pod(&"1".into()).unwrap();
    let status = state.published().unwrap().to_saved().pod.status.unwrap();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}

fn reading(now: Mono, why: Reason, usage: u64, pods: &[(&str, u64)]) -> Event {
    let domain = |domain, usage_bytes, limit_bytes| DomainReading {
        domain,
        usage_bytes,
        inactive_file_bytes: 0,
        active_file_bytes: 0,
        dirty_bytes: 0,
        refaults: 0,
        statistics: StatAge::New,
        limit_bytes,
        oom_kills: 0,
    };
    let mut domains = vec![
        domain(Domain::Node, 1000 * MIB, Some(24_000 * MIB)),
        domain(Domain::Kubepods, usage, Some(300 * MIB)),
    ];
    domains.extend(pods.iter().map(|(uid, usage)| domain(Domain::Pod((*uid).into()), *usage, None)));
    Event::Reading(MemoryReading {
        at: now,
        done_at: now,
        why,
        caused_by: None,
        mem_available_bytes: 23_000 * MIB,
        domains,
        stalled: Vec::new(),
    })
}

#[test]
fn memory_short_of_the_threshold_evicts_the_pod_over_its_request_and_keeps_the_record() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("hog", "1"), ("idle", "2")]));
    node.step(synced("1"));
    node.step(synced("2"));
    let mut evicted = Vec::new();
    for usage in [200, 210, 220, 235, 245, 245] {
        let pods = [("1", (usage - 10) * MIB), ("2", 10 * MIB)];
        let event = reading(node.now + Duration::from_millis(1), Reason::SampleDue, usage * MIB, &pods);
        evicted.extend(node.step(event).into_iter().filter(|a| a.starts_with("evict")));
    }
    assert_eq!(evicted, ["evict 1"]);
    assert!(node.state.under_memory_pressure());
    let records = node.state.take_records();
    let decision = records.iter().find(|r| r.kind == Kind::Decision).expect("a decision is recorded");
    assert_eq!(decision.pod.as_ref().unwrap().name, "hog");
    assert_eq!(decision.numbers["limit_bytes"], 300 << 20);
    assert!(decision.message.contains("low on resource: memory"), "{}", decision.message);
}
