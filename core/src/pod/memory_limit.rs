//! What is to happen when a container comes to its own memory limit: a pod's annotations, and the node's default for pods
//! that have none. Core.

use std::time::Duration;

use serde::Deserialize;

use super::Pod;
use crate::duration;

/// `kernel` or `graceful`.
pub const POLICY: &str = "oomlet.dev/memory-limit-policy";
/// A duration as Go writes it, more than zero.
pub const GRACE: &str = "oomlet.dev/memory-limit-grace";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryLimitPolicy {
    /// The kernel kills: Kubernetes' semantics.
    #[default]
    Kernel,
    /// The container is stopped before it comes to that, and restarted by its pod's `restartPolicy`.
    Graceful,
}

/// The node's own, for pods that do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    pub policy: MemoryLimitPolicy,
    /// Between stop signal and SIGKILL.
    pub grace: Duration,
}

impl Default for MemoryLimit {
    fn default() -> Self {
        MemoryLimit { policy: MemoryLimitPolicy::Kernel, grace: Duration::from_secs(5) }
    }
}

/// The grace with which a container of the pod is stopped before it reaches its limit; `None`: the kernel kills it.
/// An annotation that [`problems`] complains of counts as not there.
#[must_use]
pub fn graceful(pod: &Pod, node: MemoryLimit) -> Option<Duration> {
    let given = |name| annotation(pod, name);
    let policy = given(POLICY).and_then(|text| policy(text).ok()).unwrap_or(node.policy);
    let grace = given(GRACE).and_then(|text| grace(text).ok()).unwrap_or(node.grace);
    (policy == MemoryLimitPolicy::Graceful).then_some(grace)
}

/// Annotation, and what is wrong with its value.
#[must_use]
pub fn problems(pod: &Pod) -> Vec<(&'static str, String)> {
    let wrong = |name| Some((name, annotation(pod, name)?));
    let policy = wrong(POLICY).and_then(|(name, text)| Some((name, policy(text).err()?)));
    let grace = wrong(GRACE).and_then(|(name, text)| Some((name, grace(text).err()?)));
    policy.into_iter().chain(grace).collect()
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn policy(text: &str) -> Result<MemoryLimitPolicy, String> {
    match text {
        "kernel" => Ok(MemoryLimitPolicy::Kernel),
        "graceful" => Ok(MemoryLimitPolicy::Graceful),
        _ => Err(format!(r#"{text:?} must be one of ["kernel", "graceful"]"#)),
    }
}

fn grace(text: &str) -> Result<Duration, String> {
    let grace = duration::parse(text).map_err(|e| e.to_string())?;
    if grace.is_zero() { Err(format!("{text:?} must be more than 0")) } else { Ok(grace) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: &[(&str, &str)]) -> Pod {
        let mut pod = Pod::default();
        let given = annotations.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        pod.metadata.annotations = Some(given.collect());
        pod
    }

    /// Annotations and the node's policy → grace in ms, complaints.
    #[test]
    fn what_a_pod_says_counts_before_what_the_node_says() {
        use MemoryLimitPolicy::{Graceful, Kernel};
        for (annotations, node, grace_ms, complaints) in [
            (vec![], Kernel, None, vec![]),
            (vec![], Graceful, Some(5_000), vec![]),
            (vec![(POLICY, "graceful")], Kernel, Some(5_000), vec![]),
            (vec![(POLICY, "kernel")], Graceful, None, vec![]),
            (vec![(POLICY, "graceful"), (GRACE, "1.5s")], Kernel, Some(1_500), vec![]),
            (vec![(GRACE, "300ms")], Graceful, Some(300), vec![]),
            (vec![(GRACE, "300ms")], Kernel, None, vec![]),
            (vec![(POLICY, "Graceful")], Kernel, None, vec![(POLICY, "\"Graceful\" must be one of")]),
            (vec![(POLICY, "")], Kernel, None, vec![(POLICY, "\"\" must be one of")]),
            (vec![(GRACE, "0s")], Graceful, Some(5_000), vec![(GRACE, "\"0s\" must be more than 0")]),
            (
                vec![(POLICY, "soft"), (GRACE, "5")],
                Kernel,
                None,
                vec![(POLICY, "[\"kernel\", \"graceful\"]"), (GRACE, "\"5\" is not a duration")],
            ),
        ] {
            let pod = pod(&annotations);
            let node = MemoryLimit { policy: node, ..MemoryLimit::default() };
            assert_eq!(graceful(&pod, node).map(|d| d.as_millis()), grace_ms, "{annotations:?}");
            let found = problems(&pod);
            assert_eq!(found.len(), complaints.len(), "{found:?}");
            for ((name, text), (expected_name, expected)) in found.iter().zip(complaints) {
                assert!(*name == expected_name && text.contains(expected), "{name}: {text}");
            }
        }
        assert_eq!(problems(&Pod::default()), []);
    }
}
