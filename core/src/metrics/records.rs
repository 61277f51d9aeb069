//! Counters that follow from the trace: whoever records tells at once what is to be counted. Owns the counts and the
//! histograms; emits their registry.
//!
//! OOM kills of a container are kept by pod and container name, so that they outlive its restarts, and go with the pod.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use crate::clock::Mono;
use crate::pod::PodUid;
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

/// From 0.1 ms, in which a kernel event is decided on, to some seconds.
const DECISION_BUCKETS: [f64; 12] = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0, 10.0];
/// An eviction by forecast leads by hundreds of milliseconds on a fast leak, by minutes on a slow one.
const LEAD_BUCKETS: [f64; 12] = [0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Of Prometheus' own libraries.
const AGE_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Of one pod's images.
#[derive(Debug, Default)]
struct Pulls {
    /// By container, CLOCK_MONOTONIC nanoseconds.
    begun: BTreeMap<String, u64>,
    took: Duration,
}

#[derive(Debug)]
pub struct RecordCounts {
    registry: Registry,
    oom_kills_of: BTreeMap<PodUid, BTreeMap<String, u64>>,
    pulls: BTreeMap<PodUid, Pulls>,
    /// Pods that have no worker yet, CLOCK_MONOTONIC nanoseconds since when they are named.
    named: BTreeMap<PodUid, u64>,
    orphans: IntCounter,
    kubelet_evictions: IntCounterVec,
    stats_age: HistogramVec,
    preemptions: IntCounterVec,
    rejections: IntCounterVec,
    signals: IntCounterVec,
    evictions: IntCounterVec,
    lead: Histogram,
    decision: Histogram,
    brakes: IntCounterVec,
    oom_kills: IntCounterVec,
    lost: IntCounter,
    tier: Gauge,
    records: IntCounterVec,
}

impl Default for RecordCounts {
    /// # Panics
    /// Never: the names are constants, and a test makes them all.
    fn default() -> RecordCounts {
        let registry = Registry::new();
        let made = Self::new(&registry);
        made.unwrap_or_else(|error| unreachable!("a name or label of this file is no good: {error}"))
    }
}

impl RecordCounts {
    fn new(registry: &Registry) -> prometheus::Result<RecordCounts> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| -> prometheus::Result<Histogram> {
            let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let stats_age = HistogramVec::new(
            HistogramOpts::new(
                "kubelet_eviction_stats_age_seconds",
                "[ALPHA] Time between when stats are collected, and when pod is evicted based on those stats by eviction signal",
            )
            .buckets(AGE_BUCKETS.to_vec()),
            &["eviction_signal"],
        )?;
        registry.register(Box::new(stats_age.clone()))?;
        let lost = IntCounter::new(
            "oomlet_records_lost_total",
            "Records of the eBPF programs that the ring buffer had no room for.",
        )?;
        registry.register(Box::new(lost.clone()))?;
        let tier = Gauge::new(
            "oomlet_sensing_tier",
            "What the agent senses memory with: 0 the sampler alone, 1 tracepoints, 2 BTF.",
        )?;
        registry.register(Box::new(tier.clone()))?;
        let orphans = IntCounter::new(
            "kubelet_orphaned_runtime_pods_total",
            "[ALPHA] Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.",
        )?;
        registry.register(Box::new(orphans.clone()))?;
        Ok(RecordCounts {
            registry: registry.clone(),
            oom_kills_of: BTreeMap::new(),
            pulls: BTreeMap::new(),
            named: BTreeMap::new(),
            orphans,
            kubelet_evictions: counters(
                "kubelet_evictions",
                "[ALPHA] Cumulative number of pod evictions by eviction signal",
                &["eviction_signal"],
            )?,
            stats_age,
            preemptions: counters(
                "kubelet_preemptions",
                "[ALPHA] Cumulative number of pod preemptions by preemption resource",
                &["preemption_signal"],
            )?,
            rejections: counters(
                "kubelet_admission_rejections_total",
                "[ALPHA] Cumulative number pod admission rejections by the Kubelet.",
                &["reason"],
            )?,
            signals: counters(
                "oomlet_signals_total",
                "Kernel events about memory by kind and domain, as the trace tells them.",
                &["signal", "domain"],
            )?,
            evictions: counters(
                "oomlet_evictions_total",
                "Pods and containers that were decided to be ended, by reason and domain.",
                &["reason", "domain"],
            )?,
            lead: histogram(
                "oomlet_eviction_lead_seconds",
                "Time from the decision to evict until memory would have been gone, by the forecast.",
                &LEAD_BUCKETS,
            )?,
            decision: histogram(
                "oomlet_signal_to_decision_seconds",
                "Time from a kernel event to the decision on fresh numbers.",
                &DECISION_BUCKETS,
            )?,
            brakes: counters(
                "oomlet_brakes_total",
                "Pods and containers that were held, throttled or let go, by reason.",
                &["reason"],
            )?,
            oom_kills: counters(
                "oomlet_oom_kills_total",
                "Kills of the kernel's OOM killer by the domain whose limit was reached.",
                &["domain"],
            )?,
            lost,
            tier,
            records: counters("oomlet_trace_records_total", "Records of the trace by kind.", &["kind"])?,
        })
    }

    /// To be called once for each record.
    pub fn take(&mut self, record: &Record) {
        self.records.with_label_values(&[record.kind.as_str()]).inc();
        let domain = record.domain.as_deref().unwrap_or("unknown");
        let number = |name: &str| record.numbers.get(name).copied();
        if let Some(us) = number("signal_to_decision_us") {
            self.decision.observe(seconds(us, 1e6));
        }
        match record.kind {
            Kind::Signal => {
                if let Some(signal) = &record.signal {
                    self.signals.with_label_values(&[signal.as_str(), domain]).inc();
                }
            }
            Kind::Decision => self.take_decision(record, domain),
            Kind::Brake => self.brakes.with_label_values(&[record.reason.as_str()]).inc(),
            Kind::OomKill => self.take_kill(record, domain),
            Kind::Agent => {
                if let Some(tier) = number("tier") {
                    self.tier.set(seconds(tier, 1.0));
                }
            }
            Kind::Pod => self.take_step(record),
            Kind::Warning => self.take_warning(record),
            Kind::Forecast | Kind::Eviction | Kind::Node => {}
        }
    }

    /// What a pod's worker did.
    fn take_step(&mut self, record: &Record) {
        let Some(uid) = record.pod.as_ref().map(|pod| PodUid::from(pod.uid.as_str())) else { return };
        match (record.reason, &record.container) {
            (Reason::PodRemoved, _) => {
                self.oom_kills_of.remove(&uid);
                self.pulls.remove(&uid);
                self.named.remove(&uid);
            }
            (Reason::PodAdded, None) => {
                self.named.entry(uid).or_insert(record.monotonic_ns);
            }
            (Reason::OrphanedPod, _) => self.orphans.inc(),
            (Reason::Pulling, Some(container)) => {
                self.pulls.entry(uid).or_default().begun.insert(container.clone(), record.monotonic_ns);
            }
            (Reason::Pulled, Some(container)) => {
                let Some(pulls) = self.pulls.get_mut(&uid) else { return };
                if let Some(begun) = pulls.begun.remove(container) {
                    pulls.took += Duration::from_nanos(record.monotonic_ns.saturating_sub(begun));
                }
            }
            _ => {}
        }
    }

    /// How long the pod's images were pulled, one after the other.
    #[must_use]
    pub fn pull_time(&self, pod: &PodUid) -> Duration {
        self.pulls.get(pod).map_or(Duration::ZERO, |pulls| pulls.took)
    }

    /// The pod has a worker from `now` on: how long it has been named. `None`: that is not known, or has been told.
    pub fn worker_started(&mut self, pod: &PodUid, now: Mono) -> Option<Duration> {
        let named = self.named.remove(pod)?;
        Some(now.since(Mono(named)))
    }

    fn take_decision(&mut self, record: &Record, domain: &str) {
        self.evictions.with_label_values(&[record.reason.as_str(), domain]).inc();
        if let Some(ms) = record.numbers.get("lead_ms") {
            self.lead.observe(seconds(*ms, 1e3));
        }
        // A container that is stopped before its own limit is no eviction to kubelet.
        let Some(signal) = &record.signal else { return };
        self.kubelet_evictions.with_label_values(&[signal.as_str()]).inc();
        if let Some(us) = record.numbers.get("read_to_decision_us") {
            self.stats_age.with_label_values(&[signal.as_str()]).observe(seconds(*us, 1e6));
        }
    }

    fn take_kill(&mut self, record: &Record, domain: &str) {
        self.oom_kills.with_label_values(&[domain]).inc();
        if let (Some(pod), Some(container)) = (&record.pod, &record.container) {
            let kills = record.numbers.get("kills").and_then(|n| u64::try_from(*n).ok()).unwrap_or(1);
            let of_pod = self.oom_kills_of.entry(PodUid::from(pod.uid.as_str())).or_default();
            *of_pod.entry(container.clone()).or_default() += kills.max(1);
        }
    }

    fn take_warning(&mut self, record: &Record) {
        match record.reason {
            Reason::RecordsLost => {
                let lost = record.numbers.get("lost_records").and_then(|n| u64::try_from(*n).ok());
                self.lost.inc_by(lost.unwrap_or(0));
                if record.numbers.get("tier") == Some(&0) {
                    self.tier.set(0.0);
                }
            }
            // Which resource it was short of is in words only.
            Reason::Preempting => self.preemptions.with_label_values(&["pods"]).inc(),
            Reason::OutOfmemory
            | Reason::OutOfcpu
            | Reason::OutOfpods
            | Reason::SysctlForbidden
            | Reason::UnsupportedFeature => {
                self.rejections.with_label_values(&[record.reason.as_str()]).inc();
            }
            _ => {}
        }
    }

    /// How often the container of this name was OOM-killed, its earlier instances counted in.
    #[must_use]
    pub fn oom_kills(&self, pod: &PodUid, container: &str) -> u64 {
        self.oom_kills_of.get(pod).and_then(|of| of.get(container)).copied().unwrap_or(0)
    }

    /// How often each container of each pod was.
    #[must_use]
    pub fn all_oom_kills(&self) -> BTreeMap<PodUid, BTreeMap<String, u64>> {
        self.oom_kills_of.clone()
    }

    /// Where the families are. A clone of the same: who records does not wait for whoever reads.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }
}

#[allow(clippy::cast_precision_loss, reason = "a double is what Prometheus has")]
fn seconds(value: i64, units_per_s: f64) -> f64 {
    value as f64 / units_per_s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodRef;

    fn pod() -> PodRef {
        PodRef { uid: "u".into(), namespace: "ns".into(), name: "web".into() }
    }

    fn record(kind: Kind, reason: Reason) -> Record {
        Record::new(Mono(1), kind, reason, "")
    }

    fn value(counts: &RecordCounts, name: &str) -> f64 {
        let families = counts.registry().gather();
        let family = families.iter().find(|f| f.name() == name);
        let metrics = family.map(|f| f.get_metric()).unwrap_or_default();
        metrics.iter().map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum()
    }

    #[test]
    fn a_containers_kills_outlive_it_and_go_with_its_pod() {
        let mut counts = RecordCounts::default();
        let kill =
            || record(Kind::OomKill, Reason::OomKilled).pod(&pod()).container("app").domain("container");
        counts.take(&kill());
        counts.take(&record(Kind::Pod, Reason::Started).pod(&pod()).container("app"));
        counts.take(&kill());
        // One more process of it that died with it.
        counts.take(&Record { kind: Kind::Signal, ..kill() });
        assert_eq!(counts.oom_kills(&"u".into(), "app"), 2);
        assert_eq!((counts.oom_kills(&"u".into(), "b"), counts.oom_kills(&"v".into(), "app")), (0, 0));
        assert_eq!(value(&counts, "oomlet_oom_kills_total"), 2.0);
        counts.take(&record(Kind::Pod, Reason::PodRemoved).pod(&pod()));
        assert_eq!(counts.oom_kills(&"u".into(), "app"), 0);
    }

    #[test]
    fn decisions_by_kubelets_signal_and_by_reason() {
        let mut counts = RecordCounts::default();
        let decision = record(Kind::Decision, Reason::ForecastOutOfMemory).pod(&pod()).domain("node");
        let decision =
            decision.signal("memory.available").number("lead_ms", 400).number("read_to_decision_us", 300);
        counts.take(&decision);
        // A container before its own limit.
        counts.take(&record(Kind::Decision, Reason::MemoryLimitForestalled).pod(&pod()).domain("container"));
        assert_eq!(value(&counts, "kubelet_evictions"), 1.0);
        assert_eq!(value(&counts, "oomlet_evictions_total"), 2.0);
        let families = counts.registry().gather();
        let of = |name: &str| {
            let family = families.iter().find(|f| f.name() == name).unwrap();
            let h = family.get_metric()[0].get_histogram();
            (h.get_sample_count(), h.get_sample_sum())
        };
        assert_eq!(of("oomlet_eviction_lead_seconds"), (1, 0.4));
        assert_eq!(of("kubelet_eviction_stats_age_seconds"), (1, 0.0003));
    }

    #[test]
    fn a_pods_worker_starts_once() {
        let mut counts = RecordCounts::default();
        let at = |at_ns, reason| Record::new(Mono(at_ns), Kind::Pod, reason, "").pod(&pod());
        counts.take(&at(5, Reason::PodAdded));
        counts.take(&at(7, Reason::PodAdded));
        let mut started = |at_ns| counts.worker_started(&"u".into(), Mono(at_ns));
        assert_eq!([started(9), started(10)], [Some(Duration::from_nanos(4)), None]);
        counts.take(&at(11, Reason::OrphanedPod));
        assert_eq!(value(&counts, "kubelet_orphaned_runtime_pods_total"), 1.0);
    }

    #[test]
    fn signals_lost_records_and_the_tier() {
        let mut counts = RecordCounts::default();
        counts.take(&record(Kind::Agent, Reason::AgentStarted).number("tier", 2));
        counts.take(&record(Kind::Signal, Reason::KernelSignal).signal("KswapdWake").domain("node"));
        counts.take(&record(Kind::Warning, Reason::RecordsLost).number("lost_records", 7));
        assert_eq!(value(&counts, "oomlet_sensing_tier"), 2.0);
        assert_eq!(value(&counts, "oomlet_signals_total"), 1.0);
        assert_eq!(value(&counts, "oomlet_records_lost_total"), 7.0);
        counts.take(&record(Kind::Warning, Reason::RecordsLost).number("tier", 0));
        assert_eq!(value(&counts, "oomlet_sensing_tier"), 0.0);
        assert_eq!(value(&counts, "oomlet_records_lost_total"), 7.0);
    }
}
