//! Images: whether a container's is used as it is, pulled, or missed (kubelet: pkg/kubelet/images/image_manager.go).
//! [`gc`]: which images may go.

pub mod gc;

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
                let image = with_default_tag(container.image.as_deref().unwrap_or_default());
                if image.ends_with(":latest") { PullPolicy::Always } else { PullPolicy::IfNotPresent }
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

/// `busybox` → `busybox:latest`, as kubelet asks the runtime; a tag or digest stays.
#[must_use]
pub fn with_default_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.is_empty() || last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}
