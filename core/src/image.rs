//! Images: whether a container's is used as it is, pulled, or missed (kubelet: pkg/kubelet/images/image_manager.go).
//! [`reference`]: what is an image's name. [`gc`]: which images may go.

pub mod gc;
pub mod reference;

use k8s_openapi::api::core::v1::Container;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// As written, or by the tag: `latest` (also by omission) is always pulled, unless a digest pins it.
    #[must_use]
    pub fn of(container: &Container) -> PullPolicy {
        match container.image_pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            Some("IfNotPresent") => PullPolicy::IfNotPresent,
            _ => {
                let image = reference::with_default_tag(container.image.as_deref().unwrap_or_default());
                let is_latest = image.is_ok_and(|image| image.ends_with(":latest"));
                if is_latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    UsePresent,
    Pull,
    /// Not there, and it may not be pulled.
    Missing,
}

#[must_use]
pub const fn decide(policy: PullPolicy, present: bool) -> Decision {
    match (policy, present) {
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, false) => Decision::Pull,
        (PullPolicy::IfNotPresent | PullPolicy::Never, true) => Decision::UsePresent,
        (PullPolicy::Never, false) => Decision::Missing,
    }
}
