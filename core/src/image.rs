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

/// How a pull of an image of this size is counted: kubelet's words (pkg/kubelet/metrics/metrics.go, GetImageSizeBucket). 0: not
/// known.
#[must_use]
pub fn size_class(bytes: u64) -> &'static str {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const CLASSES: [(u64, &str); 12] = [
        (100 * GIB, "GT100GB"),
        (60 * GIB, "60GB-100GB"),
        (40 * GIB, "40GB-60GB"),
        (30 * GIB, "30GB-40GB"),
        (20 * GIB, "20GB-30GB"),
        (10 * GIB, "10GB-20GB"),
        (5 * GIB, "5GB-10GB"),
        (GIB, "1GB-5GB"),
        (500 * MIB, "500MB-1GB"),
        (100 * MIB, "100MB-500MB"),
        (10 * MIB, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    CLASSES.into_iter().find(|(above, _)| bytes > *above).map_or("N/A", |(_, class)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0, "N/A"),
            (1, "0-10MB"),
            (10 << 20, "0-10MB"),
            ((10 << 20) + 1, "10MB-100MB"),
            (2 << 30, "1GB-5GB"),
            (u64::MAX, "GT100GB"),
        ] {
            assert_eq!(size_class(bytes), expected, "{bytes}");
        }
    }
}
