//! What is in volumes that are made of other things' content: ConfigMaps, Secrets, tokens, the pod's own fields. Core.
//!
//! - [`payload`]: files with their modes; which paths may be; from an object to files.
//! - [`downward`]: files of the downward API.
//! - [`projected`]: several sources in one volume.
//!
//! As kubelet has it (pkg/volume/{configmap,secret,downwardapi,projected}), in its words where something fails.

pub mod downward;
pub mod payload;
pub mod projected;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

pub use payload::{File, Payload, PayloadError};

use crate::object::Objects;
use crate::pod::env::EnvFacts;
use crate::pod::spec::all_containers;
use crate::pod_certificate::Credentials;
use crate::token::Tokens;
use crate::trust_bundle::TrustBundles;

/// `defaultMode` where a manifest says nothing.
pub const DEFAULT_MODE: i32 = 0o644;

/// All that volumes of one pod are made from, beside its manifest.
#[derive(Clone, Debug)]
pub struct Content {
    pub node: EnvFacts,
    pub objects: Objects,
    pub tokens: Tokens,
    pub trust_bundles: TrustBundles,
    pub credentials: Credentials,
}

/// Nothing, and no more to be had.
impl Default for Content {
    fn default() -> Content {
        Content {
            node: EnvFacts::default(),
            objects: Objects::default(),
            tokens: Tokens::default(),
            trust_bundles: Ok(Arc::default()),
            credentials: Credentials::default(),
        }
    }
}

/// The one user as which all containers of the pod run, if they do (`FsUserFrom`, pkg/volume/util).
#[must_use]
pub fn fs_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users =
        all_containers(spec).map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// `fsGroup`, which gets to read what is in the volume.
#[must_use]
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    security.and_then(|s| s.fs_group).and_then(|group| u32::try_from(group).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn users() {
        let container = |user: Option<i64>| json!({"name": "c", "securityContext": {"runAsUser": user}});
        for (of_pod, containers, want) in [
            (None, vec![None], None),
            (Some(1000), vec![None, None], Some(1000)),
            (Some(1000), vec![Some(2000)], Some(2000)),
            (Some(1000), vec![None, Some(2000)], None),
            (None, vec![Some(1000), None], None),
            (None, vec![Some(0)], Some(0)),
        ] {
            let containers: Vec<_> = containers.into_iter().map(container).collect();
            let pod = json!({"spec": {"securityContext": {"runAsUser": of_pod}, "containers": containers}});
            assert_eq!(fs_user(&serde_json::from_value(pod.clone()).unwrap()), want, "{pod}");
        }
    }
}
