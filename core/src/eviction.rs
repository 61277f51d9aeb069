//! Node-pressure eviction: when memory runs out, which pod goes, with how much grace, and why. Core.
//!
//! - [`resources`]: the same for disks and process ids, and pods' own limits of local storage.
//! - [`threshold`]: kubelet's signals and threshold syntax.
//! - [`ranking`]: which pod goes first.
//! - [`manager`]: the state machine that the SyncLoop drives.
//! - [`psi`]: tasks that stand still for memory, as a signal of its own.
//! - [`container_stop`]: a container is stopped before it reaches its own limit.
//! - [`message`]: what the user reads.

pub mod container_stop;
pub mod manager;
pub mod message;
pub mod psi;
pub mod ranking;
pub mod resources;
pub mod threshold;

use std::time::Duration;

use crate::brake::BrakeStep;
use crate::clock::Mono;
use crate::forecast::MAX_RATE_BYTES_PER_S;
use crate::pod::memory_limit::MemoryLimit;
use crate::pod::qos::QosClass;
use crate::pod::{ContainerInstance, PodRef};
use crate::reason::Reason;
use crate::signal::Domain;
pub use crate::signal::ReadScope;
pub use container_stop::ContainerStop;
use psi::PsiThresholds;
use threshold::{Signal, Threshold, Thresholds};

#[derive(Clone, Debug, PartialEq)]
pub struct EvictionConfig {
    /// `false`: readings, forecasts and the MemoryPressure condition work, nothing is ever evicted, and no container stopped
    /// before its limit.
    pub enabled: bool,
    pub thresholds: Vec<Threshold>,
    pub psi: PsiThresholds,
    /// `evictionPressureTransitionPeriod`.
    pub transition_period: Duration,
    /// `evictionMaxPodGracePeriod`; zero: the pod's own grace period alone counts.
    pub max_pod_grace: Duration,
    /// Evict on a forecast too, not only on thresholds.
    pub forecast: bool,
    /// Act when the time to OOM is below the time that freeing takes, times this.
    pub safety: f64,
    /// Hold an evicted pod that would use up the memory before its grace ends.
    pub brake: bool,
    /// What is to happen at a container's own limit, where its pod does not say.
    pub memory_limit: MemoryLimit,
    /// Fastest growth that no event would tell of: [`MAX_RATE_BYTES_PER_S`], or
    /// [`crate::forecast::max_rate_with_growth_events_bytes_per_s`] while the growth programs are loaded.
    pub assumed_max_rate_bytes_per_s: u64,
    /// Longest time between two samples.
    pub max_sample_interval: Duration,
}

impl Default for EvictionConfig {
    /// kubelet's defaults, and forecasts on.
    fn default() -> Self {
        EvictionConfig {
            enabled: true,
            thresholds: Thresholds::kubelet_defaults(true).enforced,
            psi: PsiThresholds::default(),
            transition_period: Duration::from_secs(300),
            max_pod_grace: Duration::ZERO,
            forecast: true,
            safety: 2.0,
            brake: true,
            memory_limit: MemoryLimit::default(),
            assumed_max_rate_bytes_per_s: MAX_RATE_BYTES_PER_S,
            max_sample_interval: Duration::from_secs(1),
        }
    }
}

/// A running pod, as far as eviction is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub pod: PodRef,
    pub priority: i32,
    /// Never evicted; see [`crate::pod::qos::is_critical`].
    pub critical: bool,
    /// Sum over the pod, as for scheduling.
    pub memory_request_bytes: u64,
    /// `terminationGracePeriodSeconds`.
    pub grace_period: Duration,
    pub qos: QosClass,
    pub containers: Vec<ContainerUse>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUse {
    pub name: String,
    pub memory_request_bytes: u64,
    /// Working set, where the caller knows it. Otherwise the last reading of the container's domain counts, or the
    /// pod's if it is the only container.
    pub usage_bytes: Option<u64>,
}

/// What the SyncLoop is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum EvictionStep {
    /// Read the cgroup files and come back with a `MemoryReading`; hand `why` and `caused_by` through to it.
    Read { why: Reason, caused_by: Option<Mono>, scope: ReadScope },
    /// Stop the pod with this grace and mark it Failed/Evicted.
    Evict(Box<Eviction>),
    /// Change how an evicted pod, or a container that is being stopped, is held.
    Brake(BrakeStep),
    /// Memory would be gone before the evicted pod's grace ends: kill it now.
    CutGrace { pod: PodRef, why: Reason, numbers: Numbers },
    /// As `Read`, of these containers and pods alone, with the node and `kubepods`.
    ReadLimits { why: Reason, caused_by: Option<Mono>, domains: Vec<Domain> },
    /// Stop a container before it reaches its own memory limit.
    StopContainer(Box<ContainerStop>),
    /// It would reach it before its grace ends: kill it now.
    CutContainerGrace { pod: PodRef, container: ContainerInstance, why: Reason, numbers: Numbers },
}

/// One decision to evict.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    pub pod: PodRef,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// [`Reason::ThresholdMet`], [`Reason::ForecastOutOfMemory`], [`Reason::NodeStalled`] or [`Reason::PodStalled`].
    pub reason: Reason,
    /// kubelet's name of the signal: which domain ran low.
    pub signal: Signal,
    pub domain: Domain,
    /// By itself it would use up what is left before its grace ends: it is to be held until it has ended.
    pub brake: bool,
    pub numbers: Numbers,
    /// For the pod's status and Event, in kubelet's words.
    pub message: String,
    /// How long the memory would still have lasted.
    pub lead: Option<Duration>,
    /// The kernel event that led to the reading that this was decided on, by the time it happened.
    pub caused_by: Option<Mono>,
    /// When the numbers were read.
    pub read_at: Mono,
}

/// The numbers behind a decision. `None`: not known or not part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub threshold_bytes: Option<u64>,
    /// What the signal says is available: limit − working set.
    pub available_bytes: u64,
    pub usage_bytes: u64,
    pub limit_bytes: u64,
    pub headroom_bytes: u64,
    pub fast_rate_bytes_per_s: u64,
    pub slow_rate_bytes_per_s: u64,
    pub time_to_oom: Option<Duration>,
    pub time_to_free: Duration,
    /// Working set of the pod.
    pub pod_usage_bytes: Option<u64>,
    pub pod_request_bytes: Option<u64>,
    pub pod_rate_bytes_per_s: Option<u64>,
    /// Where tasks that stood still for memory are the reason.
    pub stalled: Option<StalledFor>,
}

/// For how long all tasks of the node, or of the evicted pod itself, stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StalledFor {
    /// Thousandths of the window.
    pub per_mille: u64,
    pub window: Duration,
    pub pod: bool,
}

impl Numbers {
    /// Names and values for a trace record.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, i64)> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        [
            ("threshold_bytes", self.threshold_bytes),
            ("available_bytes", Some(self.available_bytes)),
            ("usage_bytes", Some(self.usage_bytes)),
            ("limit_bytes", Some(self.limit_bytes)),
            ("headroom_bytes", Some(self.headroom_bytes)),
            ("fast_rate_bytes_per_s", Some(self.fast_rate_bytes_per_s)),
            ("slow_rate_bytes_per_s", Some(self.slow_rate_bytes_per_s)),
            ("time_to_oom_ms", self.time_to_oom.map(ms)),
            ("time_to_free_ms", Some(ms(self.time_to_free))),
            ("pod_usage_bytes", self.pod_usage_bytes),
            ("pod_request_bytes", self.pod_request_bytes),
            ("pod_rate_bytes_per_s", self.pod_rate_bytes_per_s),
            ("stalled_per_mille", self.stalled.map(|s| s.per_mille)),
            ("stalled_window_ms", self.stalled.map(|s| ms(s.window))),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, i64::try_from(value?).unwrap_or(i64::MAX))))
        .collect()
    }
}
