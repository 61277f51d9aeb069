//! The UID under which a static pod runs already, so that another agent's pods go on. Shell: looks at when a file changed.
//!
//! A static pod whose manifest gives it no UID gets one from its agent, which makes it from its own data structures: no agent
//! can work out another's. But a pod that a kubelet made after the last change of its manifest was made from this manifest.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::cri::runtime::StaticPodOfKubelet;
use oomlet_core::manifest::Manifest;
use oomlet_core::node::published::SavedPod;
use oomlet_core::pod::{Pod, PodRef};

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TakenOver {
    of_kubelet: Arc<Vec<StaticPodOfKubelet>>,
    /// By manifest, as an earlier run of this agent had them.
    saved: Arc<Vec<(PathBuf, Pod)>>,
}

impl TakenOver {
    #[must_use]
    pub fn new(of_kubelet: Vec<StaticPodOfKubelet>, saved: &[SavedPod]) -> TakenOver {
        let of_file = |saved: &SavedPod| {
            let pod = Pod { status: None, ..saved.pod.clone() };
            saved.manifest_path.clone().map(|path| (path, pod))
        };
        TakenOver {
            of_kubelet: Arc::new(of_kubelet),
            saved: Arc::new(saved.iter().filter_map(of_file).collect()),
        }
    }

    /// The manifest of this file, as the pod that runs from it where there is one.
    #[must_use]
    pub fn continued(&self, manifest: Manifest, path: &Path) -> Manifest {
        if manifest.own_uid {
            return manifest;
        }
        let id = PodRef::of(&manifest.pod);
        let same_name = |other: &PodRef| (&other.namespace, &other.name) == (&id.namespace, &id.name);
        let as_saved = self.saved.iter().filter(|(of, _)| of == path).find_map(|(_, pod)| {
            let again = manifest.clone().with_uid(&PodRef::of(pod).uid);
            (*again.pod == *pod).then_some(again)
        });
        if let Some(again) = as_saved {
            return again;
        }
        match self.of_kubelet.iter().find(|kubelets| same_name(&kubelets.pod)) {
            Some(kubelets) if last_change(path).is_some_and(|changed| changed < kubelets.seen) => {
                let uid = &kubelets.pod.uid;
                tracing::info!(pod = %id, %uid, "a kubelet has made this static pod from its manifest as it is: it goes on");
                manifest.with_uid(uid)
            }
            _ => manifest,
        }
    }
}

/// Of the file's content, and of what the path leads to.
fn last_change(path: &Path) -> Option<Timestamp> {
    let of =
        |meta: std::fs::Metadata| Timestamp::new(meta.ctime(), i32::try_from(meta.ctime_nsec()).ok()?).ok();
    let file = of(std::fs::metadata(path).ok()?)?;
    let link = of(std::fs::symlink_metadata(path).ok()?)?;
    Some(file.max(link))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use k8s_openapi::jiff::ToSpan as _;
    use oomlet_core::manifest;
    use oomlet_core::pod::PodUid;

    #[test]
    fn a_pod_goes_on_where_its_manifest_is_the_one_that_it_was_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.yaml");
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: i}]}\n";
        let own = text.replace("name: web", "name: web, uid: its-own");
        let read = |text: &str| manifest::read(text.as_bytes(), &path, "n").unwrap();
        std::fs::write(&path, text).unwrap();
        let changed = last_change(&path).unwrap();
        let of_kubelet = |name: &str, seen: Timestamp| {
            let pod =
                PodRef { namespace: "default".into(), name: name.into(), uid: PodUid::from("kubelets") };
            vec![StaticPodOfKubelet { pod, seen }]
        };
        let saved = |text: &str, path: &str| {
            let pod = read(text).with_uid(&PodUid::from("saved"));
            let status = Some(k8s_openapi::api::core::v1::PodStatus::default());
            SavedPod {
                pod: Pod { status, ..pod.pod.as_ref().clone() },
                source: None,
                manifest_path: Some(path.into()),
                failure: None,
                forestalled: std::collections::BTreeMap::new(),
            }
        };
        let here = path.to_str().unwrap();
        let (later, earlier) = (changed + 1.second(), changed - 1.second());
        let computed = PodRef::of(&read(text).pod).uid;
        let cases = [
            (text, of_kubelet("web-n", later), vec![], "kubelets"),
            (text, of_kubelet("web-n", earlier), vec![], computed.as_str()),
            (text, of_kubelet("web-n", changed), vec![], computed.as_str()),
            (text, of_kubelet("another-n", later), vec![], computed.as_str()),
            (&own, of_kubelet("web-n", later), vec![], "its-own"),
            (text, vec![], vec![saved(text, here)], "saved"),
            (text, of_kubelet("web-n", earlier), vec![saved(text, here)], "saved"),
            (text, vec![], vec![saved(text, "/elsewhere")], computed.as_str()),
            (text, vec![], vec![saved(&text.replace("image: i", "image: j"), here)], computed.as_str()),
            (text, vec![], vec![], computed.as_str()),
        ];
        for (index, (text, of_kubelet, saved, uid)) in cases.into_iter().enumerate() {
            let continued = TakenOver::new(of_kubelet, &saved).continued(read(text), &path);
            assert_eq!(PodRef::of(&continued.pod).uid.as_str(), uid, "case {index}");
            let hash = &continued.pod.metadata.annotations.as_ref().unwrap()["kubernetes.io/config.hash"];
            assert_eq!(hash, uid, "case {index}");
        }
        let gone = TakenOver::new(of_kubelet("web-n", later), &[]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(PodRef::of(&gone.continued(read(text), &path).pod).uid, computed);
    }
}
