//! A pod's status over time, aspect by aspect, without repeats: how many writes it came in says nothing.

use std::collections::BTreeMap;

use serde_json::Value;

/// By aspect: `phase`, `condition TYPE`, `container NAME`.
pub(super) type Sequences = BTreeMap<String, Vec<String>>;

/// Of a watcher's objects, oldest first.
pub(super) fn of<'a>(pods: impl Iterator<Item = &'a Value>) -> Sequences {
    let mut all = Sequences::new();
    let mut note = |aspect: String, said: String| {
        let sequence = all.entry(aspect).or_default();
        if sequence.last() != Some(&said) {
            sequence.push(said);
        }
    };
    for pod in pods {
        let status = &pod["status"];
        note("phase".to_owned(), words(&[&status["phase"], &status["reason"], &status["message"]]));
        for condition in list(&status["conditions"]) {
            let said = words(&[&condition["status"], &condition["reason"], &condition["message"]]);
            note(format!("condition {}", plain(&condition["type"])), said);
        }
        for kind in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
            for container in list(&status[kind]) {
                note(format!("container {}", plain(&container["name"])), container_words(container));
            }
        }
    }
    all
}

fn container_words(container: &Value) -> String {
    let state = state_words(&container["state"]);
    let last = state_words(&container["lastState"]);
    let mut said = vec![state];
    if !last.is_empty() {
        said.push(format!("last {last}"));
    }
    for (key, value) in [("ready", true), ("started", true)] {
        if container[key] == value {
            said.push(key.to_owned());
        }
    }
    let restarts = container["restartCount"].as_u64().unwrap_or_default();
    if restarts > 0 {
        said.push(format!("restarts {restarts}"));
    }
    said.join(", ")
}

fn state_words(state: &Value) -> String {
    let Some((kind, of)) = state.as_object().and_then(|all| all.iter().next()) else { return String::new() };
    let exit = of.get("exitCode").map(Value::to_string).unwrap_or_default();
    let all = [kind.clone(), plain(&of["reason"]), exit, plain(&of["message"])];
    all.into_iter().filter(|one| !one.is_empty()).collect::<Vec<_>>().join(" ")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn plain(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn words(values: &[&Value]) -> String {
    values.iter().map(|one| plain(one)).filter(|one| !one.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn repeats_are_left_out() {
        let waiting = json!({ "status": {
            "phase": "Pending",
            "conditions": [{ "type": "Ready", "status": "False", "reason": "ContainersNotReady" }],
            "containerStatuses": [{ "name": "main", "state": { "waiting": { "reason": "ContainerCreating" } } }],
        } });
        let crashed = json!({ "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "False", "reason": "ContainersNotReady" }],
            "containerStatuses": [{ "name": "main", "restartCount": 1, "started": true, "state": { "running": {} },
                "lastState": { "terminated": { "reason": "Error", "exitCode": 3 } } }],
        } });
        let sequences = of([&waiting, &waiting, &crashed].into_iter());
        assert_eq!(sequences["phase"], ["Pending", "Running"]);
        assert_eq!(sequences["condition Ready"], ["False ContainersNotReady"]);
        let expected = ["waiting ContainerCreating", "running, last terminated Error 3, started, restarts 1"];
        assert_eq!(sequences["container main"], expected);
    }
}
