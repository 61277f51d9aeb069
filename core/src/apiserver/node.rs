//! The Node object that stands for this node: what it is registered as, and its status (pkg/kubelet/kubelet_node_status.go,
//! pkg/kubelet/nodestatus/setters.go).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::patch::{MergeKey, difference};
use crate::node::published::PublishedNode;

/// Tells the attach/detach controller that it attaches this node's volumes, and not the node itself.
const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// As in the Go type's `patchMergeKey`. Addresses have one too, but there can be two of a type: they are written as a whole.
const MERGE_KEYS: &[MergeKey] = &[MergeKey { list: "conditions", key: "type", owned: false }];

/// What the agent knows of its node.
#[derive(Clone, Debug, Default)]
pub struct NodeDescription {
    pub name: String,
    /// All that the agent sets: hostname, os, arch and `--node-labels`.
    pub labels: BTreeMap<String, String>,
    /// `registerWithTaints`; only a new Node gets them.
    pub taints: Vec<Taint>,
    pub provider_id: Option<String>,
    pub attach_detach_by_controller: bool,
    pub capacity: BTreeMap<String, String>,
    pub allocatable: BTreeMap<String, String>,
    /// Type and address, as `InternalIP`.
    pub addresses: Vec<(String, String)>,
    pub system: NodeSystemInfo,
    /// Of the agent itself.
    pub in_user_namespace: bool,
    /// Where the node API listens.
    pub port: i32,
    pub images: Vec<ContainerImage>,
    pub runtime_handlers: Vec<NodeRuntimeHandler>,
    pub features: Option<NodeFeatures>,
    /// Gates that a pod can ask a node to have (KEP-5328).
    pub declared_features: Vec<String>,
}

/// How the node is.
#[derive(Clone, Debug, Default)]
pub struct NodeHealth {
    pub published: PublishedNode,
    /// What keeps it from running pods; none: it is ready.
    pub not_ready: Vec<String>,
}

/// The object to create, with a first status.
#[must_use]
pub fn to_register(description: &NodeDescription, health: &NodeHealth, now: Timestamp) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(description.name.clone());
    node.metadata.labels = Some(description.labels.clone());
    if description.attach_detach_by_controller {
        node.metadata.annotations = Some(BTreeMap::from([(ATTACH_DETACH.to_owned(), "true".to_owned())]));
    }
    let spec = node.spec.get_or_insert_default();
    spec.provider_id.clone_from(&description.provider_id);
    spec.taints = Some(description.taints.clone()).filter(|taints| !taints.is_empty());
    node.status = Some(status(None, description, health, now));
    node
}

/// What a Node that is there already must be given so that it is this node's: labels that the agent sets, and whether it
/// attaches volumes itself. Taints are the administrators' from the first moment on. `None`: nothing.
#[must_use]
pub fn registration_patch(there: &Node, description: &NodeDescription) -> Option<Value> {
    let mut wanted = there.metadata.clone();
    wanted.labels.get_or_insert_default().extend(description.labels.clone());
    let annotations = wanted.annotations.get_or_insert_default();
    if description.attach_detach_by_controller {
        annotations.insert(ATTACH_DETACH.to_owned(), "true".to_owned());
    } else {
        annotations.remove(ATTACH_DETACH);
    }
    let [from, to] = [&there.metadata, &wanted].map(|meta| serde_json::to_value(meta).unwrap_or_default());
    difference(&from, &to, &[]).map(|metadata| json!({ "metadata": metadata }))
}

/// Whether the object says that the node is Ready; `None`: it does not say. One whose lease ran out is not.
#[must_use]
pub fn ready(node: &Node) -> Option<bool> {
    let mut conditions = node.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "Ready").map(|condition| condition.status == "True")
}

/// The node's status as of now. What others have put there (extended resources, conditions) stays.
#[must_use]
pub fn status(
    there: Option<&NodeStatus>,
    description: &NodeDescription,
    health: &NodeHealth,
    now: Timestamp,
) -> NodeStatus {
    let mut status = there.cloned().unwrap_or_default();
    status.capacity = Some(resources(status.capacity, &description.capacity));
    status.allocatable = Some(resources(status.allocatable, &description.allocatable));
    status.addresses = Some(
        description
            .addresses
            .iter()
            .map(|(type_, address)| NodeAddress { type_: type_.clone(), address: address.clone() })
            .collect(),
    );
    status.node_info = Some(description.system.clone());
    let endpoint = DaemonEndpoint { port: description.port };
    status.daemon_endpoints = Some(NodeDaemonEndpoints { kubelet_endpoint: Some(endpoint) });
    status.images = Some(description.images.clone());
    status.runtime_handlers = Some(description.runtime_handlers.clone());
    status.features.clone_from(&description.features);
    status.declared_features = Some(description.declared_features.clone());
    let before = status.conditions.take().unwrap_or_default();
    status.conditions = Some(conditions(before, health, now));
    status
}

/// Native resources are ours. An extended one is a device plugin's, or somebody's who patched it in.
fn resources(
    there: Option<BTreeMap<String, Quantity>>,
    ours: &BTreeMap<String, String>,
) -> BTreeMap<String, Quantity> {
    let is_extended = |name: &str| name.contains('/') && !name.contains("kubernetes.io/");
    let mut all: BTreeMap<String, Quantity> =
        there.unwrap_or_default().into_iter().filter(|(name, _)| is_extended(name)).collect();
    all.extend(ours.iter().map(|(name, amount)| (name.clone(), Quantity(amount.clone()))));
    all
}

fn conditions(before: Vec<NodeCondition>, health: &NodeHealth, now: Timestamp) -> Vec<NodeCondition> {
    let PublishedNode { memory_pressure, disk_pressure, pid_pressure, .. } = health.published;
    let pressure = |type_, on: bool, [yes, no]: [(&'static str, &'static str); 2]| {
        let (reason, message) = if on { yes } else { no };
        (type_, on, reason, message.to_owned())
    };
    let ready = if health.not_ready.is_empty() {
        ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("Ready", false, "KubeletNotReady", aggregate(&health.not_ready))
    };
    let ours = [
        pressure(
            "MemoryPressure",
            memory_pressure,
            [
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ],
        ),
        pressure(
            "DiskPressure",
            disk_pressure,
            [
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ],
        ),
        pressure(
            "PIDPressure",
            pid_pressure,
            [
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ],
        ),
        ready,
    ];
    let types: BTreeSet<&str> = ours.iter().map(|(type_, ..)| *type_).collect();
    let others = before.iter().filter(|c| !types.contains(c.type_.as_str())).cloned();
    let mut all: Vec<NodeCondition> = others.collect();
    for (type_, on, reason, message) in ours {
        let status = if on { "True" } else { "False" };
        let same = before.iter().find(|c| c.type_ == type_ && c.status == status);
        all.push(NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: time(now),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or_else(|| time(now)),
        });
    }
    all
}

/// As apimachinery's `NewAggregate` puts several errors into one text.
fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// Whole seconds, as Kubernetes keeps times.
fn time(at: Timestamp) -> Option<Time> {
    Timestamp::from_second(at.as_second()).ok().map(Time)
}

/// What is to be written of the status. `None`: nothing but the time of the heartbeat is new, and it was written less than
/// `report_every` (`nodeStatusReportFrequency`) ago. `in_user_namespace` goes with whatever is written: the types of Kubernetes
/// 1.36 have no field for it, and so it cannot be seen whether it is there.
#[must_use]
pub fn status_patch(
    there: &NodeStatus,
    wanted: &NodeStatus,
    in_user_namespace: bool,
    (since_report, report_every): (Duration, Duration),
) -> Option<Value> {
    if same_but_for_heartbeat(there, wanted) && since_report < report_every {
        return None;
    }
    let [from, to] = [there, wanted].map(|status| serde_json::to_value(status).unwrap_or_default());
    let mut status = difference(&from, &to, MERGE_KEYS)?;
    if status.contains_key("addresses") {
        // By merging, of two addresses of one type one would be lost (kubelet: `fixupPatchForNodeStatusAddresses`).
        if let Some(Value::Array(addresses)) = status.get_mut("addresses") {
            addresses.insert(0, json!({ "$patch": "replace" }));
        }
    }
    let mut patch = json!({ "status": status });
    patch["status"]["nodeInfo"]["runningInUserNamespace"] = json!(in_user_namespace);
    Some(patch)
}

fn same_but_for_heartbeat(a: &NodeStatus, b: &NodeStatus) -> bool {
    let without = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        serde_json::to_value(status).unwrap_or_default()
    };
    difference(&without(a), &without(b), MERGE_KEYS).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn description() -> NodeDescription {
        NodeDescription {
            name: "n".into(),
            labels: BTreeMap::from([("kubernetes.io/hostname".into(), "n".into())]),
            capacity: BTreeMap::from([("cpu".into(), "2".into()), ("pods".into(), "110".into())]),
            allocatable: BTreeMap::from([("cpu".into(), "2".into())]),
            addresses: vec![("InternalIP".into(), "10.0.0.1".into()), ("Hostname".into(), "n".into())],
            port: 10250,
            ..NodeDescription::default()
        }
    }

    fn health(memory_pressure: bool, not_ready: &[&str]) -> NodeHealth {
        NodeHealth {
            published: PublishedNode { memory_pressure, ..PublishedNode::default() },
            not_ready: not_ready.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    fn condition<'a>(status: &'a NodeStatus, type_: &str) -> &'a NodeCondition {
        status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap()
    }

    #[test]
    fn conditions_keep_their_transition_time_until_they_change() {
        let first = to_register(&description(), &health(false, &[]), at(100)).status.unwrap();
        let same = status(Some(&first), &description(), &health(false, &[]), at(200));
        let ready = condition(&same, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("True", Some("KubeletReady")));
        assert_eq!(ready.last_transition_time, time(at(100)));
        assert_eq!(ready.last_heartbeat_time, time(at(200)));
        let down = status(Some(&same), &description(), &health(true, &["runtime is down", "PLEG"]), at(300));
        let ready = condition(&down, "Ready");
        assert_eq!(ready.message.as_deref(), Some("[runtime is down, PLEG]"));
        assert_eq!(ready.last_transition_time, time(at(300)));
        assert_eq!(condition(&down, "MemoryPressure").status, "True");
    }

    #[test]
    fn ready_as_the_object_says() {
        let mut node = to_register(&description(), &health(false, &[]), at(100));
        assert_eq!(ready(&node), Some(true));
        for condition in node.status.as_mut().unwrap().conditions.iter_mut().flatten() {
            condition.status = "Unknown".into();
        }
        assert_eq!(ready(&node), Some(false));
        assert_eq!(ready(&Node::default()), None);
    }

    #[test]
    fn a_heartbeat_alone_is_written_rarely_and_a_change_at_once() {
        let patch = |there: &_, wanted: &_, since| status_patch(there, wanted, true, (since, 5 * MINUTE));
        let first = to_register(&description(), &health(false, &[]), at(100)).status.unwrap();
        let same = status(Some(&first), &description(), &health(false, &[]), at(110));
        assert_eq!(patch(&first, &same, MINUTE), None);
        let due = patch(&first, &same, 5 * MINUTE).unwrap();
        assert_eq!(due["status"]["conditions"].as_array().unwrap().len(), 4);
        assert_eq!(due["status"].as_object().unwrap().len(), 2, "{due}");
        assert_eq!(due["status"]["nodeInfo"], json!({"runningInUserNamespace": true}));
        let changed = status(Some(&first), &description(), &health(true, &[]), at(110));
        assert!(patch(&first, &changed, Duration::ZERO).is_some());
        let mut moved = description();
        moved.addresses[0].1 = "10.0.0.2".into();
        let moved = status(Some(&first), &moved, &health(false, &[]), at(110));
        let patch = patch(&first, &moved, Duration::ZERO).unwrap();
        assert_eq!(patch["status"]["addresses"][0], json!({"$patch": "replace"}));
        assert_eq!(patch["status"]["addresses"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn what_others_have_written_stays() {
        let mut there = to_register(&description(), &health(false, &[]), at(100));
        let status_there = there.status.as_mut().unwrap();
        let quantity = Quantity("4".into());
        status_there.capacity.as_mut().unwrap().insert("example.com/gpu".into(), quantity.clone());
        status_there.capacity.as_mut().unwrap().insert("hugepages-2Mi".into(), Quantity("1".into()));
        let theirs = NodeCondition { type_: "KernelDeadlock".into(), ..NodeCondition::default() };
        status_there.conditions.as_mut().unwrap().push(theirs);
        let new = status(there.status.as_ref(), &description(), &health(false, &[]), at(200));
        let capacity = new.capacity.as_ref().unwrap();
        assert_eq!(capacity.get("example.com/gpu"), Some(&quantity));
        assert_eq!(capacity.get("hugepages-2Mi"), None, "it has none any more");
        condition(&new, "KernelDeadlock");
    }

    #[test]
    fn a_node_that_is_there_gets_its_labels_back_and_keeps_the_others() {
        let mut there = to_register(&description(), &health(false, &[]), at(100));
        assert_eq!(registration_patch(&there, &description()), None);
        let labels = there.metadata.labels.as_mut().unwrap();
        labels.insert("zone".into(), "a".into());
        labels.insert("kubernetes.io/hostname".into(), "other".into());
        let patch = registration_patch(&there, &description()).unwrap();
        assert_eq!(patch, json!({"metadata": {"labels": {"kubernetes.io/hostname": "n"}}}));
    }
}
