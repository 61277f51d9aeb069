//! The last status of a pod that was deleted and of which nothing is left on the node: its sandbox has gone, and a container
//! that never came to run is not to be found (`TerminatePod`, pkg/kubelet/status/status_manager.go).

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus};

use super::time;

#[must_use]
pub fn of_gone(status: &PodStatus, now_unix_ns: i64) -> PodStatus {
    let mut last = status.clone();
    for condition in last.conditions.iter_mut().flatten() {
        if condition.type_ == "PodReadyToStartContainers" && condition.status == "True" {
            condition.status = "False".to_owned();
            condition.reason = Some("PodSandboxNotReady".to_owned());
            condition.message = Some("pod sandbox is not ready".to_owned());
            condition.last_transition_time = time(now_unix_ns);
        }
    }
    // What an init container that failed has kept from running was never meant to.
    let is_failed = |c: &ContainerStatus| ended(c).is_some_and(|t| t.exit_code != 0);
    if !last.init_container_statuses.iter().flatten().any(is_failed) {
        let all = last.init_container_statuses.iter_mut().chain(&mut last.container_statuses).flatten();
        for container in all.filter(|c| c.container_id.is_none() && ended(c).is_none()) {
            container.state = Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".to_owned()),
                    message: Some(super::NOT_LOCATED.to_owned()),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            });
        }
    }
    last
}

fn ended(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn last(status: Value) -> Value {
        serde_json::to_value(of_gone(&serde_json::from_value(status).unwrap(), 1_700_000_000_000_000_000))
            .unwrap()
    }

    #[test]
    fn what_never_ran_is_not_to_be_found() {
        let waiting = json!({ "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ErrImagePull" } } });
        let ran = json!({ "name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "c://1", "state": { "terminated": { "exitCode": 1 } } });
        let sandbox = json!([{ "type": "PodReadyToStartContainers", "status": "True" }]);
        let gone = last(json!({ "conditions": sandbox, "containerStatuses": [waiting, ran] }));
        let condition = &gone["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("PodSandboxNotReady"))
        );
        assert_eq!(condition["lastTransitionTime"], "2023-11-14T22:13:20Z");
        let states = &gone["containerStatuses"];
        assert_eq!(states[0]["state"]["terminated"]["reason"], "ContainerStatusUnknown");
        assert_eq!(states[0]["state"].get("waiting"), None);
        assert_eq!(states[1]["state"]["terminated"]["exitCode"], 1);
        let kept = last(json!({ "initContainerStatuses": [ran], "containerStatuses": [waiting] }));
        assert_eq!(kept["containerStatuses"][0]["state"]["waiting"]["reason"], "ErrImagePull");
    }
}
