//! Which images may go: kubelet's image garbage collection (pkg/kubelet/images/image_gc_manager.go). Core.
//!
//! Never one that a container has, dead or alive, that a pod of the node names, that the runtime has pinned, or that
//! sandboxes are made from. Of the others the least recently used goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Mono;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcPolicy {
    /// `imageGCHighThresholdPercent`: from this use of imagefs on, images are removed. 100: never for that.
    pub high_percent: u8,
    /// `imageGCLowThresholdPercent`: until its use is down to this.
    pub low_percent: u8,
    /// `imageMinimumGCAge`: not before the agent has known of the image for so long, unless it is too old.
    pub min_age: Duration,
    /// `imageMaximumGCAge`: unused for longer than this it goes, however much room there is. Zero: no such limit.
    pub max_age: Duration,
}

impl Default for GcPolicy {
    /// kubelet's defaults.
    fn default() -> Self {
        GcPolicy {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
            max_age: Duration::ZERO,
        }
    }
}

/// An image on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedImage {
    pub id: String,
    /// Tags and digests.
    pub names: Vec<String>,
    pub size_bytes: u64,
    pub pinned: bool,
}

impl ListedImage {
    /// `reference` is the image's id, or a name of it as a manifest or the runtime may write it. In doubt it is.
    fn is_called(&self, reference: &str) -> bool {
        let same = |name: &str, reference: &str| {
            // `busybox:1` stands for `docker.io/library/busybox:1`.
            name.strip_suffix(reference).is_some_and(|before| before.is_empty() || before.ends_with('/'))
        };
        let last = reference.rsplit('/').next().unwrap_or(reference);
        let untagged = !last.contains([':', '@']);
        let latest = format!("{reference}:latest");
        self.id == reference
            || self.names.iter().any(|name| same(name, reference) || untagged && same(name, &latest))
    }
}

/// What keeps images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Ids and names of the images of all containers, and of those that pods name.
    pub references: BTreeSet<String>,
    /// What sandboxes are made from, where the runtime tells.
    pub sandbox_image: Option<String>,
}

impl InUse {
    fn has(&self, image: &ListedImage) -> bool {
        self.references.iter().chain(&self.sandbox_image).any(|reference| image.is_called(reference))
    }
}

/// What was seen of images so far.
#[derive(Debug, Default)]
pub struct ImageRecords {
    seen: BTreeMap<String, Seen>,
    began: Option<Mono>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Mono,
    last_used: Option<Mono>,
}

/// In the order in which they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// Because of their age: all of them.
    pub old: Vec<ListedImage>,
    /// For their room: until `to_free_bytes` are freed.
    pub unused: Vec<ListedImage>,
    pub to_free_bytes: u64,
}

/// Why images are looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcCause {
    /// The time has come: capacity and what is available of imagefs, where that is known.
    Periodic(Option<(u64, u64)>),
    /// The disk is under pressure: whatever can go.
    DiskPressure,
}

impl ImageRecords {
    /// Takes in what is on the node at `now`, and says what may go.
    pub fn plan(
        &mut self,
        policy: &GcPolicy,
        images: &[ListedImage],
        in_use: &InUse,
        cause: GcCause,
        now: Mono,
    ) -> GcPlan {
        // As kubelet: what is there when the agent comes has been there for it does not know how long.
        let first = if self.began.is_none() { Mono::ZERO } else { now };
        let began = *self.began.get_or_insert(now);
        self.seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        // A runtime that pins nothing, not even its sandbox image, and does not name it.
        let unknown_sandbox = in_use.sandbox_image.is_none() && !images.iter().any(|i| i.pinned);
        let is_sandbox = |i: &ListedImage| unknown_sandbox && i.names.iter().any(|n| n.contains("/pause"));
        let mut free: Vec<(Seen, &ListedImage)> = Vec::new();
        for image in images {
            let seen = self.seen.entry(image.id.clone()).or_insert(Seen { first, last_used: None });
            if in_use.has(image) {
                seen.last_used = Some(now);
            } else if !image.pinned && !is_sandbox(image) {
                free.push((*seen, image));
            }
        }
        free.sort_by_key(|(seen, image)| (seen.last_used, seen.first, image.id.clone()));
        let to_free_bytes = match cause {
            GcCause::DiskPressure => u64::MAX,
            GcCause::Periodic(imagefs) => imagefs.map_or(0, |fs| bytes_to_free(policy, fs)),
        };
        // As kubelet: nobody knows how long an image has been unused before the agent came.
        let too_old = |seen: &Seen| {
            let since = seen.last_used.unwrap_or(began);
            let periodic = matches!(cause, GcCause::Periodic(_));
            periodic && !policy.max_age.is_zero() && now.since(since) > policy.max_age
        };
        let (old, rest): (Vec<_>, Vec<_>) = free.into_iter().partition(|(seen, _)| too_old(seen));
        let unused = rest.into_iter().filter(|(seen, _)| now.since(seen.first) >= policy.min_age);
        let unused = unused.filter(|_| to_free_bytes > 0);
        GcPlan {
            old: old.into_iter().map(|(_, image)| image.clone()).collect(),
            unused: unused.map(|(_, image)| image.clone()).collect(),
            to_free_bytes,
        }
    }
}

/// 0 below the high mark.
fn bytes_to_free(policy: &GcPolicy, (capacity, available): (u64, u64)) -> u64 {
    let (capacity, available) = (u128::from(capacity), u128::from(available.min(capacity)));
    if capacity == 0 {
        return 0;
    }
    let used_percent = 100 - available * 100 / capacity;
    if policy.high_percent >= 100 || used_percent < u128::from(policy.high_percent) {
        return 0;
    }
    let wanted = capacity * u128::from(100 - policy.low_percent.min(100)) / 100;
    u64::try_from(wanted.saturating_sub(available)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const T0: Mono = Mono::from_millis(1_000_000);

    fn image(name: &str) -> ListedImage {
        ListedImage {
            id: format!("sha256:{name}"),
            names: vec![
                format!("docker.io/library/{name}:1"),
                format!("docker.io/library/{name}@sha256:abc"),
            ],
            size_bytes: 10,
            pinned: false,
        }
    }

    fn in_use(references: &[&str]) -> InUse {
        let references = references.iter().map(|r| (*r).to_owned()).collect();
        InUse { references, sandbox_image: Some("registry.k8s.io/pause:3".into()) }
    }

    fn ids(images: &[ListedImage]) -> String {
        images.iter().map(|i| i.id.trim_start_matches("sha256:")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_marks() {
        let policy = GcPolicy::default();
        for (available, want) in [(100, 0), (16, 0), (15, 5), (10, 10), (0, 20), (200, 0)] {
            assert_eq!(bytes_to_free(&policy, (100, available)), want, "{available}");
        }
        assert_eq!(bytes_to_free(&policy, (0, 0)), 0);
        assert_eq!(bytes_to_free(&GcPolicy { high_percent: 100, ..policy }, (100, 0)), 0, "off");
        assert_eq!(bytes_to_free(&policy, (u64::MAX, 0)), u64::MAX / 5);
    }

    #[test]
    fn names_and_ids() {
        let image = image("busybox");
        for (reference, want) in [
            ("sha256:busybox", true),
            ("docker.io/library/busybox:1", true),
            ("busybox:1", true),
            ("library/busybox:1", true),
            ("docker.io/library/busybox@sha256:abc", true),
            ("busybox", false),
            ("box:1", false),
            ("busybox:2", false),
        ] {
            assert_eq!(image.is_called(reference), want, "{reference}");
        }
        let latest = ListedImage { names: vec!["docker.io/library/web:latest".into()], ..image };
        assert!(latest.is_called("web") && latest.is_called("docker.io/library/web"));
        assert!(
            ListedImage { names: vec!["localhost:5000/web:latest".into()], ..latest }
                .is_called("localhost:5000/web")
        );
    }

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_needed_stays() {
        let policy = GcPolicy::default();
        let mut records = ImageRecords::default();
        let mut images = ["a", "b", "c", "used"].map(image).to_vec();
        images.push(ListedImage { pinned: true, ..image("pinned") });
        images.push(ListedImage { names: vec!["registry.k8s.io/pause:3".into()], ..image("sandbox") });
        let mut plan = |images: &[ListedImage], used: &[&str], after: u64| {
            ids(&records
                .plan(&policy, images, &in_use(used), GcCause::DiskPressure, T0 + S * after as u32)
                .unused)
        };
        assert_eq!(plan(&images, &["a:1", "b:1", "used:1"], 0), "c", "it was there before the agent");
        assert_eq!(plan(&images, &["sha256:a", "used:1"], 60), "c b");
        images.push(image("new"));
        assert_eq!(plan(&images, &["used:1"], 130), "c b a", "c was never used, new is too new");
        images.remove(2);
        assert_eq!(plan(&images, &["used:1"], 300), "new b a", "what was removed is forgotten");
    }

    #[test]
    fn room_and_age() {
        let images = ["a", "b"].map(image);
        let policy = GcPolicy { max_age: S * 600, ..GcPolicy::default() };
        let mut records = ImageRecords::default();
        let mut plan = |after: u32, used: &[&str], imagefs| {
            records.plan(&policy, &images, &in_use(used), GcCause::Periodic(imagefs), T0 + S * after)
        };
        plan(0, &[], None);
        for (after, used, imagefs, want) in [
            (130, &["b:1"][..], Some((100, 50)), ("", "", 0)),
            (200, &["b:1"], Some((100, 10)), ("", "a", 10)),
            (600, &["b:1"], Some((100, 50)), ("", "", 0)),
            (601, &[], Some((100, 5)), ("a", "b", 15)),
            (1201, &[], None, ("a b", "", 0)),
        ] {
            let got = plan(after, used, imagefs);
            assert_eq!(
                (ids(&got.old).as_str(), ids(&got.unused).as_str(), got.to_free_bytes),
                want,
                "{after}"
            );
        }
    }

    #[test]
    fn a_sandbox_image_that_nobody_names_is_kept_by_its_name() {
        let pause = ListedImage { names: vec!["registry.k8s.io/pause:3.9".into()], ..image("p") };
        let mut records = ImageRecords::default();
        let policy = GcPolicy { min_age: Duration::ZERO, ..GcPolicy::default() };
        let unnamed = InUse::default();
        let mut plan = |images: &[ListedImage]| {
            ids(&records.plan(&policy, images, &unnamed, GcCause::DiskPressure, T0).unused)
        };
        assert_eq!(plan(&[pause.clone(), image("a")]), "a");
        assert_eq!(
            plan(&[pause, ListedImage { pinned: true, ..image("a") }]),
            "p",
            "the runtime pins its own"
        );
    }
}
