//! Why one container did not start.

use std::time::Duration;

use crate::cri::CriError;
use crate::image::ImageError;
use oomlet_core::pod::order::ContainerWaiting;

#[derive(Debug)]
pub(in crate::pod_worker) struct Failure {
    /// kubelet's words, for the pod's status and Events.
    pub reason: &'static str,
    pub message: String,
    /// The whole of it with the remedy, for the log.
    pub error: String,
    pub transient: bool,
    /// Not an error but a wait of this length.
    pub backing_off: Option<Duration>,
    /// What is wrong with its image, when that is it.
    pub image: Option<ImageError>,
    /// An Event has said so already.
    pub is_told: bool,
}

impl Failure {
    pub fn waiting(&self, container: &str) -> ContainerWaiting {
        ContainerWaiting {
            container: container.to_owned(),
            reason: self.reason.to_owned(),
            message: self.message.clone(),
        }
    }

    pub(super) fn config(error: impl ToString) -> Failure {
        Failure {
            reason: "CreateContainerConfigError",
            message: error.to_string(),
            error: error.to_string(),
            transient: false,
            backing_off: None,
            image: None,
            is_told: false,
        }
    }

    pub(super) fn post_start(message: String) -> Failure {
        Failure { reason: "PostStartHookError", is_told: true, ..Failure::config(message) }
    }

    pub(super) fn call(reason: &'static str, error: &CriError) -> Failure {
        let (message, error, transient) = (error.said(), error.to_string(), error.is_transient());
        Failure { reason, message, error, transient, backing_off: None, image: None, is_told: false }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ImageError> for Failure {
    fn from(e: ImageError) -> Failure {
        let backing_off = if let ImageError::BackOff { left, .. } = &e { Some(*left) } else { None };
        let (message, error) = (e.message(), e.to_string());
        let (reason, transient) = (e.reason(), e.is_transient());
        Failure { reason, message, error, transient, backing_off, image: Some(e), is_told: false }
    }
}
