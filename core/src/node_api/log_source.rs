//! Which container's log is meant: a pod has had several under one name (pkg/kubelet/kubelet_pods.go,
//! `validateContainerLogStatus`).

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodStatus};

/// The id without its scheme.
///
/// # Errors
/// There is none (yet), in kubelet's words.
pub fn container_id(
    pod: &str,
    status: &PodStatus,
    container: &str,
    previous: bool,
) -> Result<String, String> {
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let mut all = lists.into_iter().flatten().flatten();
    let Some(found) = all.find(|status| status.name == container) else {
        return Err(format!("container {container:?} in pod {pod:?} is not available"));
    };
    let (now, last) = terminated_ids(found);
    let state = found.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let running = state.is_some_and(|state| state.running.is_some());
    let id = if previous {
        last.flatten()
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {pod:?} not found"))?
    } else if running {
        found.container_id.as_deref().unwrap_or_default()
    } else if let Some(id) = now.map(|now| now.or(last.flatten())).or(last) {
        // Where the one after it did not start, the one before it is what there is to read.
        id.ok_or_else(|| format!("container {container:?} in pod {pod:?} is terminated"))?
    } else if let Some(waiting) = waiting {
        let why = match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => "image can't be pulled",
            "ImagePullBackOff" => "trying and failing to pull image",
            reason => reason,
        };
        return Err(format!("container {container:?} in pod {pod:?} is waiting to start: {why}"));
    } else {
        return Err(format!("container {container:?} in pod {pod:?} is waiting to start - no logs yet"));
    };
    Ok(id.split_once("://").map_or(id, |(_, id)| id).to_owned())
}

/// The same by the number of its run and its id. `runs`: of those that have left a log, lowest first.
///
/// # Errors
/// As [`container_id`].
pub fn run(
    pod: &str,
    status: &PodStatus,
    container: &str,
    previous: bool,
    runs: &[u32],
) -> Result<(u32, String), String> {
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let told = lists.into_iter().flatten().flatten().find(|told| told.name == container);
    let newest = told.and_then(|told| u32::try_from(told.restart_count).ok()).unwrap_or(0);
    let before = || runs.iter().rev().find(|run| **run < newest).copied();
    let id = match container_id(pod, status, container, previous) {
        // The runtime has forgotten it, and its log is there.
        Err(why) if previous => return before().map(|run| (run, String::new())).ok_or(why),
        found => found?,
    };
    let is_newest = told.and_then(|told| told.container_id.as_deref()).is_some_and(|it| it.ends_with(&id));
    let found = if is_newest { Some(newest) } else { before() };
    let gone = || format!("the log of container {container:?} in pod {pod:?} is gone");
    found.map(|run| (run, id)).ok_or_else(gone)
}

/// Of the run now and of the one before it. `None`: it has not terminated; `Some(None)`: nothing ran.
fn terminated_ids(status: &ContainerStatus) -> (Option<Option<&str>>, Option<Option<&str>>) {
    fn id(state: Option<&ContainerState>) -> Option<Option<&str>> {
        let terminated = state?.terminated.as_ref()?;
        Some(terminated.container_id.as_deref().filter(|id| !id.is_empty()))
    }
    (id(status.state.as_ref()), id(status.last_state.as_ref()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(state: &Value, last: &Value, previous: bool) -> Result<String, String> {
        let status = serde_json::from_value(json!({
            "containerStatuses": [
                { "name": "c", "containerID": "containerd://now", "image": "", "imageID": "", "ready": true,
                  "restartCount": 0, "state": state, "lastState": last },
            ],
        }))
        .unwrap();
        container_id("p", &status, "c", previous)
    }

    #[test]
    fn which_run() {
        let ended = |id: &str| json!({ "terminated": { "exitCode": 0, "containerID": id } });
        let waits = |reason: &str| json!({ "waiting": { "reason": reason } });
        let running = json!({ "running": {} });
        for (state, last, previous, expected) in [
            (running.clone(), json!({}), false, Ok("now")),
            (running.clone(), ended("x://before"), true, Ok("before")),
            (running, json!({}), true, Err("previous terminated container \"c\" in pod \"p\" not found")),
            (ended("x://over"), json!({}), false, Ok("over")),
            (ended(""), ended("x://before"), false, Ok("before")),
            (ended(""), json!({}), false, Err("container \"c\" in pod \"p\" is terminated")),
            (waits("CrashLoopBackOff"), ended("x://before"), false, Ok("before")),
            (
                waits("ContainerCreating"),
                json!({}),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                waits("ErrImagePull"),
                json!({}),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
            ),
            (
                waits("ImagePullBackOff"),
                json!({}),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
            ),
            (
                json!({}),
                json!({}),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(of(&state, &last, previous), expected, "{state} {last} {previous}");
        }
        let numbered: PodStatus = serde_json::from_value(json!({ "containerStatuses": [
            { "name": "c", "containerID": "x://now", "image": "", "imageID": "", "ready": true, "restartCount": 7,
              "state": { "running": {} }, "lastState": ended("x://before") },
        ] }))
        .unwrap();
        let numbered = |previous, runs: &[u32]| run("p", &numbered, "c", previous, runs);
        assert_eq!(numbered(false, &[5, 7]), Ok((7, "now".to_owned())));
        assert_eq!(numbered(true, &[3, 5, 7]), Ok((5, "before".to_owned())));
        assert_eq!(numbered(true, &[7]), Err("the log of container \"c\" in pod \"p\" is gone".to_owned()));
        let nothing = PodStatus::default();
        assert_eq!(
            run("p", &nothing, "c", true, &[0]),
            Err("container \"c\" in pod \"p\" is not available".to_owned())
        );
        let missing = container_id("p", &PodStatus::default(), "c", false).unwrap_err();
        assert_eq!(missing, "container \"c\" in pod \"p\" is not available");
    }
}
