//! The static pods that a kubelet has left running here.

use k8s_cri::v1 as cri;
use k8s_openapi::jiff::Timestamp;

use super::RuntimeClient;
use crate::cri::{CriError, convert};
use oomlet_core::pod::PodRef;
use oomlet_core::pod::spec::SOURCE_ANNOTATION;

/// kubelet's alone: when it saw the pod's manifest as it is (pkg/kubelet/config/config.go).
const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticPodOfKubelet {
    pub pod: PodRef,
    /// From then on its manifest was the one that it was made from.
    pub seen: Timestamp,
}

impl RuntimeClient {
    /// Those with a sandbox that is up.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn static_pods_of_kubelet(&self) -> Result<Vec<StaticPodOfKubelet>, CriError> {
        let request = cri::ListPodSandboxRequest::default();
        let r = call!(self, "ListPodSandbox", "static pods", list_pod_sandbox, request)?;
        Ok(r.items.into_iter().filter_map(static_pod_of_kubelet).collect())
    }
}

fn static_pod_of_kubelet(sandbox: cri::PodSandbox) -> Option<StaticPodOfKubelet> {
    let annotation = |key: &str| sandbox.annotations.get(key).map(String::as_str);
    let from_file = annotation(SOURCE_ANNOTATION) == Some("file");
    let seen = annotation(SEEN_ANNOTATION)?.parse().ok()?;
    let listed = convert::listed_sandbox(sandbox)?;
    (from_file && listed.ready).then_some(StaticPodOfKubelet { pod: listed.pod, seen })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::cri::names;

    #[test]
    fn it_is_kubelets_from_a_file_and_up() {
        let found = |source: &str, seen: Option<&str>, up: bool| {
            let text = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
            };
            let mut annotations = vec![(SOURCE_ANNOTATION, source)];
            annotations.extend(seen.map(|seen| (SEEN_ANNOTATION, seen)));
            let state = match up {
                true => cri::PodSandboxState::SandboxReady,
                false => cri::PodSandboxState::SandboxNotready,
            };
            static_pod_of_kubelet(cri::PodSandbox {
                state: state.into(),
                labels: text(&[
                    (names::POD_UID, "u"),
                    (names::POD_NAMESPACE, "ns"),
                    (names::POD_NAME, "web-n"),
                ]),
                annotations: text(&annotations),
                ..cri::PodSandbox::default()
            })
        };
        let seen = "2026-11-30T07:00:00.123456789+02:00";
        let kubelets = found("file", Some(seen), true).unwrap();
        assert_eq!((kubelets.pod.uid.as_str(), kubelets.pod.name.as_str()), ("u", "web-n"));
        assert_eq!(kubelets.seen.to_string(), "2026-11-30T05:00:00.123456789Z");
        for other in [
            found("api", Some(seen), true),
            found("file", None, true),
            found("file", Some("yesterday"), true),
            found("file", Some(seen), false),
        ] {
            assert_eq!(other, None);
        }
    }
}
