//! A pod's status as it is to stand in the API server: ours, beside the parts that belong to others
//! (`mergePodStatus`, pkg/kubelet/status/status_manager.go).

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Value, json};

use super::patch::{MergeKey, difference};

/// Conditions that the node agent alone writes (pkg/kubelet/types/pod_status.go). `DisruptionTarget` is shared: ours counts
/// while there is one.
const OWN_CONDITIONS: &[&str] =
    &["PodScheduled", "Ready", "Initialized", "ContainersReady", "PodReadyToStartContainers"];

/// As in the Go type's `patchMergeKey`.
const MERGE_KEYS: &[MergeKey] = &[
    MergeKey { list: "conditions", key: "type", owned: false },
    MergeKey { list: "podIPs", key: "ip", owned: true },
    MergeKey { list: "hostIPs", key: "ip", owned: true },
];

/// What is to be written so that the API server, which has `current`, has `wanted`. `None`: nothing.
#[must_use]
pub fn status_patch(uid: &str, current: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let merged = merged(current, wanted);
    let [from, to] = [current, &merged].map(|status| serde_json::to_value(status).unwrap_or_default());
    let status = difference(&from, &to, MERGE_KEYS)?;
    // A pod that was made anew under the same name is not meant.
    Some(json!({ "metadata": { "uid": uid }, "status": status }))
}

/// Whether the pod has ended for good by this status.
#[must_use]
pub fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn merged(current: &PodStatus, wanted: &PodStatus) -> PodStatus {
    let mut merged = wanted.clone();
    // A pod that has ended does not come back to life, nor does it end in another way.
    if is_terminal(current) {
        merged.phase.clone_from(&current.phase);
        if merged.reason.is_none() {
            merged.reason.clone_from(&current.reason);
            merged.message.clone_from(&current.message);
        }
    }
    let ours = wanted.conditions.clone().unwrap_or_default();
    let has = |list: &[PodCondition], type_: &str| list.iter().any(|c| c.type_ == type_);
    let others = current.conditions.iter().flatten();
    let others = others.filter(|c| !OWN_CONDITIONS.contains(&c.type_.as_str()) && !has(&ours, &c.type_));
    merged.conditions = Some(others.cloned().chain(ours.iter().cloned()).collect());
    merged.start_time = current.start_time.clone().or(merged.start_time);
    // Written by others.
    merged.nominated_node_name.clone_from(&current.nominated_node_name);
    merged.resource_claim_statuses.clone_from(&current.resource_claim_statuses);
    merged.extended_resource_claim_status.clone_from(&current.extended_resource_claim_status);
    if merged.ephemeral_container_statuses.is_none() {
        merged.ephemeral_container_statuses.clone_from(&current.ephemeral_container_statuses);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_written_and_what_is_left_to_others() {
        let ready = |status: &str| json!({"type": "Ready", "status": status});
        let cases = [
            (json!({"phase": "Pending"}), json!({"phase": "Pending"}), Value::Null),
            (json!({"phase": "Pending"}), json!({"phase": "Running"}), json!({"phase": "Running"})),
            // What the API server leaves out is no difference.
            (
                json!({"containerStatuses": [{"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "lastState": {}}]}),
                json!({"containerStatuses": [{"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]}),
                Value::Null,
            ),
            // Somebody's own condition stays, and is not written again.
            (
                json!({"conditions": [{"type": "Gate", "status": "True"}, ready("False")]}),
                json!({"conditions": [ready("True")]}),
                json!({"conditions": [ready("True")]}),
            ),
            (json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]}), json!({}), Value::Null),
            // Never back, and never another end.
            (json!({"phase": "Failed", "reason": "Evicted"}), json!({"phase": "Succeeded"}), Value::Null),
            (
                json!({"phase": "Failed"}),
                json!({"phase": "Failed", "reason": "Evicted"}),
                json!({"reason": "Evicted"}),
            ),
            (json!({"nominatedNodeName": "n"}), json!({}), Value::Null),
            (
                json!({"startTime": "2026-01-01T00:00:00Z"}),
                json!({"startTime": "2026-01-02T00:00:00Z"}),
                Value::Null,
            ),
        ];
        for (current, wanted, expected) in cases {
            let patch = status_patch("u", &status(current.clone()), &status(wanted.clone()));
            let written = patch.map_or(Value::Null, |mut patch| {
                assert_eq!(patch["metadata"]["uid"], "u");
                patch["status"].take()
            });
            assert_eq!(written, expected, "{current} -> {wanted}");
        }
    }

    #[test]
    fn what_was_written_is_not_written_again() {
        let wanted = status(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}], "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}));
        let current = merged(&status(json!({"phase": "Pending"})), &wanted);
        assert_eq!(status_patch("u", &current, &wanted), None);
    }
}
