//! What a worker tells of its steps: a trace record each, in the words that kubelet's Events have
//! (pkg/kubelet/events/event.go), with the time that the step took. Those that people know as Events become some, see
//! `oomlet_core::trace::event_reason`.

use super::start::Failure;
use super::{Worker, WorkerError};
use crate::clock;
use crate::image::{ImageError, Told};
use oomlet_core::clock::Mono;
use oomlet_core::pod::ContainerInstance;
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::{Kind, Record};

/// A step that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step(Mono);

impl Step {
    pub fn begun() -> Step {
        Step(clock::now())
    }
}

impl Worker {
    pub(super) fn tell(&self, kind: Kind, reason: Reason, message: impl Into<String>) {
        self.context.journal.publish(Record::new(clock::now(), kind, reason, message).pod(&self.who));
    }

    pub(super) fn tell_container(
        &self,
        kind: Kind,
        reason: Reason,
        container: &str,
        message: impl Into<String>,
    ) {
        let record = Record::new(clock::now(), kind, reason, message).pod(&self.who);
        self.context.journal.publish(record.container(container.to_owned()));
    }

    /// A step is done.
    pub(super) fn tell_step(&self, reason: Reason, container: Option<&str>, message: &str, step: Step) {
        let record = Record::new(clock::now(), Kind::Pod, reason, message).pod(&self.who);
        let record = record.number("took_ms", clock::now().since(step.0).as_millis());
        self.context.journal.publish(match container {
            Some(container) => record.container(container.to_owned()),
            None => record,
        });
    }

    pub(super) fn tell_image(&self, container: &str, told: Told) {
        let (reason, message) = match told {
            Told::Pulling { image } => (Reason::Pulling, format!("Pulling image {image:?}")),
            Told::Present { image } => (
                Reason::Pulled,
                format!(
                    "Container image {image:?} already present on machine and can be accessed by the pod"
                ),
            ),
            Told::Pulled { image, took, waited, size_bytes } => {
                self.span.past("pullImage", took, container, &image);
                let message = format!(
                    "Successfully pulled image {image:?} in {took:?} ({:?} including waiting). Image size: {size_bytes} bytes.",
                    took + waited
                );
                (Reason::Pulled, message)
            }
        };
        self.tell_container(Kind::Pod, reason, container, message);
    }

    /// Why a container was not started: for an image what is wrong with it first, then the word that its status has.
    pub(super) fn tell_failure(&self, container: &str, failure: &Failure) {
        if failure.is_told {
            return;
        }
        if let Some((kind, reason, message)) = failure.image.as_ref().and_then(of_image) {
            self.tell_container(kind, reason, container, message);
        }
        let word = match failure.image {
            Some(_) => failure.reason,
            None => &failure.message,
        };
        self.tell_container(Kind::Warning, Reason::Failed, container, format!("Error: {word}"));
    }

    pub(super) fn tell_sandbox_failure(&self, error: &WorkerError) {
        let said = match error {
            WorkerError::Cri { source, .. } => source.as_grpc(),
            WorkerError::RuntimeClass { source, .. } => source.to_string(),
            WorkerError::Hostname { why, .. } => why.clone(),
            other => other.to_string(),
        };
        let message = format!("Failed to create pod sandbox: {said}");
        self.tell(Kind::Warning, Reason::FailedCreatePodSandBox, message);
    }

    /// Each an Event of the pod, and what is the node's fault one of the node too.
    pub(super) fn tell_dns(&self, told: Vec<(Reason, String)>) {
        for (reason, message) in told {
            if reason == Reason::MissingClusterDNS {
                let of_node = message.split_once(". ").map_or(message.as_str(), |(_, of_node)| of_node);
                self.context.journal.publish(Record::new(clock::now(), Kind::Warning, reason, of_node));
            }
            self.tell(Kind::Warning, reason, message);
        }
    }

    pub(super) fn tell_back_off(&self, container: &str) {
        let message =
            format!("Back-off restarting failed container {container} in pod {}", self.who.with_uid());
        self.tell_container(Kind::Warning, Reason::BackOff, container, message);
    }

    /// Of a pod that ends; what a sync ends it gives its own reason for.
    pub(super) fn tell_stopping(&self, container: &ContainerInstance) {
        let message = format!("Stopping container {}", container.name);
        self.tell_container(Kind::Pod, Reason::Killing, &container.name, message);
    }
}

/// Beyond the word for it.
fn of_image(error: &ImageError) -> Option<(Kind, Reason, String)> {
    Some(match error {
        ImageError::NeverPull { .. } => (Kind::Warning, Reason::ErrImageNeverPull, error.message()),
        ImageError::Pull { image, source, .. } => {
            (Kind::Warning, Reason::Failed, format!("Failed to pull image {image:?}: {}", source.said()))
        }
        ImageError::BackOff { image, .. } => {
            (Kind::Pod, Reason::BackOff, format!("Back-off pulling image {image:?}"))
        }
        ImageError::InvalidName { .. } | ImageError::Inspect { .. } | ImageError::Vanished { .. } => {
            (Kind::Warning, Reason::InspectFailed, error.message())
        }
    })
}
