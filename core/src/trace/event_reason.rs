//! Which trace records are Kubernetes Events, and by what name people know them (kubelet: pkg/kubelet/events/event.go). One
//! table: a record that is not in it is for the trace alone.

use super::record::{Kind, Record};
use crate::reason::Reason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Type and reason of the Event that the record is, on its pod or, without one, on the Node. `None`: it is none.
#[must_use]
pub fn event_of(record: &Record) -> Option<(EventType, &'static str)> {
    use EventType::{Normal, Warning};
    let event = match record.reason {
        // The steps of a pod's start and end.
        Reason::Pulling => (Normal, "Pulling"),
        Reason::Pulled => (Normal, "Pulled"),
        Reason::ErrImageNeverPull => (Warning, "ErrImageNeverPull"),
        Reason::SandboxChanged => (Normal, "SandboxChanged"),
        Reason::FailedCreatePodSandBox => (Warning, "FailedCreatePodSandBox"),
        Reason::Created => (Normal, "Created"),
        Reason::Started => (Normal, "Started"),
        Reason::Failed => (Warning, "Failed"),
        Reason::BackOff if record.kind == Kind::Warning => (Warning, "BackOff"),
        Reason::BackOff => (Normal, "BackOff"),
        Reason::Killing => (Normal, "Killing"),
        Reason::FailedPostStartHook => (Warning, "FailedPostStartHook"),
        Reason::FailedPreStopHook => (Warning, "FailedPreStopHook"),
        Reason::LifecycleHTTPFallback => (Warning, "LifecycleHTTPFallback"),
        Reason::NodeReady => (Normal, "NodeReady"),
        Reason::NodeNotReady => (Normal, "NodeNotReady"),
        Reason::Evicted => (Warning, "Evicted"),
        Reason::DeadlineExceeded => (Normal, "DeadlineExceeded"),
        Reason::Preempting => (Warning, "Preempting"),
        Reason::MemoryLimitForestalled | Reason::GraceCutShort => (Warning, "Killing"),
        Reason::OomKilled => (Warning, "OOMKilling"),
        Reason::RetryAfterError => (Warning, "FailedSync"),
        Reason::FailedMount => (Warning, "FailedMount"),
        Reason::CertificateOverdueForRefresh => (Warning, "CertificateOverdueForRefresh"),
        Reason::CertificateExpired => (Warning, "CertificateExpired"),
        Reason::InvalidEnvironmentVariableNames => (Warning, "InvalidEnvironmentVariableNames"),
        Reason::InspectFailed => (Warning, "InspectFailed"),
        Reason::MissingClusterDNS => (Warning, "MissingClusterDNS"),
        Reason::DNSConfigForming => (Warning, "DNSConfigForming"),
        Reason::Unhealthy => (Warning, "Unhealthy"),
        Reason::ProbeWarning => (Warning, "ProbeWarning"),
        // Why it does not take it.
        Reason::OutOfmemory => (Warning, "OutOfmemory"),
        Reason::OutOfcpu => (Warning, "OutOfcpu"),
        Reason::OutOfpods => (Warning, "OutOfpods"),
        Reason::NodeAffinity => (Warning, "NodeAffinity"),
        Reason::TaintToleration => (Warning, "TaintToleration"),
        Reason::PodOSNotSupported => (Warning, "PodOSNotSupported"),
        Reason::AppArmor => (Warning, "AppArmor"),
        Reason::SysctlForbidden => (Warning, "SysctlForbidden"),
        Reason::UnsupportedFeature => (Warning, "UnsupportedFeature"),
        // The decision to evict, whatever it was made on.
        Reason::ThresholdMet
        | Reason::ForecastOutOfMemory
        | Reason::NodeStalled
        | Reason::PodStalled
        | Reason::LocalStorageLimitExceeded => (Warning, "Evicted"),
        // The node's conditions, as kubelet writes them.
        Reason::MemoryPressure => (Normal, "NodeHasInsufficientMemory"),
        Reason::MemoryPressureEnded => (Normal, "NodeHasSufficientMemory"),
        Reason::DiskPressure => (Normal, "NodeHasDiskPressure"),
        Reason::DiskPressureEnded => (Normal, "NodeHasNoDiskPressure"),
        Reason::PIDPressure => (Normal, "NodeHasInsufficientPID"),
        Reason::PIDPressureEnded => (Normal, "NodeHasSufficientPID"),
        Reason::FailedNodeAllocatableEnforcement => (Warning, "FailedNodeAllocatableEnforcement"),
        Reason::NodeAllocatableEnforced => (Normal, "NodeAllocatableEnforced"),
        Reason::AgentStarted => (Normal, "Starting"),
        Reason::ResourcesUnreadable => (Warning, "FreeDiskSpaceFailed"),
        // How the agent came to it, and what it went through: the trace's.
        Reason::PodAdded
        | Reason::PodAdopted
        | Reason::PodRemoved
        | Reason::PodReplaced
        | Reason::PodCompleted
        | Reason::VolumesReady
        | Reason::SandboxReady
        | Reason::ContainersNotStarted
        | Reason::ContainerChanged
        | Reason::ContainerStateUnknown
        | Reason::StrayContainer
        | Reason::LivenessProbeFailed
        | Reason::StartupProbeFailed
        | Reason::CrashLoopBackOffEnded
        | Reason::AllContainersRestarting
        | Reason::PodUpdated
        | Reason::PodNameTaken
        | Reason::RetryAfterEviction
        | Reason::ManifestRejected
        | Reason::OrphanedPod
        | Reason::PodLifecycleEvent
        | Reason::InitProcessExited
        | Reason::Resync
        | Reason::ObjectChanged
        | Reason::SampleDue
        | Reason::KernelSignal
        | Reason::GrowthOutrunsGrace
        | Reason::GrowthOutrunsOthersGrace
        | Reason::StopSignalSent
        | Reason::StopSignalAwaited
        | Reason::BrakeFailed
        | Reason::StartupProbeSucceeded
        | Reason::GarbageCollection
        | Reason::RuntimeStateChanged
        | Reason::RecordsLost
        | Reason::AgentStopping => return None,
    };
    // Signals and forecasts lead to a decision, which is the Event; the steps of an eviction come after it.
    let told = !matches!(record.kind, Kind::Signal | Kind::Forecast | Kind::Brake | Kind::Eviction);
    told.then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;

    #[test]
    fn records_and_their_events() {
        use EventType::{Normal, Warning};
        for (kind, reason, expected) in [
            (Kind::Decision, Reason::ForecastOutOfMemory, Some((Warning, "Evicted"))),
            (Kind::Eviction, Reason::Evicted, None),
            (Kind::OomKill, Reason::OomKilled, Some((Warning, "OOMKilling"))),
            (Kind::Signal, Reason::OomKilled, None),
            (Kind::Node, Reason::MemoryPressure, Some((Normal, "NodeHasInsufficientMemory"))),
            (Kind::Warning, Reason::OutOfcpu, Some((Warning, "OutOfcpu"))),
            (Kind::Pod, Reason::PodRemoved, None),
            (Kind::Pod, Reason::Killing, Some((Normal, "Killing"))),
            (Kind::Pod, Reason::BackOff, Some((Normal, "BackOff"))),
            (Kind::Warning, Reason::BackOff, Some((Warning, "BackOff"))),
            (Kind::Signal, Reason::KernelSignal, None),
            (Kind::Warning, Reason::Unhealthy, Some((Warning, "Unhealthy"))),
            (Kind::Pod, Reason::LivenessProbeFailed, None),
        ] {
            let record = Record::new(Mono::ZERO, kind, reason, "");
            assert_eq!(event_of(&record), expected, "{kind:?} {reason}");
        }
    }

    #[test]
    fn event_reasons_are_words_of_kubernetes_form() {
        for reason in Reason::ALL {
            if let Some((_, word)) = event_of(&Record::new(Mono::ZERO, Kind::Pod, *reason, "")) {
                assert!(
                    word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric),
                    "{word}"
                );
            }
        }
    }
}
