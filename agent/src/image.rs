//! Whether a container's image is used as it is, pulled, or missed. The decision is pure; [`ImagePuller`] carries
//! it out: one pull at a time for the whole node, with back-off by pod and image
//! (kubelet: pkg/kubelet/images/image_manager.go). [`gc`]: which images may go (core).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::Semaphore;

use crate::clock;
use crate::cri::image::Image;
use crate::cri::{CriError, ImageClient};
use oomlet_core::clock::Mono;
use oomlet_core::image::{Decision, PullPolicy, decide, with_default_tag};
use oomlet_core::pod::PodUid;
use oomlet_core::pod::backoff::{Exponential, IMAGE_PULL};

/// kubelet's words for a container's waiting reason, see [`ImageError::reason`].
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(
        "container {container}: image {image:?} is not on the node and imagePullPolicy is Never: import it \
         (ctr -n k8s.io images import), or set imagePullPolicy: IfNotPresent"
    )]
    NeverPull { container: String, image: String },
    #[error(
        "container {container}: pulling image {image:?} failed: {source}; check the name, the registry and the \
         network, or import the image and set imagePullPolicy: IfNotPresent"
    )]
    Pull { container: String, image: String, source: CriError },
    #[error("container {container}: back-off pulling image {image:?}, next try in {}s; last error: {last}", left.as_secs())]
    BackOff { container: String, image: String, left: Duration, last: String },
    #[error("container {container}: image name {image:?} is not valid: {detail}")]
    InvalidName { container: String, image: String, detail: String },
    #[error("container {container}: looking for image {image:?}: {source}")]
    Inspect { container: String, image: String, source: CriError },
    #[error("container {container}: image {image:?} was pulled but is not there: see the runtime's log")]
    Vanished { container: String, image: String },
}

impl ImageError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            ImageError::NeverPull { .. } => "ErrImageNeverPull",
            ImageError::Pull { .. } => "ErrImagePull",
            ImageError::BackOff { .. } => "ImagePullBackOff",
            ImageError::InvalidName { .. } => "InvalidImageName",
            ImageError::Inspect { .. } | ImageError::Vanished { .. } => "ImageInspectError",
        }
    }

    /// The runtime is away; nothing is wrong with the image.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            ImageError::Inspect { source, .. } => source.is_transient(),
            _ => false,
        }
    }
}

/// containerd and CRI-O parse names with Go's distribution/reference and pass its error on with no code of its own.
const NOT_A_REFERENCE: &str = "invalid reference format";

/// Failed pulls are remembered for this many at most; older ones are forgotten, which only means an earlier retry.
const MAX_REMEMBERED_FAILURES: usize = 1024;

#[derive(Debug)]
struct Failure {
    back_off: Exponential,
    error: String,
    at: Mono,
}

/// How far the puller is with an image, as people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Pulling {
        image: String,
    },
    Present {
        image: String,
    },
    /// `waited`: for its turn.
    Pulled {
        image: String,
        took: Duration,
        waited: Duration,
        size_bytes: u64,
    },
}

/// Shared by all pod workers.
#[derive(Debug)]
pub struct ImagePuller {
    client: ImageClient,
    /// One permit with `serializeImagePulls`, kubelet's default.
    pulls: Arc<Semaphore>,
    failures: Mutex<HashMap<(PodUid, String), Failure>>,
}

impl ImagePuller {
    /// `parallel_pulls`: 1 with kubelet's `serializeImagePulls: true`.
    #[must_use]
    pub fn new(client: ImageClient, parallel_pulls: usize) -> ImagePuller {
        let pulls = Arc::new(Semaphore::new(parallel_pulls.max(1)));
        ImagePuller { client, pulls, failures: Mutex::default() }
    }

    /// The image that `container` is to be created from. Dropping the future gives a pull up.
    ///
    /// # Errors
    /// Why there is none; [`ImageError::reason`] is the container's waiting reason.
    pub async fn ensure(
        &self,
        pod: &PodUid,
        container: &Container,
        sandbox: &cri::PodSandboxConfig,
        tell: impl Fn(Told),
    ) -> Result<Image, ImageError> {
        let name = container.name.clone();
        let written = container.image.clone().unwrap_or_default();
        let image = with_default_tag(&written);
        let inspect = |source: CriError| match source.code() {
            Some(tonic::Code::InvalidArgument) => ImageError::InvalidName {
                container: name.clone(),
                image: written.clone(),
                detail: source.to_string(),
            },
            _ => ImageError::Inspect { container: name.clone(), image: written.clone(), source },
        };
        let present = self.client.image_status(&image).await.map_err(inspect)?;
        match (decide(PullPolicy::of(container), present.is_some()), present) {
            (Decision::UsePresent, Some(found)) => {
                tell(Told::Present { image: written });
                return Ok(found);
            }
            (Decision::Missing, _) => return Err(ImageError::NeverPull { container: name, image: written }),
            _ => {}
        }
        let key = (pod.clone(), image.clone());
        if let Some((left, last)) = self.waiting(&key) {
            return Err(ImageError::BackOff { container: name, image: written, left, last });
        }
        tell(Told::Pulling { image: written.clone() });
        let asked = clock::now();
        // The semaphore is never closed, so there is always a permit in the end.
        let _permit = self.pulls.acquire().await;
        let begun = clock::now();
        match self.client.pull_image(&image, sandbox.clone()).await {
            Ok(_) => self.failures().remove(&key),
            Err(source) if source.to_string().contains(NOT_A_REFERENCE) => {
                return Err(ImageError::InvalidName {
                    container: name,
                    image: written,
                    detail: source.to_string(),
                });
            }
            Err(source) => {
                self.failed(key, &source);
                return Err(ImageError::Pull { container: name, image: written, source });
            }
        };
        let took = clock::now().since(begun);
        let pulled = self.client.image_status(&image).await.map_err(inspect)?;
        let pulled =
            pulled.ok_or_else(|| ImageError::Vanished { container: name, image: written.clone() })?;
        let (waited, size_bytes) = (begun.since(asked), pulled.size_bytes);
        tell(Told::Pulled { image: written, took, waited, size_bytes });
        Ok(pulled)
    }

    /// How long the next pull for this pod and image has to wait; `None`: it may be tried.
    #[must_use]
    pub fn next_pull_in(&self, pod: &PodUid, container: &Container) -> Option<Duration> {
        let image = with_default_tag(container.image.as_deref().unwrap_or_default());
        self.waiting(&(pod.clone(), image)).map(|(left, _)| left)
    }

    /// The pod is gone.
    pub fn forget(&self, pod: &PodUid) {
        self.failures().retain(|(uid, _), _| uid != pod);
    }

    fn waiting(&self, key: &(PodUid, String)) -> Option<(Duration, String)> {
        let failures = self.failures();
        let failure = failures.get(key)?;
        Some((failure.back_off.remaining(clock::now())?, failure.error.clone()))
    }

    fn failed(&self, key: (PodUid, String), error: &CriError) {
        let now = clock::now();
        let mut failures = self.failures();
        let full = failures.len() >= MAX_REMEMBERED_FAILURES && !failures.contains_key(&key);
        let oldest = failures.iter().min_by_key(|(_, f)| f.at).map(|(k, _)| k.clone());
        if let Some(oldest) = oldest.filter(|_| full) {
            failures.remove(&oldest);
        }
        let failure =
            failures.entry(key).or_insert(Failure { back_off: IMAGE_PULL, error: String::new(), at: now });
        failure.back_off.failed(now);
        failure.error = error.to_string();
        failure.at = now;
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<(PodUid, String), Failure>> {
        // The map is whole after a panic as well: each change is one insert or remove.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::Connection;
    use crate::cri::fake::FakeRuntime;

    fn container(image: &str, policy: Option<&str>) -> Container {
        Container {
            name: "c".into(),
            image: Some(image.into()),
            image_pull_policy: policy.map(str::to_owned),
            ..Container::default()
        }
    }

    #[test]
    fn policies() {
        for (image, policy, expected) in [
            ("busybox", None, PullPolicy::Always),
            ("busybox:latest", None, PullPolicy::Always),
            ("busybox:1.37", None, PullPolicy::IfNotPresent),
            ("reg:5000/busybox", None, PullPolicy::Always),
            ("busybox@sha256:00", None, PullPolicy::IfNotPresent),
            ("busybox", Some("Never"), PullPolicy::Never),
            ("busybox:1", Some("Always"), PullPolicy::Always),
        ] {
            assert_eq!(PullPolicy::of(&container(image, policy)), expected, "{image} {policy:?}");
        }
    }

    #[test]
    fn default_tags() {
        for (image, expected) in [
            ("busybox", "busybox:latest"),
            ("reg:5000/a/busybox", "reg:5000/a/busybox:latest"),
            ("reg:5000/busybox:1", "reg:5000/busybox:1"),
            ("busybox@sha256:00", "busybox@sha256:00"),
            ("", ""),
        ] {
            assert_eq!(with_default_tag(image), expected);
        }
    }

    #[test]
    fn decisions() {
        for (policy, present, expected) in [
            (PullPolicy::Always, true, Decision::Pull),
            (PullPolicy::Always, false, Decision::Pull),
            (PullPolicy::IfNotPresent, true, Decision::UsePresent),
            (PullPolicy::IfNotPresent, false, Decision::Pull),
            (PullPolicy::Never, true, Decision::UsePresent),
            (PullPolicy::Never, false, Decision::Missing),
        ] {
            assert_eq!(decide(policy, present), expected, "{policy:?} {present}");
        }
    }

    #[tokio::test]
    async fn a_failed_pull_backs_off_and_a_missing_image_names_the_remedy() {
        let fake = FakeRuntime::start();
        let connection = Connection::open(&fake.endpoint(), Duration::from_secs(5)).unwrap();
        let puller = ImagePuller::new(ImageClient::new(&connection), 1);
        let uid = PodUid::from("u1");
        let sandbox = cri::PodSandboxConfig::default();
        let reason = async |c: &Container| {
            let e = puller.ensure(&uid, c, &sandbox, drop).await.unwrap_err();
            (e.reason(), e.to_string())
        };

        let (why, text) = reason(&container("absent:1", Some("Never"))).await;
        assert_eq!(why, "ErrImageNeverPull");
        assert!(text.contains("absent:1") && text.contains("import"), "{text}");

        fake.fail("PullImage", tonic::Code::NotFound, "no such manifest");
        let absent = container("absent:1", None);
        let (why, text) = reason(&absent).await;
        assert_eq!(why, "ErrImagePull");
        assert!(text.contains("no such manifest"), "{text}");
        let (why, text) = reason(&absent).await;
        assert_eq!(why, "ImagePullBackOff");
        assert!(text.contains("no such manifest"), "{text}");
        assert_eq!(fake.calls("PullImage").len(), 1);
        assert!(puller.next_pull_in(&uid, &absent).unwrap() > Duration::from_secs(5));

        fake.fail(
            "PullImage",
            tonic::Code::Unknown,
            "invalid reference format: repository name must be lowercase",
        );
        assert_eq!(reason(&container("UPPER:1", None)).await.0, "InvalidImageName");

        fake.heal("PullImage");
        puller.forget(&uid);
        assert_eq!(puller.ensure(&uid, &absent, &sandbox, drop).await.unwrap().tags, ["absent:1"]);
    }
}
