//! Whether the node takes a pod (kubelet's admit handlers: pkg/kubelet/lifecycle/predicate.go,
//! pkg/kubelet/eviction/eviction_manager.go). Core.
//!
//! A pod that needs what this agent does not do is refused with the field's name; what is merely left undone
//! is listed by [`unsupported`], for the caller to warn of.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint};

use super::apparmor::is_confined;
use super::qos::{Amounts, QosClass, is_critical, pod_requests};
use super::spec::all_containers;
use super::sysctl::AllowedSysctls;
use crate::reason::Reason;

mod features;
pub use features::unsupported;

/// What admission must know of the node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    pub name: String,
    /// Capacity less what is reserved.
    pub allocatable: Amounts,
    /// `maxPods`.
    pub max_pods: usize,
    /// Those that a pod may set.
    pub allowed_sysctls: AllowedSysctls,
    /// `kubernetes.io/os`, as `linux`.
    pub os: String,
    /// `kubernetes.io/arch`, Go's word: `amd64`, `arm64`.
    pub arch: String,
    /// All other labels. `kubernetes.io/hostname`, `os` and `arch` need not be among them.
    pub labels: BTreeMap<String, String>,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// Of the Node object.
    pub taints: Vec<Taint>,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
    /// The pod in question counts as critical whatever its priority.
    pub critical: bool,
    /// It is a static one: taints say nothing of it.
    pub is_static_pod: bool,
}

impl NodeFacts {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str).or(match key {
            "kubernetes.io/hostname" => Some(&self.name),
            "kubernetes.io/os" => Some(&self.os),
            "kubernetes.io/arch" => Some(&self.arch),
            _ => None,
        })
    }
}

/// The pod becomes Failed with these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    pub message: String,
}

/// What other pods have taken of the node, all that are admitted and have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub requests: Amounts,
    pub pods: usize,
}

impl Taken {
    /// With one pod more.
    #[must_use]
    pub const fn plus(self, requests: Amounts) -> Taken {
        Taken { requests: self.requests.plus(requests), pods: self.pods + 1 }
    }
}

/// # Errors
/// The first thing that speaks against the pod.
pub fn admit(pod: &Pod, node: &NodeFacts, taken: &Taken) -> Result<(), Rejection> {
    if let Some(message) = features::refused(pod) {
        return Err(Rejection { reason: Reason::UnsupportedFeature, message });
    }
    under_pressure(pod, node)?;
    node.allowed_sysctls
        .check(pod)
        .map_err(|message| Rejection { reason: Reason::SysctlForbidden, message })?;
    let spec = pod.spec.as_ref();
    if let Some(os) = spec.and_then(|s| s.os.as_ref()).filter(|os| os.name != node.os) {
        let message = format!("Pod was rejected: its OS is {:?}, the node's is {:?}", os.name, node.os);
        return Err(Rejection { reason: Reason::PodOSNotSupported, message });
    }
    if !node.apparmor && spec.into_iter().flat_map(all_containers).any(|c| is_confined(pod, c)) {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Err(Rejection { reason: Reason::AppArmor, message: message.to_owned() });
    }
    if spec.is_some_and(|s| !selects(s, node)) {
        let message = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Err(Rejection { reason: Reason::NodeAffinity, message: message.to_owned() });
    }
    if !node.is_static_pod
        && node.taints.iter().any(|taint| taint.effect == "NoExecute" && !tolerates(pod, taint))
    {
        let message = "Pod was rejected: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        return Err(Rejection { reason: Reason::TaintToleration, message: message.to_owned() });
    }
    fits(pod, node, taken)
}

/// kubelet's `Admit` of the eviction manager. Memory alone is short: BestEffort pods stay out. Anything else: all do.
fn under_pressure(pod: &Pod, node: &NodeFacts) -> Result<(), Rejection> {
    let conditions = [
        (node.memory_pressure, "MemoryPressure"),
        (node.disk_pressure, "DiskPressure"),
        (node.pid_pressure, "PIDPressure"),
    ];
    let conditions: Vec<&str> = conditions.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    let memory_alone = || conditions == ["MemoryPressure"];
    let may_run_on_little_memory =
        || QosClass::of(pod) != QosClass::BestEffort || tolerates_memory_pressure(pod);
    if conditions.is_empty()
        || node.critical
        || is_critical(pod)
        || memory_alone() && may_run_on_little_memory()
    {
        return Ok(());
    }
    // kubelet's text, trailing blank included.
    let message = format!("The node had condition: [{}]. ", conditions.join(" "));
    Err(Rejection { reason: Reason::Evicted, message })
}

/// A toleration of `node.kubernetes.io/memory-pressure:NoSchedule`.
fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/memory-pressure".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerates(pod, &taint)
}

/// `ToleratesTaint`, k8s.io/api/core/v1/toleration.go.
fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten()).any(|t| {
        let (effect, key) = (text(&t.effect), text(&t.key));
        let exists = t.operator.as_deref() == Some("Exists");
        let value = exists || text(&t.value) == text(&taint.value);
        (effect.is_empty() || effect == taint.effect)
            && value
            && (key == taint.key || key.is_empty() && exists)
    })
}

fn fits(pod: &Pod, node: &NodeFacts, taken: &Taken) -> Result<(), Rejection> {
    let asked = pod_requests(pod);
    let Amounts { milli_cpu, memory_bytes } = node.allocatable;
    for (reason, resource, asked, used, capacity) in [
        (Reason::OutOfpods, "pods", 1, taken.pods as u64, node.max_pods as u64),
        (Reason::OutOfcpu, "cpu", asked.milli_cpu, taken.requests.milli_cpu, milli_cpu),
        (Reason::OutOfmemory, "memory", asked.memory_bytes, taken.requests.memory_bytes, memory_bytes),
    ] {
        // What a pod does not ask for, it cannot lack, however full the node is.
        if asked > 0 && asked.saturating_add(used) > capacity {
            let message = format!(
                "Pod was rejected: Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, \
                 capacity: {capacity}"
            );
            return Err(Rejection { reason, message });
        }
    }
    Ok(())
}

/// nodeSelector and the required node affinity (component-helpers, scheduling/corev1/nodeaffinity).
fn selects(spec: &PodSpec, node: &NodeFacts) -> bool {
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

fn matches_term(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let mut by_label = term.match_expressions.iter().flatten().peekable();
    let mut by_field = term.match_fields.iter().flatten().peekable();
    // An empty term selects nothing.
    if by_label.peek().is_none() && by_field.peek().is_none() {
        return false;
    }
    by_label.all(|r| matches(r, node.label(&r.key)))
        && by_field.all(|r| matches(r, (r.key == "metadata.name").then_some(&node.name)))
}

fn matches(requirement: &NodeSelectorRequirement, actual: Option<&str>) -> bool {
    let wanted = requirement.values.as_deref().unwrap_or_default();
    let listed = actual.is_some_and(|a| wanted.iter().any(|w| w == a));
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = || Some((number(actual?)?, number(wanted.first()?)?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compared().is_some_and(|(a, w)| a > w),
        "Lt" => compared().is_some_and(|(a, w)| a < w),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
