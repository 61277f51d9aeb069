//! In which order a pod's containers end. Pure.

use crate::pod::Pod;
use crate::pod::qos::is_sidecar;

/// Groups of container ids; each group is stopped at once, after the one before has ended. Sidecars end last and
/// in reverse order of their start, for the containers may need them to the end (KEP-753).
#[must_use]
pub fn stop_order<'a>(pod: &Pod, running: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Vec<String>> {
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let sidecars: Vec<&str> = init.iter().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let mut groups: Vec<Vec<String>> = vec![Vec::new(); sidecars.len() + 1];
    for (id, name) in running {
        let group = sidecars.iter().position(|s| *s == name).map_or(0, |index| sidecars.len() - index);
        groups[group].push(id.to_owned());
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
            assert_eq!(stop_order(&pod, running.iter().map(|n| (*n, *n))), expected, "{running:?}");
        }
    }
}
