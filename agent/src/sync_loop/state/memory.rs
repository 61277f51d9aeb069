//! Kernel events and readings, put in relation to pods: hints for the eviction manager, explanations of OOM kills,
//! and the MemoryPressure condition.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Mode, State};
use crate::clock::Mono;
use crate::eviction::manager::{Candidate, ContainerUse, Eviction};
use crate::pod::qos;
use crate::pod::{PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::attribution::{OomLimit, Target, limit_that_killed, parse_cgroup_path};
use crate::signal::{
    CgroupId, Domain, DomainReading, KernelEvent, KernelEventKind, MemoryReading, OomVictim,
};
use crate::trace::record::{Kind, Record};

impl State {
    pub(super) fn apply_kernel_event(&mut self, event: &KernelEvent, now: Mono) {
        match &event.kind {
            KernelEventKind::OomKill(victim) => self.apply_oom_kill(event, victim),
            KernelEventKind::InitExit { pid } => self.apply_init_exit(*pid, now),
            KernelEventKind::CgroupMade { path, .. } => {
                let pod = parse_cgroup_path(path).and_then(|(uid, _)| self.pods.get_mut(&uid));
                if let Some(pod) = pod {
                    pod.cgroups_stale = true;
                }
            }
            KernelEventKind::CgroupRemoved { cgroup, .. } => self.attribution.remove(cgroup),
            KernelEventKind::Lost { records } => self.apply_lost(*records, now),
            KernelEventKind::MemcgReclaim { cgroup, .. }
            | KernelEventKind::DirectReclaim { cgroup, .. }
            | KernelEventKind::ReclaimRetry { cgroup, .. }
            | KernelEventKind::Growth { cgroup, .. } => self.apply_pressure(event, Some(*cgroup), now),
            KernelEventKind::KswapdWake { .. } => self.apply_pressure(event, None, now),
        }
    }

    /// A hint that memory is moving: the manager will want fresh numbers.
    fn apply_pressure(&mut self, event: &KernelEvent, cgroup: Option<CgroupId>, now: Mono) {
        let target = cgroup.and_then(|id| self.attribution.lookup(&id).cloned());
        self.eviction.observe_kernel_event(event, target.as_ref().map(|t| &t.pod), now);
        let node_wide = matches!(
            event.kind,
            KernelEventKind::DirectReclaim { .. }
                | KernelEventKind::KswapdWake { .. }
                | KernelEventKind::ReclaimRetry { .. }
        );
        // What other services of the node do inside their own cgroups is not the agent's story to tell.
        if target.is_none() && !node_wide {
            return;
        }
        let mut record = signal_record(event);
        if let Some(target) = target {
            record = self.of_target(record, &target);
        }
        self.record(record);
    }

    /// The ring buffer was full. Nothing is missed for long: PLEG looks again, cgroups are mapped anew, and the
    /// sampler has its own deadlines.
    fn apply_lost(&mut self, records: u64, now: Mono) {
        self.kicks.insert(now);
        for pod in self.pods.values_mut() {
            pod.cgroups_stale |= pod.mode.may_hold_memory();
        }
        let message = "the ring buffer was full and records were lost; pods and memory are read afresh";
        self.record(Record::new(now, Kind::Warning, Reason::RecordsLost, message).number("lost_records", records));
    }

    pub(super) fn apply_cgroups(&mut self, uid: &PodUid, ids: Vec<(CgroupId, Option<String>)>) {
        if self.pods.contains_key(uid) {
            for (id, container) in ids {
                self.attribution.insert(id, Target { pod: uid.clone(), container });
            }
        }
    }

    pub(super) fn apply_reading(&mut self, reading: &MemoryReading, now: Mono) {
        self.eviction.observe_reading(reading, now);
        for domain in &reading.domains {
            self.compare_oom_counter(domain, now);
        }
        if let Some(caused_by) = reading.caused_by {
            self.undecided.push(caused_by);
        }
        self.last_reading = Some(reading.clone());
    }

    /// The plan that follows a reading is the decision on the kernel event that asked for it; this notes how long it
    /// took, whatever was decided.
    pub fn decided(&mut self, now: Mono) {
        for caused_by in std::mem::take(&mut self.undecided) {
            let took = now.since(caused_by);
            let forecast = self.eviction.forecasts().find(|(d, _)| *d == Domain::Kubepods).map(|(_, f)| f);
            let mut record = Record::new(now, Kind::Forecast, Reason::KernelSignal, "decided on fresh numbers")
                .number("signal_to_decision_us", took.as_micros());
            if let Some(f) = forecast {
                record = record
                    .domain("kubepods")
                    .number("headroom_bytes", f.headroom_bytes)
                    .number("growth_bytes_per_s", f.fast_rate as i64);
                if let Some(t) = f.time_to_oom {
                    record = record.number("time_to_oom_ms", t.as_millis());
                }
            }
            self.record(record);
        }
    }

    /// Tier 0 learns of a kill from the container's `oom_kill` counter; with the kernel's own record this is the
    /// cross-check, and says nothing new.
    fn compare_oom_counter(&mut self, reading: &DomainReading, now: Mono) {
        let Domain::Container(uid, container) = &reading.domain else { return };
        let Some(before) = self.oom_kills.insert(reading.domain.clone(), reading.oom_kills) else { return };
        let told = self.told_kills.remove(&reading.domain).unwrap_or(0);
        let new = reading.oom_kills.saturating_sub(before).saturating_sub(told);
        let Some(pod) = self.pods.get_mut(uid).filter(|_| new > 0) else { return };
        pod.oom_told.insert(container.clone());
        let id = pod.id.clone();
        let message = "the container's oom_kill counter rose: the kernel killed a process of it";
        let mut record =
            Record::new(now, Kind::OomKill, Reason::OomKilled, message).pod(&id).container(container.clone());
        if let Some(limit) = self.limit_reached_last(uid, Some(container)) {
            record = self.with_limit(record, &limit);
        }
        self.record(record.number("kills", new));
    }

    fn apply_oom_kill(&mut self, event: &KernelEvent, victim: &OomVictim) {
        let target = victim
            .cgroup
            .iter()
            .chain(victim.levels.iter().map(|l| &l.cgroup))
            .find_map(|id| self.attribution.lookup(id).cloned())
            .or_else(|| self.target_of_pid(victim.pid));
        let limit = match &target {
            _ if !victim.levels.is_empty() => {
                Some(limit_that_killed(&victim.levels, |id| self.attribution.lookup(id).cloned()))
            }
            Some(t) => self.limit_reached_last(&t.pod, t.container.as_deref()),
            None => None,
        };
        let mut message = describe_victim(victim);
        let _ = match &limit {
            Some(limit) => write!(message, ": {}", describe_limit(limit)),
            None => write!(message, "; which limit was reached is not known below tier 2"),
        };
        let mut record = Record::new(event.at, Kind::OomKill, Reason::OomKilled, message)
            .number("victim_pid", victim.pid)
            .number("event_to_record_us", event.read_at.since(event.at).as_micros());
        for (name, value) in [
            ("victim_anon_rss_bytes", victim.anon_rss_bytes),
            ("victim_file_rss_bytes", victim.file_rss_bytes),
            ("victim_shmem_rss_bytes", victim.shmem_rss_bytes),
            ("victim_total_vm_bytes", victim.total_vm_bytes),
        ] {
            if let Some(value) = value {
                record = record.number(name, value);
            }
        }
        if let Some(limit) = &limit {
            record = self.with_limit(record, limit);
        }
        if let Some(target) = target {
            if let Some(container) = &target.container {
                let domain = Domain::Container(target.pod.clone(), container.clone());
                *self.told_kills.entry(domain).or_default() += 1;
                if let Some(pod) = self.pods.get_mut(&target.pod) {
                    pod.oom_told.insert(container.clone());
                }
            }
            record = self.of_target(record, &target);
        }
        self.record(record);
    }

    /// Below tier 2 the record has a pid only; container init processes are known by theirs.
    fn target_of_pid(&self, pid: u32) -> Option<Target> {
        self.pods.values().find_map(|pod| {
            let container = pod.runtime.containers.iter().find(|c| c.pid == Some(pid))?;
            Some(Target { pod: pod.id.uid.clone(), container: Some(container.name.clone()) })
        })
    }

    /// Without the kernel's own levels: the smallest domain that was at its limit when last read.
    fn limit_reached_last(&self, uid: &PodUid, container: Option<&str>) -> Option<OomLimit> {
        let reading = self.last_reading.as_ref()?;
        let domains = container
            .map(|c| Domain::Container(uid.clone(), c.to_owned()))
            .into_iter()
            .chain([Domain::Pod(uid.clone()), Domain::Kubepods]);
        domains.filter_map(|d| reading.of(&d)).find_map(|r| {
            // 3 %: what a hog may take between the last sample and the kill.
            let limit = r.limit_bytes.filter(|limit| r.usage_bytes >= limit - limit / 32)?;
            Some(OomLimit { domain: r.domain.kind(), usage_bytes: r.usage_bytes, limit_bytes: Some(limit) })
        })
    }

    fn with_limit(&self, record: Record, limit: &OomLimit) -> Record {
        let record = record.domain(limit.domain).number("usage_bytes", limit.usage_bytes);
        match limit.limit_bytes {
            Some(bytes) => record.number("limit_bytes", bytes),
            None => record,
        }
    }

    fn of_target(&self, record: Record, target: &Target) -> Record {
        let record = match self.pods.get(&target.pod) {
            Some(pod) => record.pod(&pod.id),
            None => {
                let uid = target.pod.clone();
                record.pod(&PodRef { uid, namespace: String::new(), name: String::new() })
            }
        };
        match &target.container {
            Some(container) => record.container(container.clone()),
            None => record,
        }
    }

    pub(super) fn record_decision(&mut self, eviction: &Eviction, now: Mono) {
        let n = &eviction.numbers;
        let mut record = Record::new(now, Kind::Decision, eviction.reason, eviction.message.clone())
            .pod(&eviction.pod)
            .domain(n.domain.kind())
            .number("usage_bytes", n.usage_bytes)
            .number("available_bytes", n.available_bytes)
            .number("headroom_bytes", n.headroom_bytes)
            .number("growth_bytes_per_s", n.growth_bytes_per_s as i64)
            .number("time_to_free_ms", n.time_to_free.as_millis())
            .number("grace_ms", eviction.grace.as_millis());
        for (name, value) in [("limit_bytes", n.limit_bytes), ("threshold_bytes", n.threshold_bytes)] {
            if let Some(value) = value {
                record = record.number(name, value);
            }
        }
        if let Some(lead) = n.time_to_oom {
            record = record.number("lead_ms", lead.as_millis());
        }
        if let Some(caused_by) = n.caused_by {
            record = record.number("signal_to_decision_us", now.since(caused_by).as_micros());
        }
        self.record(record);
    }

    /// Pods that may be chosen: what the manager ranks.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.pods
            .values()
            .filter(|p| p.mode == Mode::Active)
            .map(|p| Candidate {
                pod: p.id.clone(),
                priority: qos::priority(&p.pod),
                critical: qos::is_critical(&p.pod),
                memory_request_bytes: qos::memory_request_bytes(&p.pod),
                grace_period: crate::pod::lifecycle::termination_grace(&p.pod),
                qos: qos::qos_class(&p.pod),
                containers: self.container_uses(p),
            })
            .collect()
    }

    fn container_uses(&self, pod: &super::PodState) -> Vec<ContainerUse> {
        let containers = pod.pod.spec.iter().flat_map(|s| &s.containers);
        containers
            .map(|c| {
                let domain = Domain::Container(pod.id.uid.clone(), c.name.clone());
                let reading = self.last_reading.as_ref().and_then(|r| r.of(&domain));
                ContainerUse {
                    name: c.name.clone(),
                    request_bytes: qos::container_memory_request_bytes(c),
                    usage_bytes: reading.map(DomainReading::working_set_bytes),
                }
            })
            .collect()
    }

    pub(super) fn update_pressure(&mut self, now: Mono) {
        let pressure = self.eviction.memory_pressure(now);
        if pressure.is_some() == self.under_pressure {
            return;
        }
        self.under_pressure = pressure.is_some();
        let (reason, message) = match pressure {
            Some(why) => (Reason::MemoryPressure, format!("the node is under memory pressure: {why}")),
            None => {
                let period: Duration = self.config.eviction.transition_period;
                let message = format!("no memory pressure for {} s", period.as_secs());
                (Reason::MemoryPressureEnded, message)
            }
        };
        self.record(Record::new(now, Kind::Node, reason, message).domain("node"));
    }

    /// MemoryPressure, as admission and the node's condition see it.
    #[must_use]
    pub const fn under_memory_pressure(&self) -> bool {
        self.under_pressure
    }
}

fn signal_record(event: &KernelEvent) -> Record {
    let record = |domain: &str, message: &str| {
        Record::new(event.at, Kind::Signal, Reason::KernelSignal, message)
            .domain(domain)
            .number("event_to_record_us", event.read_at.since(event.at).as_micros())
    };
    match &event.kind {
        KernelEventKind::MemcgReclaim { events, stalled, .. } => {
            record("container", "reclaim at a cgroup's limit").number("events", *events).number("stalled_us", stalled.as_micros())
        }
        KernelEventKind::DirectReclaim { events, stalled, .. } => {
            record("node", "direct reclaim").number("events", *events).number("stalled_us", stalled.as_micros())
        }
        KernelEventKind::KswapdWake { events } => record("node", "kswapd woken").number("events", *events),
        KernelEventKind::ReclaimRetry { no_progress_loops, .. } => {
            record("node", "reclaim makes no progress").number("no_progress_loops", *no_progress_loops)
        }
        KernelEventKind::Growth { faults, window, .. } => {
            record("container", "grows").number("faults", *faults).number("window_ms", window.as_millis())
        }
        _ => record("node", "a kernel event"),
    }
}

fn describe_victim(victim: &OomVictim) -> String {
    let comm = victim.comm.as_deref().unwrap_or("a process");
    let mut text = format!("the kernel's OOM killer killed {comm} (pid {})", victim.pid);
    if let Some(rss) = victim.anon_rss_bytes {
        let _ = write!(text, " with {} MiB of anonymous memory", rss >> 20);
    }
    text
}

fn describe_limit(limit: &OomLimit) -> String {
    let used = limit.usage_bytes >> 20;
    match (limit.domain, limit.limit_bytes) {
        ("node", _) => format!("the node was out of memory ({used} MiB used)"),
        (domain, Some(bytes)) => {
            format!("the limit of the {domain}, {} MiB, was reached ({used} MiB used)", bytes >> 20)
        }
        (domain, None) => format!("the {domain} was out of memory ({used} MiB used)"),
    }
}
