//! Why a piece of a worker's work failed as a whole. What concerns one container is its waiting reason instead.

use std::path::PathBuf;

use crate::cgroup::CgroupError;
use crate::cri::CriError;
use crate::runtime_class::RuntimeClassError;
use crate::volume::VolumeError;
use oomlet_core::pod::PodRef;
use oomlet_core::reason::Reason;

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("pod {pod}: {source}")]
    Cri { pod: PodRef, source: Box<CriError> },
    #[error("pod {pod}: {source}")]
    Cgroup { pod: PodRef, source: Box<CgroupError> },
    #[error("pod {pod}: {source}")]
    Volume { pod: PodRef, source: Box<VolumeError> },
    #[error("pod {pod}: {why}: shorten hostname or subdomain, or drop setHostnameAsFQDN")]
    Hostname { pod: PodRef, why: String },
    #[error("pod {pod}: {source}")]
    RuntimeClass { pod: PodRef, source: RuntimeClassError },
    #[error("pod {pod}: cannot {what} {path}: {source}; check its permissions and the space left")]
    File { pod: PodRef, what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("pod {pod}: {containers} still run after StopContainer and SIGKILL: see the runtime's log")]
    StillRunning { pod: PodRef, containers: String },
    #[error("pod {pod}: {what} panicked: this is a defect of the agent, please report it with the log")]
    Panicked { pod: PodRef, what: &'static str },
}

impl WorkerError {
    /// The word that Kubernetes has for it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            WorkerError::Volume { source, .. } if matches!(**source, VolumeError::Volume { .. }) => {
                Reason::FailedMount
            }
            _ => Reason::RetryAfterError,
        }
    }

    /// As it is told of the pod: what Kubernetes has words for, in them.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            WorkerError::Volume { source, .. } if self.reason() == Reason::FailedMount => source.to_string(),
            other => other.to_string(),
        }
    }

    /// The runtime is away; see [`CriError::is_transient`].
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, WorkerError::Cri { source, .. } if source.is_transient())
    }
}
