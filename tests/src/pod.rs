//! A pod's status as `oomlet pods --output json` shows it.

use serde_json::{Value, json};

/// `status.phase`.
#[must_use]
pub fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// `status.reason`.
#[must_use]
pub fn reason(pod: &Value) -> &str {
    pod["status"]["reason"].as_str().unwrap_or_default()
}

#[must_use]
pub fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().expect("a pod has a UID")
}

/// The status of one container; `null` while there is none.
#[must_use]
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let list = pod["status"]["containerStatuses"].as_array();
    list.into_iter().flatten().find(|c| c["name"] == name).unwrap_or(&Value::Null)
}

/// `status` of a condition: `True`, `False`, or empty when it is not there.
#[must_use]
pub fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let list = pod["status"]["conditions"].as_array();
    list.into_iter()
        .flatten()
        .find(|c| c["type"] == kind)
        .and_then(|c| c["status"].as_str())
        .unwrap_or_default()
}

/// Running, and so is each of its containers.
#[must_use]
pub fn is_up(pod: &Value) -> bool {
    let containers = pod["status"]["containerStatuses"].as_array();
    let up = |list: &Vec<Value>| list.iter().all(|c| c["state"]["running"].is_object() && c["ready"] == true);
    phase(pod) == "Running" && containers.is_some_and(up)
}

/// The container `main` was ended by the kernel's OOM killer, and its pod's status says so.
#[track_caller]
pub fn assert_oom_killed(pod: &Value) {
    let ended = &container(pod, "main")["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&json!(137), &json!("OOMKilled")),
        "{}",
        pod["status"]
    );
}
