//! QoS class, pod cgroup resources and `oom_score_adj`, from the manifest alone. Core.
//!
//! Quantities that do not parse count as absent here: no pod source lets such a pod through.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::spec::all_containers;
use crate::quantity::{bytes_of, milli_cpu_of};

/// kubelet's `MinShares`, `MaxShares` (pkg/kubelet/cm/helpers_linux.go): what the kernel accepts.
const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// kubelet's `QuotaPeriod`, in µs.
pub const CPU_PERIOD_US: u64 = 100_000;
/// kubelet's `MinQuotaPeriod`: the kernel refuses a quota under 1 ms.
const CPU_QUOTA_MIN_US: u64 = 1_000;
/// `SystemCriticalPriority` (pkg/apis/scheduling/types.go).
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// pkg/kubelet/qos/policy.go.
const GUARANTEED_OOM_SCORE_ADJ: i64 = -997;
const BEST_EFFORT_OOM_SCORE_ADJ: i64 = 1000;

/// kubelet's three QoS classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub const ALL: [QosClass; 3] = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];
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

    /// By all containers, init containers included, or by the pod-level resources where they are set
    /// (`ComputePodQOS`, pkg/apis/core/v1/helper/qos/qos.go).
    #[must_use]
    pub fn of(pod: &Pod) -> QosClass {
        let pod_level = pod_level(pod).map(Listed::of);
        let listed: Vec<Listed> = match pod_level {
            Some(resources) => vec![resources],
            None => pod.spec.iter().flat_map(all_containers).map(Listed::of_container).collect(),
        };
        let nothing = |a: Amounts| a == Amounts::default();
        if listed.iter().all(|l| nothing(l.requests) && nothing(l.limits)) {
            return QosClass::BestEffort;
        }
        let every_limit_set = listed.iter().all(|l| l.limits.milli_cpu > 0 && l.limits.memory_bytes > 0);
        let requests = listed.iter().fold(Amounts::default(), |sum, l| sum.plus(l.requests));
        let limits = listed.iter().fold(Amounts::default(), |sum, l| sum.plus(l.limits));
        if every_limit_set && requests == limits { QosClass::Guaranteed } else { QosClass::Burstable }
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

/// CPU and memory of a request or a limit; 0 where none is given, as kubelet counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub milli_cpu: u64,
    pub memory_bytes: u64,
}

impl Amounts {
    fn of(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
        Amounts {
            milli_cpu: milli_cpu_of(list, "cpu").ok().flatten().unwrap_or(0),
            memory_bytes: bytes_of(list, "memory").ok().flatten().unwrap_or(0),
        }
    }

    #[must_use]
    pub const fn plus(self, other: Amounts) -> Amounts {
        Amounts {
            milli_cpu: self.milli_cpu.saturating_add(other.milli_cpu),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn max(self, other: Amounts) -> Amounts {
        Amounts {
            milli_cpu: self.milli_cpu.max(other.milli_cpu),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Listed {
    requests: Amounts,
    limits: Amounts,
}

impl Listed {
    fn of(resources: &ResourceRequirements) -> Listed {
        Listed {
            requests: Amounts::of(resources.requests.as_ref()),
            limits: Amounts::of(resources.limits.as_ref()),
        }
    }

    fn of_container(container: &Container) -> Listed {
        container.resources.as_ref().map(Listed::of).unwrap_or_default()
    }
}

fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |s| &s.containers)
}

fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
}

fn pod_level(pod: &Pod) -> Option<&ResourceRequirements> {
    let resources = pod.spec.as_ref()?.resources.as_ref()?;
    (resources.requests.is_some() || resources.limits.is_some()).then_some(resources)
}

/// An init container that runs beside the containers: `restartPolicy: Always`.
#[must_use]
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// Never evicted for memory: priority from 2,000,000,000 on. Unlike kubelet, being a static pod is not
/// enough; in standalone mode every pod is one.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    priority(pod) >= SYSTEM_CRITICAL_PRIORITY
}

/// `spec.priority`, or what the two built-in priority classes stand for.
#[must_use]
pub fn priority(pod: &Pod) -> i32 {
    let Some(spec) = &pod.spec else { return 0 };
    spec.priority.unwrap_or(match spec.priority_class_name.as_deref() {
        Some("system-node-critical") => SYSTEM_CRITICAL_PRIORITY + 1000,
        Some("system-cluster-critical") => SYSTEM_CRITICAL_PRIORITY,
        _ => 0,
    })
}

/// One container's own requests.
#[must_use]
pub fn container_requests(container: &Container) -> Amounts {
    Listed::of_container(container).requests
}

/// What the pod needs at its peak (`PodRequests`, component-helpers resource/helpers.go): the containers and
/// sidecars together or the hungriest init container with the sidecars before it, whichever is more; plus overhead.
#[must_use]
pub fn pod_requests(pod: &Pod) -> Amounts {
    let mut amounts = peak(pod, |listed| listed.requests);
    if let Some(resources) = pod_level(pod) {
        amounts = overridden(amounts, Amounts::of(resources.requests.as_ref()));
    }
    amounts.plus(overhead(pod))
}

/// As [`pod_requests`], of the limits. An amount that some container does not limit is no limit of the pod:
/// see [`pod_cgroup_resources`].
#[must_use]
pub fn pod_limits(pod: &Pod) -> Amounts {
    let mut limits = peak(pod, |listed| listed.limits);
    if let Some(resources) = pod_level(pod) {
        limits = overridden(limits, Amounts::of(resources.limits.as_ref()));
    }
    let overhead = overhead(pod);
    Amounts {
        milli_cpu: if limits.milli_cpu == 0 { 0 } else { limits.milli_cpu + overhead.milli_cpu },
        memory_bytes: if limits.memory_bytes == 0 { 0 } else { limits.memory_bytes + overhead.memory_bytes },
    }
}

fn overridden(below: Amounts, pod_level: Amounts) -> Amounts {
    let or = |own: u64, below: u64| if own > 0 { own } else { below };
    Amounts {
        milli_cpu: or(pod_level.milli_cpu, below.milli_cpu),
        memory_bytes: or(pod_level.memory_bytes, below.memory_bytes),
    }
}

fn overhead(pod: &Pod) -> Amounts {
    Amounts::of(pod.spec.as_ref().and_then(|s| s.overhead.as_ref()))
}

fn peak(pod: &Pod, pick: impl Fn(Listed) -> Amounts) -> Amounts {
    let amount = |c: &Container| pick(Listed::of_container(c));
    let mut sidecars = Amounts::default();
    let mut init_peak = Amounts::default();
    for init in init_containers(pod) {
        if is_sidecar(init) {
            sidecars = sidecars.plus(amount(init));
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars.plus(amount(init)));
        }
    }
    containers(pod).iter().fold(sidecars, |sum, c| sum.plus(amount(c))).max(init_peak)
}

/// The pod's cgroup (`ResourceConfigForPod`, pkg/kubelet/cm/helpers_linux.go). `pids_limit` is
/// `podPidsLimit` of the configuration; `None` leaves the node's.
#[must_use]
pub fn pod_cgroup_resources(pod: &Pod, pids_limit: Option<i64>) -> CgroupResources {
    let mut cgroup = CgroupResources { pids_limit, ..CgroupResources::default() };
    let qos = QosClass::of(pod);
    if qos == QosClass::BestEffort {
        cgroup.cpu_shares = Some(*CPU_SHARES.start());
        return cgroup;
    }
    cgroup.cpu_shares = Some(cpu_shares(pod_requests(pod).milli_cpu));
    let pod_level = pod_level(pod).map(|r| Amounts::of(r.limits.as_ref())).unwrap_or_default();
    let every = |amount: fn(Amounts) -> u64| {
        amount(pod_level) > 0
            || pod.spec.iter().flat_map(all_containers).all(|c| amount(Listed::of_container(c).limits) > 0)
    };
    let limits = pod_limits(pod);
    if every(|a| a.milli_cpu) {
        (cgroup.cpu_quota_us, cgroup.cpu_period_us) = cpu_quota(limits.milli_cpu);
    }
    if every(|a| a.memory_bytes) {
        cgroup.memory_limit_bytes = Some(limits.memory_bytes);
    }
    cgroup
}

/// What a sandbox is told that it is to have room for (`calculateSandboxResources`, kuberuntime_sandbox_linux.go): requests
/// and limits of the containers together, limits whether or not all have one.
#[must_use]
pub fn sandbox_resources(pod: &Pod) -> CgroupResources {
    let pod_level = pod_level(pod).map(Listed::of).unwrap_or_default();
    linux_resources(Listed {
        requests: overridden(peak(pod, |listed| listed.requests), pod_level.requests),
        limits: overridden(peak(pod, |listed| listed.limits), pod_level.limits),
    })
}

/// What the sandbox itself takes, as much and no more; `None`: nothing that is known.
#[must_use]
pub fn overhead_resources(pod: &Pod) -> Option<CgroupResources> {
    pod.spec.as_ref()?.overhead.as_ref()?;
    let overhead = overhead(pod);
    Some(linux_resources(Listed { requests: overhead, limits: overhead }))
}

/// The container's own cgroup (`calculateLinuxResources`, kuberuntime_container_linux.go).
#[must_use]
pub fn container_resources(container: &Container) -> CgroupResources {
    linux_resources(Listed::of_container(container))
}

fn linux_resources(Listed { requests, limits }: Listed) -> CgroupResources {
    let milli_cpu = if requests.milli_cpu > 0 { requests.milli_cpu } else { limits.milli_cpu };
    let (cpu_quota_us, cpu_period_us) = cpu_quota(limits.milli_cpu);
    CgroupResources {
        memory_limit_bytes: (limits.memory_bytes > 0).then_some(limits.memory_bytes),
        cpu_shares: Some(cpu_shares(milli_cpu)),
        cpu_quota_us,
        cpu_period_us,
        pids_limit: None,
    }
}

/// The Burstable class's cgroup (`setCPUCgroupConfig`, qos_container_manager_linux.go): it weighs what its pods ask for
/// together. BestEffort's weighs the least and never changes; Guaranteed pods have no class cgroup.
#[must_use]
pub fn burstable_class_resources(milli_cpu: u64) -> CgroupResources {
    CgroupResources { cpu_shares: Some(cpu_shares(milli_cpu)), ..CgroupResources::default() }
}

/// `MilliCPUToShares`.
#[must_use]
pub fn cpu_shares(milli_cpu: u64) -> u64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(*CPU_SHARES.start(), *CPU_SHARES.end())
}

/// `MilliCPUToQuota`: quota and period in µs; none for a limit of 0.
fn cpu_quota(milli_cpu: u64) -> (Option<i64>, Option<u64>) {
    if milli_cpu == 0 {
        return (None, None);
    }
    let quota = (milli_cpu.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_MIN_US);
    (Some(i64::try_from(quota).unwrap_or(i64::MAX)), Some(CPU_PERIOD_US))
}

/// `GetContainerOOMScoreAdjust` (pkg/kubelet/qos/policy.go). Guaranteed and node-critical −997, BestEffort
/// 1000, Burstable 3..=999 by the share of the machine's memory that the container asks for. A sidecar is
/// never a likelier victim than the containers that it serves.
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity_bytes: u64) -> i64 {
    let class_name = pod.spec.as_ref().and_then(|s| s.priority_class_name.as_deref());
    if is_critical(pod) && class_name == Some("system-node-critical") {
        return GUARANTEED_OOM_SCORE_ADJ;
    }
    match QosClass::of(pod) {
        QosClass::Guaranteed => return GUARANTEED_OOM_SCORE_ADJ,
        QosClass::BestEffort => return BEST_EFFORT_OOM_SCORE_ADJ,
        QosClass::Burstable => {}
    }
    let score = |request_bytes: u64| {
        let share = u128::from(request_bytes) * 1000 / u128::from(memory_capacity_bytes.max(1));
        1000 - i64::try_from(share.min(1000)).unwrap_or(1000)
    };
    let request = |c: &Container| Listed::of_container(c).requests.memory_bytes;
    let mut adj = score(request(container));
    let sidecar = init_containers(pod).iter().any(|c| c.name == container.name && is_sidecar(c));
    if sidecar && let Some(least) = containers(pod).iter().map(request).min() {
        adj = adj.min(score(least));
    }
    adj.clamp(1000 + GUARANTEED_OOM_SCORE_ADJ, BEST_EFFORT_OOM_SCORE_ADJ - 1)
}

#[cfg(test)]
mod tests;
