//! Simulated containers under limits of their own, one a pod: they leak, burst, fill the page cache or idle, are read when
//! the manager asks, held and told to stop when it says so.

use super::*;
use crate::brake::Gear;
use crate::eviction::{EvictionConfig, EvictionStep, ReadScope};
use crate::forecast::time_to_use;
use crate::reason::Reason;
use crate::signal::{CgroupId, Hierarchy, StatAge};

const MIB: u64 = 1 << 20;
/// What one reading takes, and one step of the simulation.
const STEP: Duration = Duration::from_micros(100);
/// From the order until a signal is there.
const DELIVERY: Duration = Duration::from_millis(1);
/// What the pause container holds of the pod's limit.
const PAUSE: u64 = MIB / 2;

#[derive(Clone, Debug)]
struct SimContainer {
    name: &'static str,
    limit_mib: u64,
    anon_mib: u64,
    /// Grows by this from `starts_ms` until it has gained `gains_mib`.
    leak_kib_s: u64,
    starts_ms: u64,
    gains_mib: u64,
    /// Reads files at this rate; half of the pages become active, some are dirty.
    cache_mib_s: u64,
    /// How long it takes to exit after SIGTERM; `None`: it ignores SIGTERM and leaks on.
    exits_in: Option<Duration>,
    /// Its other threads leak on while the handler works.
    leaks_on: bool,
    grace: Duration,
}

const IDLE: SimContainer = SimContainer {
    name: "idle",
    limit_mib: 256,
    anon_mib: 10,
    leak_kib_s: 0,
    starts_ms: 0,
    gains_mib: u64::MAX / MIB,
    cache_mib_s: 0,
    exits_in: Some(Duration::from_millis(500)),
    leaks_on: false,
    grace: Duration::from_secs(5),
};

fn leak(mib_s: u64) -> SimContainer {
    SimContainer { name: "leak", leak_kib_s: mib_s * 1024, starts_ms: 500, ..IDLE }
}

#[derive(Debug)]
struct Running {
    container: SimContainer,
    anon: u64,
    gained: u64,
    cache: u64,
    sigterm_at: Option<Mono>,
    sigkill_at: Option<Mono>,
    gear: Gear,
    ended: bool,
}

impl Running {
    fn uid(&self) -> PodUid {
        PodUid::from(self.container.name)
    }

    fn instance(&self) -> ContainerInstance {
        ContainerInstance { name: "main".into(), id: format!("{}-1", self.container.name) }
    }

    fn domain(&self) -> Domain {
        Domain::Container(self.uid(), "main".into())
    }

    fn limited(&self) -> LimitedContainer {
        let pod = PodRef { uid: self.uid(), namespace: "default".into(), name: self.container.name.into() };
        let grace = self.container.grace;
        LimitedContainer { pod, instance: self.instance(), grace, stoppable: true, begun: false }
    }

    fn limit(&self) -> u64 {
        self.container.limit_mib * MIB
    }
}

#[derive(Debug, Default)]
struct Outcome {
    stops: Vec<ContainerStop>,
    /// How long the memory would really have lasted at each stop, at the leak's rate.
    leads: Vec<Duration>,
    cuts: usize,
    exited_by_itself: Vec<&'static str>,
    killed: Vec<&'static str>,
    /// The kernel killed in it.
    oom: Option<&'static str>,
    readings: u32,
    longest_pause: Duration,
}

impl Outcome {
    fn names(&self) -> Vec<&str> {
        self.stops.iter().map(|stop| stop.pod.name.as_str()).collect()
    }
}

struct Sim {
    manager: EvictionManager,
    containers: Vec<Running>,
    now: Mono,
    /// Bytes that a container faults in before the growth program tells of it; `None`: no eBPF.
    event_every: Option<u64>,
    told: u64,
    read_at: Mono,
    out: Outcome,
}

impl Sim {
    fn new(brake: bool, containers: impl IntoIterator<Item = SimContainer>) -> Sim {
        let containers = containers.into_iter().map(|container| Running {
            anon: container.anon_mib * MIB,
            gained: 0,
            cache: 0,
            sigterm_at: None,
            sigkill_at: None,
            gear: Gear::Free,
            ended: false,
            container,
        });
        let cfg = EvictionConfig { thresholds: Vec::new(), brake, ..EvictionConfig::default() };
        let (containers, now) = (containers.collect::<Vec<_>>(), Mono::from_millis(1000));
        let mut manager = EvictionManager::new(cfg);
        tests::watch(&mut manager, containers.iter().map(Running::limited).collect(), now);
        let out = Outcome::default();
        Sim { manager, containers, now, event_every: None, told: 0, read_at: now, out }
    }

    /// Growth events instead of fast sampling.
    fn with_ebpf(mut self) -> Sim {
        self.manager.set_assumed_max_rate(crate::forecast::max_rate_with_growth_events_bytes_per_s(1));
        self.event_every = Some(8 * MIB);
        self
    }

    fn run(mut self, for_ms: u64) -> Outcome {
        let end = self.now + Duration::from_millis(for_ms);
        while self.now < end && self.out.oom.is_none() {
            let steps = self.manager.plan(&[], self.now);
            for step in &steps {
                self.manager.carried_out(step, self.now);
            }
            assert_eq!(self.manager.plan(&[], self.now), [], "after {steps:?}");
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
            EvictionStep::Read { scope, caused_by, .. } => {
                let all = |_: &Domain| *scope == ReadScope::AllPods;
                self.read(all, *caused_by);
            }
            EvictionStep::ReadLimits { domains, caused_by, .. } => {
                assert!(!domains.is_empty());
                self.read(|domain| domains.contains(domain), *caused_by);
            }
            EvictionStep::StopContainer(stop) => {
                let now = self.now;
                let c = self.of(&stop.pod.uid);
                assert_eq!(stop.container, c.instance());
                if stop.brake {
                    c.gear = Gear::Frozen;
                }
                c.sigterm_at = Some(now + DELIVERY);
                c.sigkill_at = Some(now + DELIVERY + stop.grace);
                let left = c.limit().saturating_sub(c.anon);
                let lead = time_to_use(left, (c.container.leak_kib_s * 1024) as f64);
                self.out.leads.push(lead);
                self.out.stops.push((**stop).clone());
            }
            EvictionStep::Brake(step) => self.of(&step.held.pod).gear = step.gear,
            EvictionStep::CutContainerGrace { pod, .. } => {
                let kill = self.now + DELIVERY;
                let c = self.of(&pod.uid);
                c.sigkill_at = c.sigkill_at.map(|at| at.min(kill));
                self.out.cuts += 1;
            }
            EvictionStep::Evict(_) | EvictionStep::CutGrace { .. } => panic!("nothing is evicted: {step:?}"),
        }
    }

    fn of(&mut self, pod: &PodUid) -> &mut Running {
        self.containers.iter_mut().find(|c| c.uid() == *pod).expect("one of these")
    }

    fn read(&mut self, wanted: impl Fn(&Domain) -> bool, caused_by: Option<Mono>) {
        let mut reading = self.reading(wanted);
        reading.caused_by = caused_by;
        self.out.longest_pause = self.out.longest_pause.max(self.now.since(self.read_at));
        self.read_at = self.now;
        self.advance();
        reading.done_at = self.now;
        self.out.readings += 1;
        self.manager.observe_reading(&reading);
    }

    /// One step of time. `true`: the manager was told something.
    fn advance(&mut self) -> bool {
        self.now = self.now + STEP;
        let ms = self.now.0 / 1_000_000 - 1000;
        let mut told = false;
        for c in self.containers.iter_mut().filter(|c| !c.ended) {
            let signal = c.sigterm_at.filter(|at| self.now >= *at);
            if signal.is_some_and(|at| self.now < at + STEP) {
                self.manager.container_signalled(&c.uid(), &c.instance(), self.now);
                told = true;
            }
            let handled = signal.zip(c.container.exits_in);
            let runs = c.gear != Gear::Frozen;
            let leaks = handled.is_none() || c.container.leaks_on;
            if runs && leaks && ms >= c.container.starts_ms && c.gained < c.container.gains_mib * MIB {
                let takes = c.container.leak_kib_s * 1024 / 10_000;
                c.anon += takes;
                c.gained += takes;
            }
            // The kernel reclaims cache to make room.
            c.cache =
                (c.cache + c.container.cache_mib_s * MIB / 10_000).min(c.limit().saturating_sub(c.anon));
            let exited = runs && handled.is_some_and(|(at, takes)| self.now >= at + takes);
            let killed = c.sigkill_at.is_some_and(|at| self.now >= at);
            if exited || killed {
                c.ended = true;
                let whose = if exited { &mut self.out.exited_by_itself } else { &mut self.out.killed };
                whose.push(c.container.name);
                self.manager.container_stopped(&c.uid(), &c.instance(), self.now);
                told = true;
            } else if c.anon >= c.limit() {
                self.out.oom = Some(c.container.name);
            }
        }
        if told {
            let running = self.containers.iter().filter(|c| !c.ended);
            tests::watch(&mut self.manager, running.map(Running::limited).collect(), self.now);
        }
        told || self.out.oom.is_some()
    }

    /// A growth event, if one is due.
    fn event(&mut self) -> bool {
        let grown: u64 = self.containers.iter().map(|c| c.gained).sum();
        let Some(every) = self.event_every.filter(|every| grown >= self.told + every) else { return false };
        self.told += every;
        let (cgroup, window) = (CgroupId { hierarchy: Hierarchy::Unified, id: 7 }, Duration::from_millis(10));
        let kind = KernelEventKind::Growth { cgroup, faults: every / 4096, window };
        let event = KernelEvent { at: self.now, read_at: self.now, kind };
        self.manager.observe_kernel_event(&event);
        let grows = self.containers.iter().find(|c| c.container.leak_kib_s > 0).map(Running::domain);
        self.manager.observe_limit_event(&grows.expect("one that grows"), &event);
        true
    }

    fn reading(&self, wanted: impl Fn(&Domain) -> bool) -> MemoryReading {
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
        let mut domains = vec![
            domain(Domain::Node, 1 << 30, 1 << 30, Some(64 << 30)),
            domain(Domain::Kubepods, 1 << 30, 0, Some(60 << 30)),
        ];
        for c in self.containers.iter().filter(|c| !c.ended) {
            domains.push(domain(Domain::Pod(c.uid()), c.anon + PAUSE, c.cache, Some(c.limit() + 16 * MIB)));
            domains.push(domain(c.domain(), c.anon, c.cache, Some(c.limit())));
        }
        domains.retain(|d| matches!(d.domain, Domain::Node | Domain::Kubepods) || wanted(&d.domain));
        MemoryReading {
            at: self.now,
            done_at: self.now,
            why: Reason::SampleDue,
            caused_by: None,
            mem_available_bytes: 62 << 30,
            domains,
            stalled: Vec::new(),
        }
    }
}

mod scenarios;
