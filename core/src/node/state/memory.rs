//! Kernel events and readings, put in relation to pods: hints for the eviction manager, its decisions for the trace,
//! and the MemoryPressure condition.

use std::collections::BTreeSet;
use std::time::Duration;

use super::State;
use super::oom::with_oom_begin;
use crate::clock::Mono;
use crate::eviction::{Eviction, Numbers};
use crate::forecast::MAX_RATE_BYTES_PER_S;
use crate::pod::PodUid;
use crate::reason::Reason;
use crate::signal::attribution::{Target, parse_cgroup_path};
use crate::signal::{CgroupId, Domain, KernelEvent, KernelEventKind, MemcgLevel, MemoryReading, OomScope};
use crate::trace::record::{Kind, Record};

impl State {
    pub(super) fn apply_kernel_event(&mut self, event: &KernelEvent, now: Mono) {
        match &event.kind {
            KernelEventKind::OomKill(victim) => self.apply_oom_kill(event, victim),
            KernelEventKind::OomBegin(begin) => {
                self.oom.begun(event.at, (**begin).clone());
                let memcg = match begin.scope {
                    OomScope::Memcg(level) => Some(level.cgroup),
                    OomScope::Global | OomScope::Unknown => None,
                };
                self.apply_pressure(event, memcg);
            }
            KernelEventKind::InitExit { pid } => self.apply_init_exit(*pid, now),
            KernelEventKind::CgroupMade { path, .. } => {
                let pod = parse_cgroup_path(path).and_then(|p| self.pods.get_mut(&p.pod));
                if let Some(mut pod) = pod {
                    pod.cgroups_stale = true;
                }
            }
            KernelEventKind::CgroupRemoved { cgroup, .. } => {
                self.attribution.remove(*cgroup);
            }
            KernelEventKind::Lost { records } => self.apply_lost(*records, now),
            KernelEventKind::MemcgReclaim { cgroup, .. }
            | KernelEventKind::DirectReclaim { cgroup, .. }
            | KernelEventKind::ReclaimRetry { cgroup, .. }
            | KernelEventKind::Growth { cgroup, .. } => self.apply_pressure(event, Some(*cgroup)),
            KernelEventKind::LimitReclaim { memcg, .. }
            | KernelEventKind::OverHigh { memcg, .. }
            | KernelEventKind::Throttled { memcg, .. }
            | KernelEventKind::ChargeForecast { memcg, .. } => self.apply_pressure(event, Some(memcg.cgroup)),
            KernelEventKind::KswapdWake { .. } => self.apply_pressure(event, None),
        }
    }

    /// A hint that memory is moving: the manager will want fresh numbers.
    fn apply_pressure(&mut self, event: &KernelEvent, cgroup: Option<CgroupId>) {
        let target = cgroup.and_then(|id| self.attribution.lookup(id).cloned());
        self.eviction.observe_kernel_event(event);
        if let Some(domain) = target.as_ref().and_then(domain_of) {
            self.eviction.observe_limit_event(&domain, event);
        }
        let node_wide = match &event.kind {
            KernelEventKind::DirectReclaim { .. }
            | KernelEventKind::KswapdWake { .. }
            | KernelEventKind::ReclaimRetry { .. } => true,
            KernelEventKind::OomBegin(begin) => begin.scope == OomScope::Global,
            _ => false,
        };
        // What other services of the node do inside their own cgroups is not the agent's story to tell.
        if target.is_none() && !node_wide {
            return;
        }
        self.signals.told_at.get_or_insert(event.at);
        let mut record = signal_record(event, target.as_ref());
        if let Some(target) = target {
            record = self.with_target(record, &target);
        }
        self.record(record);
    }

    /// The ring buffer was full. Nothing is missed for long: PLEG looks again, cgroups are mapped anew, and the
    /// sampler has its own deadlines.
    fn apply_lost(&mut self, records: u64, now: Mono) {
        self.kick = Some(Reason::RecordsLost);
        self.pods.for_each_mut(|pod| pod.cgroups_stale |= pod.mode.may_hold_memory());
        let message = "the ring buffer was full and records were lost; pods and memory are read afresh";
        self.record(
            Record::new(now, Kind::Warning, Reason::RecordsLost, message).number("lost_records", records),
        );
    }

    /// Growth is not told any more as it happens, so samples must be as close as without the programs.
    pub(super) fn apply_kernel_silent(&mut self, why: &str, now: Mono) {
        self.eviction.set_assumed_max_rate(MAX_RATE_BYTES_PER_S);
        let message = format!(
            "the eBPF ring buffer cannot be read any more ({why}): sensing tier 0, the sampler alone; restart the agent to have the programs back"
        );
        self.record(Record::new(now, Kind::Warning, Reason::RecordsLost, message).number("tier", 0));
    }

    /// The whole list of each pod that is in it. Ids of a pod that is gone by now are of no use: they are never used
    /// again.
    pub(super) fn apply_cgroups(&mut self, cgroups: Vec<(CgroupId, Target)>) {
        let pods: BTreeSet<PodUid> = cgroups.iter().filter_map(|(_, target)| target.pod().cloned()).collect();
        for uid in &pods {
            // Without the programs nobody tells of a cgroup that went with a restarted container.
            self.attribution.remove_pod(uid);
        }
        for (id, target) in cgroups {
            if target.pod().is_none_or(|uid| self.pods.contains_key(uid)) {
                self.attribution.insert(id, target);
            }
        }
    }

    pub(super) fn apply_reading(&mut self, reading: &MemoryReading, now: Mono) {
        self.eviction.observe_reading(reading);
        self.compare_oom_counters(reading, now);
        // Only what was told as a signal gets its answer told: other services of the node ask for readings too.
        let told = self.signals.told_at.take();
        self.signals.undecided.extend(told.and(reading.caused_by));
        self.signals.last_reading = Some(reading.clone());
    }

    /// The plan that follows a reading is the decision on the kernel event that asked for it; this notes how long it
    /// took, whatever was decided.
    pub fn decided(&mut self, now: Mono) {
        for caused_by in std::mem::take(&mut self.signals.undecided) {
            let took = now.since(caused_by);
            let forecast = self.eviction.forecasts().find(|(d, _)| *d == Domain::Kubepods).map(|(_, f)| f);
            let mut record =
                Record::new(now, Kind::Forecast, Reason::KernelSignal, "decided on fresh numbers")
                    .number("signal_to_decision_us", took.as_micros());
            if let Some(f) = forecast {
                record = record
                    .domain("kubepods")
                    .number("headroom_bytes", f.headroom_bytes)
                    .number("fast_rate_bytes_per_s", f.fast_rate_bytes_per_s);
                if let Some(t) = f.time_to_oom {
                    record = record.number("time_to_oom_ms", t.as_millis());
                }
            }
            self.record(record);
        }
    }

    pub(super) fn record_decision(&mut self, eviction: &Eviction, now: Mono) {
        let record = Record::new(now, Kind::Decision, eviction.reason, eviction.message.clone())
            .pod(&eviction.pod)
            .domain(eviction.domain.kind())
            .number("grace_ms", eviction.grace.as_millis())
            .number("read_to_decision_us", now.since(eviction.read_at).as_micros());
        let mut record = with_numbers(record, &eviction.numbers);
        if let Some(lead) = eviction.lead {
            record = record.number("lead_ms", lead.as_millis());
        }
        // Where no kernel event asked for the numbers, the reading itself was the first to tell.
        let signal_at = eviction.caused_by.unwrap_or(eviction.read_at);
        record = record.number("signal_to_decision_us", now.since(signal_at).as_micros());
        self.record(record);
    }

    pub(super) fn update_pressure(&mut self, now: Mono) {
        let pressure = self.eviction.memory_pressure(now);
        if pressure.is_some() == self.conditions.memory_pressure {
            return;
        }
        self.conditions.memory_pressure = pressure.is_some();
        let (reason, message) = match pressure {
            Some(p) => {
                let (signal, available) = (p.signal, p.available_bytes >> 20);
                let message = format!("{signal} is {available} MiB, below {} MiB", p.threshold_bytes >> 20);
                (Reason::MemoryPressure, message)
            }
            None => {
                self.retries.look_again();
                let period: Duration = self.config.eviction.transition_period;
                let message = format!("no memory pressure for {} s", period.as_secs());
                (Reason::MemoryPressureEnded, message)
            }
        };
        self.record(Record::new(now, Kind::Node, reason, message).domain("node"));
    }

    /// Until when the eBPF programs are to tell of no growth, where they have not been told so.
    #[must_use]
    pub fn growth_to_be_quieted(&self) -> Option<Mono> {
        let until = self.eviction.growth_unwanted_until();
        (until != self.signals.quiet_until).then_some(until)
    }

    /// MemoryPressure, as admission and the node's condition see it.
    #[must_use]
    pub const fn under_memory_pressure(&self) -> bool {
        self.conditions.memory_pressure
    }
}

fn domain_of(target: &Target) -> Option<Domain> {
    match target {
        Target::Pod(uid) => Some(Domain::Pod(uid.clone())),
        Target::Container(uid, name) => Some(Domain::Container(uid.clone(), name.clone())),
        Target::Kubepods | Target::Qos(_) => None,
    }
}

/// `target`: whose cgroup the event names, where it is one of the agent's.
fn signal_record(event: &KernelEvent, target: Option<&Target>) -> Record {
    let whose = target.map_or("other", Target::kind);
    let record = |domain: &str, message: &str| {
        Record::new(event.at, Kind::Signal, Reason::KernelSignal, message)
            .domain(domain)
            .number("event_to_record_us", event.read_at.since(event.at).as_micros())
    };
    match &event.kind {
        KernelEventKind::MemcgReclaim { events, stalled, .. } => {
            record("container", "reclaim at a cgroup's limit")
                .number("events", *events)
                .number("stalled_us", stalled.as_micros())
        }
        KernelEventKind::DirectReclaim { events, stalled, .. } => record("node", "direct reclaim")
            .number("events", *events)
            .number("stalled_us", stalled.as_micros()),
        KernelEventKind::KswapdWake { events } => record("node", "kswapd woken").number("events", *events),
        KernelEventKind::ReclaimRetry { no_progress_loops, .. } => {
            record("node", "reclaim makes no progress").number("no_progress_loops", *no_progress_loops)
        }
        KernelEventKind::Growth { faults, window, .. } => {
            record("container", "grows").number("faults", *faults).number("window_ms", window.as_millis())
        }
        KernelEventKind::LimitReclaim { memcg, events } => {
            with_level(record(whose, "reclaim because of this domain's limit"), memcg)
                .number("events", *events)
        }
        KernelEventKind::OverHigh { memcg, events } => {
            with_level(record(whose, "above memory.high: reclaim"), memcg).number("events", *events)
        }
        KernelEventKind::Throttled { memcg, events } => {
            with_level(record(whose, "above memory.high: its tasks are slowed down"), memcg)
                .number("events", *events)
        }
        KernelEventKind::ChargeForecast { memcg, grown_bytes, window } => {
            with_level(record(whose, "about to reach its limit"), memcg)
                .number("grown_bytes", *grown_bytes)
                .number("window_us", window.as_micros())
        }
        KernelEventKind::OomBegin(begin) => {
            let record = match &begin.scope {
                OomScope::Global => record("node", "the OOM killer acts: the node itself is out of memory"),
                OomScope::Memcg(level) => {
                    with_level(record(whose, "the OOM killer acts: this domain is at its limit"), level)
                }
                OomScope::Unknown => record(whose, "the OOM killer acts"),
            };
            with_oom_begin(record, begin).number("chosen_pid", begin.chosen.pid)
        }
        _ => record("node", "a kernel event"),
    }
}

fn with_level(record: Record, level: &MemcgLevel) -> Record {
    let record = record.number("usage_bytes", level.usage_bytes);
    match level.limit_bytes {
        Some(limit) => record.number("limit_bytes", limit),
        None => record,
    }
}

pub(super) fn with_numbers(record: Record, numbers: &Numbers) -> Record {
    numbers.entries().into_iter().fold(record, |record, (name, value)| record.number(name, value))
}
