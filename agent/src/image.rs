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
use crate::instruments::images::Images;
use oomlet_core::clock::Mono;
use oomlet_core::image::reference::with_default_tag;
use oomlet_core::image::{Decision, PullPolicy, decide};
use oomlet_core::pod::PodUid;
use oomlet_core::pod::backoff::{Exponential, IMAGE_PULL};

/// Displayed with the remedy; what people are told of the pod is [`ImageError::reason`] and [`ImageError::message`].
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
    /// `last`: reason and message of the pull that failed.
    #[error("container {container}: back-off pulling image {image:?}, next try in {}s; last error: {last}", left.as_secs())]
    BackOff { container: String, image: String, left: Duration, last: String },
    #[error("container {container}: {detail}: write image as [REGISTRY/]NAME[:TAG][@DIGEST]")]
    InvalidName { container: String, image: String, detail: String },
    #[error("container {container}: looking for image {image:?}: {source}")]
    Inspect { container: String, image: String, source: CriError },
    #[error("container {container}: image {image:?} was pulled but is not there: see the runtime's log")]
    Vanished { container: String, image: String },
}

/// What a runtime's error begins with that has a reason of its own (cri-api, pkg/errors).
const OF_THEIR_OWN: [(&str, &str); 2] = [
    ("RegistryUnavailable", "the registry is unavailable"),
    ("SignatureValidationFailed", "the signature validation failed"),
];

impl ImageError {
    /// kubelet's word for why the container waits.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            ImageError::NeverPull { .. } => "ErrImageNeverPull",
            ImageError::Pull { source, .. } => {
                let said = source.said();
                OF_THEIR_OWN
                    .into_iter()
                    .find(|(word, _)| said.starts_with(word))
                    .map_or("ErrImagePull", |own| own.0)
            }
            ImageError::BackOff { .. } => "ImagePullBackOff",
            ImageError::InvalidName { .. } => "InvalidImageName",
            ImageError::Inspect { .. } | ImageError::Vanished { .. } => "ImageInspectError",
        }
    }

    /// The waiting container's message, in kubelet's words.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            ImageError::NeverPull { image, .. } => {
                format!("Container image {image:?} is not present with pull policy of Never")
            }
            ImageError::Pull { image, source, .. } => {
                let said = source.said();
                match OF_THEIR_OWN.into_iter().find_map(|(word, why)| Some((why, said.strip_prefix(word)?))) {
                    Some((why, more)) => format!("image pull failed for {image} because {why}{more}"),
                    None => said,
                }
            }
            ImageError::BackOff { image, last, .. } => format!("Back-off pulling image {image:?}: {last}"),
            ImageError::InvalidName { image, detail, .. } => {
                format!("Failed to apply default image tag {image:?}: {detail}")
            }
            ImageError::Inspect { image, source, .. } => {
                format!("Failed to inspect image {image:?}: {}", source.said())
            }
            ImageError::Vanished { image, .. } => {
                format!("Failed to inspect image {image:?}: it is not there")
            }
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
    counts: Images,
    /// One permit with `serializeImagePulls`, kubelet's default.
    pulls: Arc<Semaphore>,
    failures: Mutex<HashMap<(PodUid, String), Failure>>,
}

impl ImagePuller {
    /// `parallel_pulls`: 1 with kubelet's `serializeImagePulls: true`.
    #[must_use]
    pub fn new(client: ImageClient, parallel_pulls: usize, counts: Images) -> ImagePuller {
        let pulls = Arc::new(Semaphore::new(parallel_pulls.max(1)));
        ImagePuller { client, counts, pulls, failures: Mutex::default() }
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
        let image = with_default_tag(&written).map_err(|detail| ImageError::InvalidName {
            container: name.clone(),
            image: written.clone(),
            detail,
        })?;
        let inspect = |source: CriError| ImageError::Inspect {
            container: name.clone(),
            image: written.clone(),
            source,
        };
        let policy = PullPolicy::of(container);
        let present = self.client.image_status(&image).await;
        let decision = present.as_ref().ok().map(|present| decide(policy, present.is_some()));
        let (there, pull) =
            (present.as_ref().ok().map(Option::is_some), decision.map(|d| d == Decision::Pull));
        self.counts.wanted(policy, there, pull);
        let present = present.map_err(inspect)?;
        match (decide(policy, present.is_some()), present) {
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
            Err(source) => {
                let error = ImageError::Pull { container: name, image: written, source };
                self.failed(key, &error);
                return Err(error);
            }
        };
        let took = clock::now().since(begun);
        let pulled = self.client.image_status(&image).await.map_err(inspect)?;
        let pulled =
            pulled.ok_or_else(|| ImageError::Vanished { container: name, image: written.clone() })?;
        let (waited, size_bytes) = (begun.since(asked), pulled.size_bytes);
        self.counts.pulled(took, size_bytes);
        tell(Told::Pulled { image: written, took, waited, size_bytes });
        Ok(pulled)
    }

    /// How long the next pull for this pod and image has to wait; `None`: it may be tried.
    #[must_use]
    pub fn next_pull_in(&self, pod: &PodUid, container: &Container) -> Option<Duration> {
        let image = with_default_tag(container.image.as_deref().unwrap_or_default()).ok()?;
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

    fn failed(&self, key: (PodUid, String), error: &ImageError) {
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
        failure.error = format!("{}: {}", error.reason(), error.message());
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
        let puller = ImagePuller::new(ImageClient::new(&connection), 1, Images::default());
        let uid = PodUid::from("u1");
        let sandbox = cri::PodSandboxConfig::default();
        let reason = async |c: &Container| {
            let e = puller.ensure(&uid, c, &sandbox, drop).await.unwrap_err();
            (e.reason(), e.message(), e.to_string())
        };

        let (why, message, text) = reason(&container("absent:1", Some("Never"))).await;
        assert_eq!(why, "ErrImageNeverPull");
        assert_eq!(message, "Container image \"absent:1\" is not present with pull policy of Never");
        assert!(text.contains("absent:1") && text.contains("import"), "{text}");

        fake.fail("PullImage", tonic::Code::NotFound, "no such manifest");
        let absent = container("absent:1", None);
        let (why, message, text) = reason(&absent).await;
        assert_eq!((why, message.as_str()), ("ErrImagePull", "no such manifest"));
        assert!(text.contains("no such manifest") && text.contains("registry"), "{text}");
        let (why, message, _) = reason(&absent).await;
        assert_eq!(why, "ImagePullBackOff");
        assert_eq!(message, "Back-off pulling image \"absent:1\": ErrImagePull: no such manifest");
        assert_eq!(fake.calls("PullImage").len(), 1);
        assert!(puller.next_pull_in(&uid, &absent).unwrap() > Duration::from_secs(5));

        fake.fail("PullImage", tonic::Code::Unknown, "RegistryUnavailable: 503");
        let (why, message, _) = reason(&container("other:1", None)).await;
        assert_eq!(why, "RegistryUnavailable");
        assert_eq!(message, "image pull failed for other:1 because the registry is unavailable: 503");
        let (why, message, _) = reason(&container("UPPER:1", None)).await;
        assert_eq!(why, "InvalidImageName");
        assert!(
            message.starts_with("Failed to apply default image tag \"UPPER:1\": couldn't parse"),
            "{message}"
        );
        assert_eq!(fake.calls("PullImage").len(), 2, "what is no name is not asked for");

        fake.heal("PullImage");
        puller.forget(&uid);
        assert_eq!(puller.ensure(&uid, &absent, &sandbox, drop).await.unwrap().tags, ["absent:1"]);
    }
}
