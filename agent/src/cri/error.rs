//! What can go wrong between the agent and the container runtime.

use std::path::PathBuf;
use std::time::Duration;

use tonic::Code;

#[derive(Debug, thiserror::Error)]
pub enum CriError {
    #[error(
        "container runtime endpoint {endpoint:?} is not a unix socket: \
         use --container-runtime-endpoint unix:///run/containerd/containerd.sock"
    )]
    BadEndpoint { endpoint: String },
    #[error(
        "container runtime socket {path} is not there: start the runtime (systemctl start containerd), \
         or name its socket with --container-runtime-endpoint"
    )]
    SocketMissing { path: PathBuf },
    #[error("{path} is not a socket: name the runtime's socket with --container-runtime-endpoint")]
    NotASocket { path: PathBuf },
    #[error("no permission to connect to container runtime socket {path}: run the agent as root")]
    PermissionDenied { path: PathBuf },
    #[error("nobody listens on container runtime socket {path}: the runtime has ended, start it again")]
    Refused { path: PathBuf },
    #[error("connecting to container runtime socket {path}: {source}")]
    Socket { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} answers, but does not speak CRI v1 ({detail}): use containerd 1.6 or newer or CRI-O 1.24 or newer, \
         and with containerd take \"cri\" out of disabled_plugins in /etc/containerd/config.toml"
    )]
    NotCriV1 { path: PathBuf, detail: String },
    #[error(
        "{path} accepts connections and answers none within {after:?}: if it is the runtime's CRI socket, see the runtime's \
         log; if not, name the right one with --container-runtime-endpoint"
    )]
    Mute { path: PathBuf, after: Duration },
    #[error(
        "the container runtime at {path} does not answer {call} ({detail}): is it running, and is its log clean?"
    )]
    Unavailable {
        path: PathBuf,
        call: &'static str,
        detail: String,
        /// The connection itself failed; otherwise the runtime said so.
        transport: bool,
    },
    #[error(
        "the container runtime did not finish {call} of {target} within {after:?}: see the runtime's log"
    )]
    Timeout { call: &'static str, target: String, after: Duration },
    #[error("{call} of {target}: {} ({:?})", .status.message(), .status.code())]
    Call { call: &'static str, target: String, status: Box<tonic::Status> },
    #[error("{call} of {target}: the runtime's answer lacks {what}; it does not keep to CRI v1")]
    BadAnswer { call: &'static str, target: String, what: &'static str },
}

impl CriError {
    /// The gRPC code of the runtime's refusal, where there was one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            CriError::Call { status, .. } => Some(status.code()),
            CriError::Unavailable { .. } => Some(Code::Unavailable),
            CriError::Timeout { .. } => Some(Code::DeadlineExceeded),
            _ => None,
        }
    }

    /// What the runtime itself said, as kubelet tells it of a pod; of an error without such words, the whole.
    #[must_use]
    pub fn said(&self) -> String {
        match self {
            CriError::Call { status, .. } => status.message().to_owned(),
            other => other.to_string(),
        }
    }

    /// A refusal in the form that Go's gRPC gives it, as kubelet tells it; of any other error the whole.
    #[must_use]
    pub fn as_grpc(&self) -> String {
        match self {
            CriError::Call { status, .. } => {
                format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
            }
            other => other.to_string(),
        }
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Some(Code::Unimplemented)
    }

    /// The runtime is away or overloaded and the same call may succeed soon: a restart of the runtime, a full
    /// queue, a deadline. A refusal of the request itself is not transient.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            CriError::SocketMissing { .. }
            | CriError::Refused { .. }
            | CriError::Socket { .. }
            | CriError::Mute { .. }
            | CriError::Unavailable { .. }
            | CriError::Timeout { .. } => true,
            CriError::Call { status, .. } => {
                matches!(
                    status.code(),
                    Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted
                )
            }
            _ => false,
        }
    }
}
