//! The node pressures other than memory: disk space and inodes of nodefs and imagefs, and process ids; and the limits
//! of local storage that a pod has of its own. Core. As kubelet does it (pkg/kubelet/eviction/eviction_manager.go).
//!
//! - [`reading`]: the numbers, and what is asked for.
//! - [`candidate`]: what must be known of a pod, from its manifest.
//! - [`pressure`]: thresholds, and the conditions DiskPressure and PIDPressure.
//! - [`manager`]: the state machine that the SyncLoop drives.
//! - [`ranking`]: which pod goes first.
//! - [`local_limits`]: pods that exceed a limit of their own.
//! - [`message`]: what the user reads.
//!
//! nodefs is the file system of the root directory, imagefs that of the runtime's image store. Where they are one,
//! all thresholds are judged and acted on alike.

pub mod candidate;
pub mod local_limits;
pub mod manager;
pub mod message;
pub mod pressure;
pub mod ranking;
pub mod reading;

use std::fmt;
use std::time::Duration;

use super::threshold::{Threshold, Thresholds};
use crate::clock::Mono;
use crate::pod::PodRef;
use crate::reason::Reason;

pub use candidate::ResourceCandidate;
pub use manager::{Images, ResourceManager};
pub use reading::{ResourceAnswer, ResourceOrder, ResourceQuery, ResourceReading};

/// kubelet's `evictionMonitoringPeriod` (pkg/kubelet/kubelet.go).
pub const MONITORING_PERIOD: Duration = Duration::from_secs(10);

/// kubelet's signals of disks and process ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceSignal {
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

impl ResourceSignal {
    pub const ALL: [ResourceSignal; 5] = [
        ResourceSignal::NodefsAvailable,
        ResourceSignal::NodefsInodesFree,
        ResourceSignal::ImagefsAvailable,
        ResourceSignal::ImagefsInodesFree,
        ResourceSignal::PidAvailable,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ResourceSignal::NodefsAvailable => "nodefs.available",
            ResourceSignal::NodefsInodesFree => "nodefs.inodesFree",
            ResourceSignal::ImagefsAvailable => "imagefs.available",
            ResourceSignal::ImagefsInodesFree => "imagefs.inodesFree",
            ResourceSignal::PidAvailable => "pid.available",
        }
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<ResourceSignal> {
        ResourceSignal::ALL.into_iter().find(|s| s.as_str() == name)
    }

    /// kubelet's `signalToNodeCondition`.
    #[must_use]
    pub const fn condition(self) -> Condition {
        match self {
            ResourceSignal::PidAvailable => Condition::PidPressure,
            _ => Condition::DiskPressure,
        }
    }

    /// kubelet's `signalToResource`.
    #[must_use]
    pub const fn resource(self) -> Resource {
        match self {
            ResourceSignal::NodefsAvailable | ResourceSignal::ImagefsAvailable => Resource::EphemeralStorage,
            ResourceSignal::NodefsInodesFree | ResourceSignal::ImagefsInodesFree => Resource::Inodes,
            ResourceSignal::PidAvailable => Resource::Pids,
        }
    }
}

impl fmt::Display for ResourceSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A condition of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    DiskPressure,
    PidPressure,
}

impl Condition {
    pub const ALL: [Condition; 2] = [Condition::DiskPressure, Condition::PidPressure];

    /// The reasons that stand for its beginning and its end.
    #[must_use]
    pub const fn reasons(self) -> (Reason, Reason) {
        match self {
            Condition::DiskPressure => (Reason::DiskPressure, Reason::DiskPressureEnded),
            Condition::PidPressure => (Reason::PIDPressure, Reason::PIDPressureEnded),
        }
    }
}

/// What runs short, in kubelet's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Bytes.
    EphemeralStorage,
    Inodes,
    Pids,
}

impl Resource {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Resource::EphemeralStorage => "ephemeral-storage",
            Resource::Inodes => "inodes",
            Resource::Pids => "pids",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ResourceConfig {
    /// `false`: readings and conditions work, and garbage is collected; no pod is ever evicted.
    pub enabled: bool,
    pub thresholds: Vec<Threshold<ResourceSignal>>,
    /// `evictionPressureTransitionPeriod`.
    pub transition_period: Duration,
    /// `evictionMaxPodGracePeriod`; zero: the pod's own grace period alone counts. For soft thresholds.
    pub max_pod_grace: Duration,
    /// `localStorageCapacityIsolation`: pods are held to their own limits.
    pub local_limits: bool,
    /// Between two readings while nothing is wrong.
    pub interval: Duration,
}

impl Default for ResourceConfig {
    /// kubelet's defaults.
    fn default() -> Self {
        ResourceConfig {
            enabled: true,
            thresholds: Thresholds::kubelet_defaults(true).resources,
            transition_period: Duration::from_secs(300),
            max_pod_grace: Duration::ZERO,
            local_limits: true,
            interval: MONITORING_PERIOD,
        }
    }
}

/// Which pods a reading takes in: walking what a pod has written takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodScope {
    /// Those that have a limit of their own.
    WithLimits,
    /// All that an eviction might stop: in order to decide.
    All,
}

/// What the SyncLoop is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum ResourceStep {
    /// Read disks, process ids and what pods use of them.
    Read { why: Reason, scope: PodScope },
    /// Remove what the node can do without: what ended pods have left, and `images` that nobody uses.
    ReclaimNode { images: bool },
    /// Remove images as `imageGCHighThresholdPercent` and `imageMaximumGCAge` ask for.
    CollectImages,
    /// Stop the pod with this grace and mark it Failed/Evicted.
    Evict(Box<ResourceEviction>),
}

/// One decision to evict.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceEviction {
    pub pod: PodRef,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// [`Reason::ThresholdMet`], or [`Reason::LocalStorageLimitExceeded`] for a limit of the pod's own.
    pub reason: Reason,
    /// `None` for a limit of the pod's own.
    pub signal: Option<ResourceSignal>,
    /// For the pod's status and Event, in kubelet's words.
    pub message: String,
    /// When the numbers were read.
    pub read_at: Mono,
    /// Names and values for the trace; the unit is last in each name.
    pub numbers: Vec<(&'static str, u64)>,
}
