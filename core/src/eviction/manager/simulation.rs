//! A simulated node under the manager: pods that leak, burst, fill the page cache or idle below one `kubepods` limit,
//! sampled when the manager asks, told to stop when it says so.

use std::time::Duration;

use super::*;
use crate::brake::Gear;
use crate::eviction::EvictionStep;
use crate::eviction::threshold::{Threshold, ThresholdValue};
use crate::eviction::{Candidate, ContainerUse, Eviction};
use crate::pod::qos::QosClass;
use crate::reason::Reason;
use crate::signal::StatAge;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 300 * MIB;
const NODE: u64 = 4096 * MIB;
/// What one reading takes, and one step of the simulation.
const STEP: Duration = Duration::from_micros(100);
/// From the order until the runtime has delivered a signal.
const DELIVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
struct SimPod {
    name: &'static str,
    priority: i32,
    request_mib: u64,
    /// Committed and cached at the start.
    anon_mib: u64,
    /// Grows by this from `starts_ms` until it has gained `gains_mib`.
    leak_mib_s: u64,
    starts_ms: u64,
    gains_mib: u64,
    /// Reads files at this rate; half of the pages become active, some are dirty.
    cache_mib_s: u64,
    /// How long it takes to exit after SIGTERM; `None`: it ignores SIGTERM and leaks on.
    exits_in: Option<Duration>,
    /// Its other threads leak on while the handler works.
    leaks_on: bool,
}

const IDLE: SimPod = SimPod {
    name: "idle",
    priority: 0,
    request_mib: 0,
    anon_mib: 10,
    leak_mib_s: 0,
    starts_ms: 0,
    gains_mib: u64::MAX / MIB,
    cache_mib_s: 0,
    exits_in: Some(Duration::from_millis(60)),
    leaks_on: false,
};

fn hog(leak_mib_s: u64) -> SimPod {
    SimPod { name: "hog", leak_mib_s, starts_ms: 500, ..IDLE }
}

fn neighbours() -> Vec<SimPod> {
    vec![
        SimPod { name: "guaranteed", request_mib: 40, anon_mib: 20, ..IDLE },
        SimPod { name: "burstable", request_mib: 10, anon_mib: 15, ..IDLE },
        SimPod { name: "besteffort", anon_mib: 5, ..IDLE },
    ]
}

#[derive(Debug)]
struct Running {
    pod: SimPod,
    anon: u64,
    gained: u64,
    cache: u64,
    sigterm_at: Option<Mono>,
    sigkill_at: Option<Mono>,
    gear: Gear,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Outcome {
    evicted: Vec<(Mono, Eviction)>,
    /// How long the memory would really have lasted at each eviction, at the leaks' rates.
    leads: Vec<Duration>,
    cuts: Vec<(Mono, PodUid)>,
    /// A pod's SIGTERM handler ran to its end.
    exited_by_itself: Vec<&'static str>,
    oom_at: Option<Mono>,
    readings: u32,
    pods_readings: u32,
}

impl Outcome {
    fn names(&self) -> Vec<&str> {
        self.evicted.iter().map(|(_, e)| e.pod.name.as_str()).collect()
    }
}

struct Sim {
    manager: EvictionManager,
    pods: Vec<Running>,
    now: Mono,
    /// Bytes that a pod faults in before the growth program tells of it; `None`: no eBPF.
    event_every: Option<u64>,
    told: u64,
    /// `kubepods`' statistics stand still unless somebody makes the kernel go on; `None`: they are always true.
    standing: Option<Standing>,
    out: Outcome,
}

/// What the statistics say, and since when.
#[derive(Debug, Default)]
struct Standing {
    since: Mono,
    anon: u64,
    cache: u64,
    /// Anonymous memory and page cache when a reading found them as before, and had the kernel go on.
    noticed_at: Option<(u64, u64)>,
}

impl Standing {
    /// Of this much more that is charged after a reader had the kernel go on, it tells. Seen: up to 8 MiB.
    const TOLD_AFTER: u64 = 4 * MIB;

    /// The file pages that a reading finds, and how they stand to the usage.
    fn read(&mut self, now: Mono, anon: u64, cache: u64) -> (u64, StatAge) {
        let charged = |(a, c): (u64, u64)| anon.abs_diff(a) + cache.abs_diff(c);
        let goes_on = self.noticed_at.is_some_and(|at| charged(at) >= Self::TOLD_AFTER);
        if goes_on || now.since(self.since) >= Duration::from_secs(2) {
            *self = Standing { since: now, anon, cache, noticed_at: None };
            return (cache, StatAge::New);
        }
        self.noticed_at.get_or_insert((anon, cache));
        let usage = anon + cache;
        let lags = usage.abs_diff(self.anon + self.cache) > 2 * MIB;
        (self.cache.min(usage), if lags { StatAge::Stale } else { StatAge::AsBefore })
    }
}

fn config(threshold_mib: u64) -> EvictionConfig {
    let value = ThresholdValue::Bytes(threshold_mib * MIB);
    let hard = |signal| Threshold { signal, value, grace_period: Duration::ZERO, min_reclaim: None };
    EvictionConfig {
        thresholds: vec![hard(Signal::MemoryAvailable), hard(Signal::AllocatableMemoryAvailable)],
        ..EvictionConfig::default()
    }
}

impl Sim {
    fn new(cfg: EvictionConfig, pods: impl IntoIterator<Item = SimPod>) -> Sim {
        let pods = pods.into_iter().map(|pod| Running {
            anon: pod.anon_mib * MIB,
            gained: 0,
            cache: 0,
            sigterm_at: None,
            sigkill_at: None,
            gear: Gear::Free,
            stopped: false,
            pod,
        });
        let manager = EvictionManager::new(cfg);
        let (pods, now) = (pods.collect(), Mono::from_millis(1000));
        Sim { manager, pods, now, event_every: None, told: 0, standing: None, out: Outcome::default() }
    }

    fn with_statistics_that_stand_still(mut self) -> Sim {
        self.standing = Some(Standing::default());
        self
    }

    /// Growth events instead of fast sampling.
    fn with_ebpf(mut self) -> Sim {
        self.manager.set_assumed_max_rate(crate::forecast::max_rate_with_growth_events_bytes_per_s(1));
        self.event_every = Some(8 * MIB);
        self
    }

    fn run(mut self, for_ms: u64) -> Outcome {
        let end = self.now + Duration::from_millis(for_ms);
        while self.now < end && self.out.oom_at.is_none() {
            let steps = self.manager.plan(&self.candidates(), self.now);
            for step in &steps {
                self.manager.carried_out(step, self.now);
            }
            assert_eq!(self.manager.plan(&self.candidates(), self.now), [], "after {steps:?}");
            for step in &steps {
                self.carry_out(step);
            }
            if steps.is_empty() {
                assert!(self.manager.next_wakeup() > self.now, "spins at {}", self.now);
                let wakeup = self.manager.next_wakeup().min(end);
                while !self.advance() && !self.event() && self.now < wakeup {}
            }
        }
        self.out
    }

    fn carry_out(&mut self, step: &EvictionStep) {
        match step {
            EvictionStep::Read { why, caused_by, scope } => {
                let mut reading = self.reading(*scope);
                (reading.why, reading.caused_by) = (*why, *caused_by);
                self.advance();
                reading.done_at = self.now;
                self.out.readings += 1;
                self.out.pods_readings += u32::from(*scope == ReadScope::AllPods);
                self.manager.observe_reading(&reading);
            }
            EvictionStep::Evict(eviction) => {
                let rate: u64 = self.growing().map(|p| p.pod.leak_mib_s * MIB).sum();
                let left = LIMIT.saturating_sub(self.pods.iter().map(|p| p.anon).sum());
                self.out.leads.push(crate::forecast::time_to_use(left, rate as f64));
                let at = self.now;
                let pod = self.pods.iter_mut().find(|p| p.pod.name == eviction.pod.name).expect("candidate");
                if eviction.brake {
                    pod.gear = Gear::Frozen;
                }
                pod.sigterm_at = Some(at + DELIVERY);
                pod.sigkill_at = Some(at + DELIVERY + eviction.grace);
                self.out.evicted.push((at, (**eviction).clone()));
            }
            EvictionStep::Brake(step) => {
                let name = step.held.pod.as_str();
                let pod = self.pods.iter_mut().find(|p| p.pod.name == name).expect("evicted");
                pod.gear = step.gear;
            }
            EvictionStep::CutGrace { pod, .. } => {
                let kill = self.now + DELIVERY;
                let victim = self.pods.iter_mut().find(|p| p.pod.name == pod.name).expect("evicted");
                victim.sigkill_at = victim.sigkill_at.map(|at| at.min(kill));
                self.out.cuts.push((self.now, pod.uid.clone()));
            }
            EvictionStep::ReadLimits { .. }
            | EvictionStep::StopContainer(_)
            | EvictionStep::CutContainerGrace { .. } => panic!("no container has a limit: {step:?}"),
        }
    }

    fn growing(&self) -> impl Iterator<Item = &Running> {
        let ms = self.now.0 / 1_000_000 - 1000;
        self.pods.iter().filter(move |p| {
            !p.stopped && p.pod.leak_mib_s > 0 && ms >= p.pod.starts_ms && p.gained < p.pod.gains_mib * MIB
        })
    }

    /// One step of time. `true`: the manager was told something.
    fn advance(&mut self) -> bool {
        self.now = self.now + STEP;
        let ms = self.now.0 / 1_000_000 - 1000;
        let (mut stopped, mut signalled) = (Vec::new(), Vec::new());
        for p in self.pods.iter_mut().filter(|p| !p.stopped) {
            let signal = p.sigterm_at.filter(|at| self.now >= *at);
            signalled.extend(signal.filter(|at| self.now < *at + STEP).map(|_| PodUid::from(p.pod.name)));
            let handled = signal.zip(p.pod.exits_in);
            let runs = p.gear != Gear::Frozen;
            let leaks = handled.is_none() || p.pod.leaks_on;
            if runs && leaks && ms >= p.pod.starts_ms && p.gained < p.pod.gains_mib * MIB {
                p.anon += p.pod.leak_mib_s * MIB / 10_000;
                p.gained += p.pod.leak_mib_s * MIB / 10_000;
            }
            p.cache += p.pod.cache_mib_s * MIB / 10_000;
            let exited = runs && handled.is_some_and(|(at, takes)| self.now >= at + takes);
            if exited || p.sigkill_at.is_some_and(|at| self.now >= at) {
                (p.anon, p.cache, p.stopped) = (0, 0, true);
                stopped.push(PodUid::from(p.pod.name));
                self.out.exited_by_itself.extend(exited.then_some(p.pod.name));
            }
        }
        let told = !stopped.is_empty() || !signalled.is_empty();
        for uid in signalled {
            self.manager.signalled(&uid, self.now);
        }
        for uid in stopped {
            self.manager.pod_stopped(&uid, self.now);
        }
        let anon: u64 = self.pods.iter().map(|p| p.anon).sum();
        if anon >= LIMIT {
            self.out.oom_at.get_or_insert(self.now);
        }
        // The kernel reclaims cache to make room.
        let cache: u64 = self.pods.iter().map(|p| p.cache).sum();
        let mut over = (anon + cache).saturating_sub(LIMIT);
        for p in &mut self.pods {
            let gives = p.cache.min(over);
            p.cache -= gives;
            over -= gives;
        }
        told || self.out.oom_at.is_some()
    }

    /// A growth event, if one is due.
    fn event(&mut self) -> bool {
        let grown: u64 = self.pods.iter().map(|p| p.gained).sum();
        let Some(every) = self.event_every.filter(|every| grown >= self.told + every) else { return false };
        self.told += every;
        let id = crate::signal::CgroupId { hierarchy: crate::signal::Hierarchy::Unified, id: 7 };
        let (faults, window) = (every / 4096, Duration::from_millis(10));
        let kind = KernelEventKind::Growth { cgroup: id, faults, window };
        self.manager.observe_kernel_event(&KernelEvent { at: self.now, read_at: self.now, kind });
        true
    }

    fn reading(&mut self, scope: ReadScope) -> MemoryReading {
        let domain = |domain, anon, cache, limit| DomainReading {
            domain,
            usage_bytes: anon + cache,
            inactive_file_bytes: cache / 2,
            active_file_bytes: cache - cache / 2,
            dirty_bytes: cache / 20,
            refaults: 0,
            statistics: StatAge::New,
            limit_bytes: limit,
            oom_kills: 0,
        };
        let anon: u64 = self.pods.iter().map(|p| p.anon).sum();
        let cache: u64 = self.pods.iter().map(|p| p.cache).sum();
        let standing = self.standing.as_mut().map(|s| s.read(self.now, anon, cache));
        let (known, statistics) = standing.unwrap_or((cache, StatAge::New));
        let kubepods = domain(Domain::Kubepods, anon + cache - known, known, Some(LIMIT));
        let mut domains = vec![
            domain(Domain::Node, anon + 500 * MIB, cache + 500 * MIB, Some(NODE)),
            DomainReading { statistics, ..kubepods },
        ];
        if scope == ReadScope::AllPods {
            for p in self.pods.iter().filter(|p| !p.stopped) {
                domains.push(domain(Domain::Pod(PodUid::from(p.pod.name)), p.anon, p.cache, None));
            }
        }
        MemoryReading {
            at: self.now,
            done_at: self.now,
            why: Reason::SampleDue,
            caused_by: None,
            mem_available_bytes: NODE - 500 * MIB - anon,
            domains,
            stalled: Vec::new(),
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let alive = self.pods.iter().filter(|p| !p.stopped);
        alive.map(|p| candidate(p.pod.name, p.pod.priority, p.pod.request_mib * MIB)).collect()
    }
}

pub(super) fn candidate(name: &str, priority: i32, request: u64) -> Candidate {
    Candidate {
        pod: PodRef { uid: PodUid::from(name), namespace: "default".into(), name: name.into() },
        priority,
        critical: false,
        memory_request_bytes: request,
        grace_period: Duration::from_secs(30),
        qos: QosClass::Burstable,
        containers: vec![ContainerUse {
            name: "main".into(),
            memory_request_bytes: request,
            usage_bytes: None,
        }],
    }
}

fn with_neighbours(hog: SimPod) -> Vec<SimPod> {
    neighbours().into_iter().chain([hog]).collect()
}

mod scenarios;
