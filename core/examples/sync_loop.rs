//! What the SyncLoop's core costs with so many pods: one event of each kind, a turn at rest, and a pod's memory. Measures;
//! `cargo xtask bench loop` makes the table. No runtime, no kernel: the worker's and PLEG's words are made up here.
//!
//! Prints one JSON object for each number of pods given as an argument.

#![allow(clippy::unwrap_used)] // It is a measurement: whatever fails ends it.
#![expect(clippy::disallowed_methods, reason = "it measures time, which the core itself gets as an argument")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oomlet_core::clock::Mono;
use oomlet_core::eviction::EvictionConfig;
use oomlet_core::eviction::resources::ResourceConfig;
use oomlet_core::node::event::{
    Event, PodLifecycleEvent, PodLifecycleEventKind, PodSource, PodUpdate, RuntimePod, RuntimePods, SourcePod,
};
use oomlet_core::node::plan::plan;
use oomlet_core::node::state::{State, StateConfig};
use oomlet_core::pod::admission::NodeFacts;
use oomlet_core::pod::containers::{ListedContainer, ListedSandbox};
use oomlet_core::pod::order::{WorkerOutcome, WorkerReport};
use oomlet_core::pod::qos::Amounts;
use oomlet_core::pod::runtime_status::{ContainerState, ContainerStatus, PodRuntimeStatus};
use oomlet_core::pod::{ContainerInstance, Pod, PodRef, PodUid};
use oomlet_core::reason::Reason;
use oomlet_core::signal::{
    CgroupId, Domain, DomainReading, Hierarchy, KernelEvent, KernelEventKind, MemoryReading, StatAge,
};
use serde_json::json;

const GIB: u64 = 1 << 30;
/// Of each kind of event: enough that one that the machine delays does not show.
const EVENTS: usize = 2_000;

fn main() {
    for pods in std::env::args().skip(1) {
        println!("{}", measure(pods.parse().unwrap()));
    }
}

fn measure(pods: usize) -> serde_json::Value {
    let before = resident_bytes();
    let mut node = Node::new(pods);
    let bytes_a_pod = resident_bytes().saturating_sub(before) / pods as u64;
    let mut events = serde_json::Map::new();
    for (name, event) in KINDS {
        events.insert((*name).to_owned(), json!(node.time(*event)));
    }
    json!({
        "pods": pods,
        "bytes_a_pod": bytes_a_pod,
        "event_us": events,
        "turn_at_rest_us": node.time(|_, _| Event::Tick),
    })
}

type MakeEvent = fn(&Node, usize) -> Event;

const KINDS: &[(&str, MakeEvent)] = &[
    ("worker report, nothing new", |node, i| node.report(i, 0)),
    ("worker report, a restart", |node, i| node.report(i, 1 + i as u32)),
    ("container died (PLEG)", |node, i| {
        Event::Lifecycle(PodLifecycleEvent {
            pod: node.uid(i),
            kind: PodLifecycleEventKind::ContainerDied,
            id: container_id(i % node.pods, 0),
        })
    }),
    ("init process exited (eBPF)", |node, i| {
        node.kernel(KernelEventKind::InitExit { pid: 1000 + (i % node.pods) as u32 })
    }),
    ("cgroup grows (eBPF)", |node, _| {
        node.kernel(KernelEventKind::Growth {
            cgroup: CgroupId { hierarchy: Hierarchy::Unified, id: 7 },
            faults: 64,
            window: Duration::from_millis(1),
        })
    }),
    ("reading of node and kubepods", |node, _| Event::Reading(node.reading())),
];

struct Node {
    state: State,
    pods: usize,
    now: Mono,
}

impl Node {
    /// All pods run and nothing is to be done.
    fn new(pods: usize) -> Node {
        let mut node = Node { state: State::new(config(pods)), pods, now: Mono::from_millis(1_000_000) };
        let named =
            (0..pods).map(|i| SourcePod { path: format!("/m/{i}.yaml").into(), pod: pod(i), own_uid: false });
        node.turn(Event::Pods(PodUpdate {
            source: PodSource::File,
            pods: named.collect(),
            rejected: Vec::new(),
        }));
        let listed = (0..pods).map(|i| RuntimePod {
            pod: PodRef::of(&pod(i)),
            containers: vec![ListedContainer {
                container: ContainerInstance { name: "c".into(), id: container_id(i, 0) },
                state: ContainerState::Running,
            }],
            sandboxes: vec![ListedSandbox { id: format!("s{i}"), ready: true }],
        });
        let listed = RuntimePods { listed_at: node.now, pods: listed.collect() };
        node.turn(Event::Relisted(listed));
        for i in 0..pods {
            node.turn(node.report(i, 0));
        }
        node.turn(Event::Reading(node.reading()));
        node
    }

    /// The median, in µs: what else the machine is at delays some.
    fn time(&mut self, event: impl Fn(&Node, usize) -> Event) -> f64 {
        let mut times: Vec<Duration> = (0..EVENTS)
            .map(|i| {
                let event = event(self, i * 7919);
                self.now = self.now + Duration::from_micros(1);
                let begun = Instant::now();
                self.turn(black_box(event));
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[EVENTS / 2].as_secs_f64() * 1e6
    }

    /// As the loop does.
    fn turn(&mut self, event: Event) {
        self.state.apply(event, self.now);
        for _ in 0..8 {
            let actions = plan(&self.state, self.now);
            self.state.planned();
            self.state.decided(self.now);
            if actions.is_empty() {
                break;
            }
            for action in &actions {
                self.state.note(action, self.now);
            }
        }
        black_box(self.state.next_wakeup());
        drop(self.state.take_records());
    }

    fn uid(&self, i: usize) -> PodUid {
        format!("uid-{}", i % self.pods).as_str().into()
    }

    fn report(&self, i: usize, restart: u32) -> Event {
        let container = ContainerStatus {
            restart_count: restart,
            created_at_ns: 1,
            started_at_ns: 1,
            pid: Some(1000 + (i % self.pods) as u32),
            ..ContainerStatus::bare(&container_id(i % self.pods, restart), "c", ContainerState::Running)
        };
        Event::Worker(WorkerReport {
            pod: self.uid(i),
            at: self.now,
            outcome: WorkerOutcome::Synced { next_sync_in: None, waiting: Vec::new(), settled: true },
            runtime: Some(PodRuntimeStatus { sandboxes: Vec::new(), containers: vec![container] }),
        })
    }

    fn kernel(&self, kind: KernelEventKind) -> Event {
        Event::Kernel(KernelEvent { at: self.now, read_at: self.now, kind })
    }

    fn reading(&self) -> MemoryReading {
        let domain = |domain, usage_bytes, limit_bytes| DomainReading {
            domain,
            usage_bytes,
            inactive_file_bytes: 0,
            active_file_bytes: 0,
            dirty_bytes: 0,
            refaults: 0,
            statistics: StatAge::New,
            limit_bytes: Some(limit_bytes),
            oom_kills: 0,
        };
        MemoryReading {
            at: self.now,
            done_at: self.now,
            why: Reason::SampleDue,
            caused_by: None,
            mem_available_bytes: 400 * GIB,
            domains: vec![
                domain(Domain::Node, 100 * GIB, 512 * GIB),
                domain(Domain::Kubepods, 90 * GIB, 500 * GIB),
            ],
            stalled: Vec::new(),
        }
    }
}

fn container_id(i: usize, restart: u32) -> String {
    format!("container-{i}-{restart}")
}

fn pod(i: usize) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": format!("pod-{i}"), "namespace": "default", "uid": format!("uid-{i}")},
        "spec": {"containers": [{
            "name": "c", "image": "registry.example/app:1",
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        }]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn config(pods: usize) -> StateConfig {
    StateConfig {
        node: NodeFacts {
            name: "node".into(),
            allocatable: Amounts { milli_cpu: 1_000_000, memory_bytes: 500 * GIB },
            max_pods: pods,
            os: "linux".into(),
            arch: "amd64".into(),
            ..NodeFacts::default()
        },
        eviction: EvictionConfig::default(),
        resources: ResourceConfig::default(),
        sync_frequency: Duration::from_secs(60),
        sources: [PodSource::File].into(),
        static_pods_critical: false,
        saved: Vec::new(),
        host_ips: vec!["10.0.0.1".into()],
        oom_kill_group: false,
        runtime_name: "containerd".into(),
        unix_offset_ns: 0,
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
