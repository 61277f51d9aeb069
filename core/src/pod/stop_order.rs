//! In which order a pod's containers end. Pure.

use crate::pod::qos::is_sidecar;
use crate::pod::{ContainerInstance, Pod};

/// Groups of containers; each group is stopped at once, after the one before has ended. Sidecars end last and
/// in reverse order of their start, for the containers may need them to the end (KEP-753).
#[must_use]
pub fn stop_order(
    pod: &Pod,
    running: impl IntoIterator<Item = ContainerInstance>,
) -> Vec<Vec<ContainerInstance>> {
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let sidecars: Vec<&str> = init.iter().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let mut groups: Vec<Vec<ContainerInstance>> = vec![Vec::new(); sidecars.len() + 1];
    for container in running {
        let sidecar = sidecars.iter().position(|s| *s == container.name);
        groups[sidecar.map_or(0, |index| sidecars.len() - index)].push(container);
    }
    groups.retain(|g| !g.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_end_last_in_reverse() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "initContainers": [{"name": "setup"}, {"name": "proxy", "restartPolicy": "Always"},
                {"name": "logs", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}]}}))
        .unwrap();
        for (running, expected) in [
            (vec![], vec![]),
            (vec!["a", "b"], vec![vec!["a", "b"]]),
            (
                vec!["proxy", "a", "logs", "b", "stray"],
                vec![vec!["a", "b", "stray"], vec!["logs"], vec!["proxy"]],
            ),
            (vec!["setup", "proxy"], vec![vec!["setup"], vec!["proxy"]]),
        ] {
            let instance = |name: &str| ContainerInstance { name: name.into(), id: name.into() };
            let found = stop_order(&pod, running.iter().map(|n| instance(n)));
            let names: Vec<Vec<&str>> =
                found.iter().map(|g| g.iter().map(|c| c.name.as_str()).collect()).collect();
            assert_eq!(names, expected, "{running:?}");
        }
    }
}
