//! Whether a container that has ended starts again: its own restart policy and rules, and the pod's (`ContainerShouldRestart`,
//! pkg/api/v1/pod/util.go; KEP-5307, KEP-5532). Core.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use super::runtime_status::{ContainerState, PodRuntimeStatus};
use super::spec::all_containers;

/// What a rule wants done.
const RESTART: &str = "Restart";
const RESTART_ALL: &str = "RestartAllContainers";

/// What goes for the container where no rule does.
#[must_use]
pub fn policy<'a>(pod: &'a Pod, container: &'a Container) -> &'a str {
    let of_pod = || pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    container.restart_policy.as_deref().or_else(of_pod).unwrap_or("Always")
}

/// One that is ended for what it is, and not by an exit code of its own, starts again.
#[must_use]
pub fn restarts_when_ended(pod: &Pod, container: &Container) -> bool {
    policy(pod, container) != "Never"
}

/// It has ended with this code, and starts again.
#[must_use]
pub fn restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let by_rule = rule(container, exit_code).map(|rule| rule.action.as_str());
    if matches!(by_rule, Some(RESTART | RESTART_ALL)) {
        return true;
    }
    match policy(pod, container) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// All containers of the pod start again with it, init containers first.
#[must_use]
pub fn restarts_all(container: &Container, exit_code: i32) -> bool {
    rule(container, exit_code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// One of the pod's rules may have all its containers start again.
#[must_use]
pub fn may_restart_all(pod: &Pod) -> bool {
    let mut rules =
        pod.spec.iter().flat_map(all_containers).flat_map(|c| c.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == RESTART_ALL)
}

/// The pod's containers are all to start again: one of them has ended so.
#[must_use]
pub fn is_restarting_all(pod: &Pod, runtime: &PodRuntimeStatus) -> bool {
    pod.spec.iter().flat_map(all_containers).any(|container| {
        let newest = runtime.container(&container.name).filter(|s| s.state == ContainerState::Exited);
        newest.is_some_and(|s| restarts_all(container, s.exit_code))
    })
}

/// The first that fits. They count only beside a policy of the container's own.
fn rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy.as_ref()?;
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let is_listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            match codes.operator.as_str() {
                "In" => is_listed,
                "NotIn" => !is_listed,
                _ => false,
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::runtime_status::ContainerStatus;
    use serde_json::{Value, json};

    fn container(policy: Option<&str>, rules: Value) -> Container {
        let container = json!({ "name": "c", "restartPolicy": policy, "restartPolicyRules": rules });
        serde_json::from_value(container).unwrap()
    }

    fn pod(policy: &str, container: &Container) -> Pod {
        serde_json::from_value(json!({ "spec": { "restartPolicy": policy, "containers": [container] } }))
            .unwrap()
    }

    fn rules(action: &str, operator: &str, values: &[i32]) -> Value {
        json!([{ "action": action, "exitCodes": { "operator": operator, "values": values } }])
    }

    /// The pod's policy, the container's, its rules, exit code → it starts again, and all others with it.
    #[test]
    fn who_starts_again() {
        let restart = |operator, values| rules("Restart", operator, values);
        let all = |operator, values| rules("RestartAllContainers", operator, values);
        for (of_pod, own, rules, exit_code, again, with_all) in [
            ("Always", None, json!(null), 0, true, false),
            ("OnFailure", None, json!(null), 0, false, false),
            ("OnFailure", None, json!(null), 3, true, false),
            ("Never", None, json!(null), 3, false, false),
            ("Never", Some("Always"), json!(null), 0, true, false),
            ("Always", Some("Never"), json!(null), 1, false, false),
            ("Always", Some("OnFailure"), json!(null), 0, false, false),
            ("Never", Some("Never"), restart("In", &[42, 43]), 43, true, false),
            ("Never", Some("Never"), restart("In", &[42]), 1, false, false),
            ("Never", Some("Never"), restart("NotIn", &[42]), 1, true, false),
            ("Never", Some("Never"), restart("NotIn", &[42]), 42, false, false),
            ("Never", Some("Never"), all("In", &[42]), 42, true, true),
            // A policy of the container's own has to be there; what is not known does nothing.
            ("Never", None, restart("In", &[42]), 42, false, false),
            ("Never", Some("Never"), rules("Explode", "In", &[42]), 42, false, false),
            ("Never", Some("Never"), json!([{ "action": "Restart" }]), 42, false, false),
        ] {
            let container = container(own, rules.clone());
            let pod = pod(of_pod, &container);
            let what = format!("{of_pod} {own:?} {rules} {exit_code}");
            assert_eq!(restarts(&pod, &container, exit_code), again, "{what}");
            assert_eq!(restarts_all(&container, exit_code), with_all, "{what}");
            let ended =
                ContainerStatus { exit_code, ..ContainerStatus::bare("1", "c", ContainerState::Exited) };
            let runtime = PodRuntimeStatus { containers: vec![ended], ..PodRuntimeStatus::default() };
            assert_eq!(is_restarting_all(&pod, &runtime), with_all, "{what}");
        }
        let first = json!([
            { "action": "Restart", "exitCodes": { "operator": "In", "values": [1] } },
            { "action": "RestartAllContainers", "exitCodes": { "operator": "NotIn", "values": [2] } },
        ]);
        let container = container(Some("Never"), first);
        assert!(!restarts_all(&container, 1) && restarts_all(&container, 3) && !restarts_all(&container, 2));
        assert!(may_restart_all(&pod("Never", &container)));
    }
}
