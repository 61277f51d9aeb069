//! Why the agent did what it did. Every action carries one [`Reason`]; the same word becomes the log field,
//! the metric label, the Event reason and the trace record.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The closed list of reasons. The text form is CamelCase, as Kubernetes writes reasons.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, for metrics and tests.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }
        }
    };
}

reasons! {
    /// A pod source named a pod for the first time.
    PodAdded,
    /// The pod was running when the agent started; the agent takes it over.
    PodAdopted,
    /// No pod source names the pod any more, or it is to be deleted.
    PodRemoved,
    /// The manifest changed so that another pod runs in its place, and the old one ends.
    PodReplaced,
    /// The manifest changed and the pod goes on with the new one.
    PodUpdated,
    /// The pod waits for another of the same name to end.
    PodNameTaken,
    /// What an evicted static pod was evicted for is over, and so is its back-off: it runs again.
    RetryAfterEviction,
    /// A manifest is not a pod that can be run; the message names the file and what is wrong.
    ManifestRejected,
    /// Found in the runtime, wanted by no source.
    OrphanedPod,
    /// PLEG saw a container or sandbox of the pod change state.
    PodLifecycleEvent,
    /// The eBPF program saw a container's init process exit.
    InitProcessExited,
    /// The periodic resync of the pod worker.
    Resync,
    /// The last attempt failed; its back-off has passed.
    RetryAfterError,
    /// A container has ended, and a rule of it has all containers of its pod start again.
    AllContainersRestarting,
    /// A container's CrashLoopBackOff has passed.
    CrashLoopBackOffEnded,
    /// A volume of the pod cannot be made, or its content not be brought up to date.
    FailedMount,
    /// A certificate that a pod's volume shows has not been renewed by ten minutes after it was to be.
    CertificateOverdueForRefresh,
    /// A certificate that a pod's volume shows has expired.
    CertificateExpired,
    /// Keys of a ConfigMap or Secret cannot be names of variables and are left out of a container's environment.
    InvalidEnvironmentVariableNames,
    /// An image cannot be looked for: its name is none, or the runtime refuses.
    InspectFailed,
    /// The pod asks for the cluster's DNS, and the node knows none.
    MissingClusterDNS,
    /// Not all of a pod's resolver settings fit into a resolv.conf.
    DNSConfigForming,
    /// A ConfigMap or Secret that the pod names has appeared, changed or gone.
    ObjectChanged,
    /// A domain's next sample is due before its headroom could be gone.
    SampleDue,
    /// A kernel event asked for fresh numbers.
    KernelSignal,
    /// A kubelet eviction threshold is met.
    ThresholdMet,
    /// The forecast time to OOM is shorter than what freeing memory takes.
    ForecastOutOfMemory,
    /// All tasks of the node stood still for memory for longer than its PSI threshold allows.
    NodeStalled,
    /// All tasks of the pod did.
    PodStalled,
    /// An evicted pod still grows and the memory would be gone before its grace ends.
    GraceCutShort,
    /// An evicted pod grows so fast that the memory would be gone before its grace ends: it is held.
    GrowthOutrunsGrace,
    /// A pod that is not evicted itself grows so fast that the memory would be gone before the grace of one that is evicted
    /// ends: it is held meanwhile.
    GrowthOutrunsOthersGrace,
    /// A pod that is held has its stop signal: it runs, on a budget.
    StopSignalSent,
    /// A pod that is held has no stop signal yet and has stood still for as long as it may: it runs, on a budget.
    StopSignalAwaited,
    /// A pod could not be held.
    BrakeFailed,
    /// A container would have run into its memory limit: it was stopped before, as its pod or the node asks for.
    MemoryLimitForestalled,
    /// The node is, or was within the transition period, under memory pressure.
    MemoryPressure,
    /// The pressure has been gone for the whole transition period.
    MemoryPressureEnded,
    /// The node is, or was within the transition period, short of disk space or inodes.
    DiskPressure,
    /// The pressure has been gone for the whole transition period.
    DiskPressureEnded,
    /// The node is, or was within the transition period, short of process ids.
    PIDPressure,
    /// The pressure has been gone for the whole transition period.
    PIDPressureEnded,
    /// The pod uses more local storage than its own limits allow.
    LocalStorageLimitExceeded,
    /// Disk use or process ids could not be read, or nothing could be removed.
    ResourcesUnreadable,
    /// The pod has been active for as long as it may be.
    DeadlineExceeded,
    /// The pod goes so that there is room for a critical one.
    Preempting,
    /// A container's image is being pulled.
    Pulling,
    /// A container's image is on the node.
    Pulled,
    /// A container's image is not on the node, and may not be pulled.
    ErrImageNeverPull,
    /// A pod's volumes are there, with what they are to hold.
    VolumesReady,
    /// A pod has a sandbox.
    SandboxReady,
    /// A pod's sandbox has gone, or changed: it gets another.
    SandboxChanged,
    /// A pod gets no sandbox; the message says why.
    FailedCreatePodSandBox,
    /// A container was made.
    Created,
    /// A container was started.
    Started,
    /// A container was not started; the message says why.
    Failed,
    /// Some of a pod's containers were not; of each it was told apart.
    ContainersNotStarted,
    /// A container, or its image, is tried again only after a while.
    BackOff,
    /// A container is being stopped.
    Killing,
    /// What was to be done right after a container's start failed: it is stopped.
    FailedPostStartHook,
    /// What was to be done before a container's end failed, or took longer than its grace.
    FailedPreStopHook,
    /// A hook by HTTPS was answered by HTTP.
    LifecycleHTTPFallback,
    /// The node can run pods.
    NodeReady,
    /// The node cannot; the Node's condition says why.
    NodeNotReady,
    /// The pod was evicted.
    Evicted,
    /// The kernel's OOM killer acted.
    OomKilled,
    /// Not admitted: it asks for more memory than the node has left.
    OutOfmemory,
    /// Not admitted: it asks for more CPU than the node has left.
    #[serde(alias = "Outofcpu")]
    OutOfcpu,
    /// Not admitted: the node runs as many pods as it may.
    #[serde(alias = "Outofpods")]
    OutOfpods,
    /// Not admitted: the pod sets a kernel parameter that it may not set.
    SysctlForbidden,
    /// The pod needs what this agent does not support; the message names it.
    UnsupportedFeature,
    /// The pod ended by itself: all containers done and none to be restarted.
    PodCompleted,
    /// Garbage collection of containers, sandboxes, volumes or cgroups.
    GarbageCollection,
    /// The container runtime stopped answering, or answers again.
    RuntimeStateChanged,
    /// Records were lost between kernel and agent; a resync heals it.
    RecordsLost,
    /// The agent starts.
    AgentStarted,
    /// The agent stops; pods run on.
    AgentStopping,
    /// The container's manifest is not the one that it was started from.
    ContainerChanged,
    /// The runtime does not know whether the container runs.
    ContainerStateUnknown,
    /// A second instance of a container, or one outside the pod's sandbox.
    StrayContainer,
    /// A container failed a probe, or it could not be asked.
    Unhealthy,
    /// A container passed a probe, and something about it should be known.
    ProbeWarning,
    /// A container failed its liveness probe so often that it is restarted.
    LivenessProbeFailed,
    /// A container failed its startup probe so often that it is restarted.
    StartupProbeFailed,
    /// A container passed its startup probe: what waits for it goes on.
    StartupProbeSucceeded,
    /// Not admitted: the pod's node selector or affinity does not match the node.
    NodeAffinity,
    /// Not admitted: the node has a taint NoExecute that the pod does not tolerate.
    TaintToleration,
    /// Not admitted: the pod is for another operating system.
    PodOSNotSupported,
    /// Not admitted: the pod asks for an AppArmor profile, and the node has no AppArmor.
    AppArmor,
    /// All pods together may not have so little memory yet: what they use does not fit.
    FailedNodeAllocatableEnforcement,
    /// The memory that all pods together may have is what the configuration says.
    NodeAllocatableEnforced,
}

impl Reason {
    /// A refusal that may be over once another pod has ended.
    #[must_use]
    pub const fn is_lack_of_room(self) -> bool {
        matches!(self, Reason::OutOfcpu | Reason::OutOfmemory | Reason::OutOfpods)
    }

    /// The pod ends so that the node gets back what it uses, and every millisecond counts.
    #[must_use]
    pub const fn is_eviction(self) -> bool {
        matches!(
            self,
            Reason::ThresholdMet
                | Reason::ForecastOutOfMemory
                | Reason::NodeStalled
                | Reason::PodStalled
                | Reason::GraceCutShort
                | Reason::LocalStorageLimitExceeded
                | Reason::Evicted
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn text_and_serde_agree() {
        for r in Reason::ALL {
            assert_eq!(serde_json::to_string(r).unwrap(), format!("\"{}\"", r.as_str()));
        }
    }
}
