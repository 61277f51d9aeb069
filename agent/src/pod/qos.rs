//! QoS class, pod cgroup resources and `oom_score_adj`, from the manifest alone.

/// kubelet's three QoS classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// What goes into a pod's (or QoS class's) cgroup. `None`: leave the kernel's default (no limit).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupResources {
    pub memory_limit_bytes: Option<u64>,
    /// v1 `cpu.shares`, 2..=262144; converted to `cpu.weight` on v2.
    pub cpu_shares: Option<u64>,
    /// CFS quota and period in µs.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub pids_limit: Option<i64>,
}
