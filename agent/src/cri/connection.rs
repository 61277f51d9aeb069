//! The runtime's unix socket: one lazy channel that finds the runtime again after its restart, a time limit on
//! every call, and a check that says in plain words why a socket is of no use.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_cri::v1 as cri;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::CriError;
use crate::clock;
use crate::instruments::runtime::RuntimeOperations;

/// kubelet's `runtimeRequestTimeout`.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the check at start waits: an idle runtime answers `Version` in milliseconds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// kubelet's `maxMsgSize` (pkg/kubelet/cri/remote): 16 MiB.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Cheap to clone; all clones share one HTTP/2 connection.
#[derive(Clone, Debug)]
pub struct Connection {
    path: PathBuf,
    channel: Channel,
    request_timeout: Duration,
    operations: RuntimeOperations,
}

/// What `Version` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeVersion {
    pub runtime_name: String,
    pub runtime_version: String,
    pub api_version: String,
}

impl Connection {
    /// Connects on the first call, and again whenever the runtime comes back. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`CriError::BadEndpoint`] when `endpoint` is neither `unix:///path`, `unix:/path` nor an absolute path.
    pub fn open(endpoint: &str, request_timeout: Duration) -> Result<Connection, CriError> {
        let bad = || CriError::BadEndpoint { endpoint: endpoint.to_owned() };
        let path = socket_path(endpoint).ok_or_else(bad)?;
        let uri = format!("unix://{}", path.display());
        let channel =
            Endpoint::from_shared(uri).map_err(|_| bad())?.connect_timeout(CHECK_TIMEOUT).connect_lazy();
        Ok(Connection { path, channel, request_timeout, operations: RuntimeOperations::default() })
    }

    /// Whose calls are counted with these.
    #[must_use]
    pub fn counted(mut self, operations: RuntimeOperations) -> Connection {
        self.operations = operations;
        self
    }

    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Is there a CRI v1 runtime behind the socket? The error says what is wrong and what to do about it.
    ///
    /// # Errors
    /// Any of the socket errors of [`CriError`], or [`CriError::NotCriV1`].
    pub async fn check(&self) -> Result<RuntimeVersion, CriError> {
        let path = self.path.clone();
        match tokio::fs::metadata(&path).await {
            Err(e) => return Err(socket_error(path, e)),
            Ok(m) if !m.file_type().is_socket() => return Err(CriError::NotASocket { path }),
            Ok(_) => {}
        }
        if let Err(e) = tokio::net::UnixStream::connect(&path).await {
            return Err(socket_error(path, e));
        }
        self.version().await
    }

    async fn version(&self) -> Result<RuntimeVersion, CriError> {
        let limit = CHECK_TIMEOUT.min(self.request_timeout);
        let mut client = RuntimeServiceClient::new(self.channel());
        // "0.1.0" is the version of kubelet's runtime API that every kubelet sends (kubeRuntimeAPIVersion).
        let request = cri::VersionRequest { version: "0.1.0".into() };
        let answer = self.limited("Version", "the runtime", limit, client.version(request)).await;
        let v = match answer {
            Ok(v) => v,
            Err(CriError::Unavailable { detail, path, transport: true, .. }) => {
                // The socket accepted a connection a moment ago, so whoever listens does not speak gRPC.
                return Err(CriError::NotCriV1 { path, detail: format!("no gRPC: {detail}") });
            }
            Err(CriError::Timeout { after, .. }) => {
                return Err(CriError::Mute { path: self.path.clone(), after });
            }
            Err(CriError::Call { status, .. }) => {
                let detail = match status.code() {
                    Code::Unimplemented => "runtime.v1.RuntimeService is unknown to it".to_owned(),
                    code => format!("{} ({code:?})", status.message()),
                };
                return Err(CriError::NotCriV1 { path: self.path.clone(), detail });
            }
            Err(e) => return Err(e),
        };
        Ok(RuntimeVersion {
            runtime_name: v.runtime_name,
            runtime_version: v.runtime_version,
            api_version: v.runtime_api_version,
        })
    }

    /// Awaits one call for at most `limit` and turns a refusal into our error.
    pub(super) async fn limited<T>(
        &self,
        call: &'static str,
        target: &str,
        limit: Duration,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CriError> {
        let began = clock::now();
        let answer = match tokio::time::timeout(limit, answer).await {
            Err(_) => Err(CriError::Timeout { call, target: target.to_owned(), after: limit }),
            Ok(Err(status)) => Err(self.refusal(call, target, status)),
            Ok(Ok(response)) => Ok(response.into_inner()),
        };
        self.operations.ended(call, clock::now().since(began), answer.is_ok());
        answer
    }

    pub(super) fn refusal(&self, call: &'static str, target: &str, status: tonic::Status) -> CriError {
        // A status with a source was made on this side of the socket: the connection failed, not the request.
        // hyper reports a connection that breaks in mid-call as Unknown or Internal.
        let of_transport = std::error::Error::source(&status).is_some();
        if of_transport || status.code() == Code::Unavailable {
            let detail =
                std::error::Error::source(&status).map_or_else(|| status.message().to_owned(), root_cause);
            return CriError::Unavailable { path: self.path.clone(), call, detail, transport: of_transport };
        }
        CriError::Call { call, target: target.to_owned(), status: Box::new(status) }
    }
}

/// The innermost error: "transport error" alone helps nobody.
fn root_cause(e: &(dyn std::error::Error + 'static)) -> String {
    let mut e = e;
    while let Some(inner) = e.source() {
        e = inner;
    }
    e.to_string()
}

fn socket_error(path: PathBuf, e: io::Error) -> CriError {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => CriError::SocketMissing { path },
        io::ErrorKind::PermissionDenied => CriError::PermissionDenied { path },
        io::ErrorKind::ConnectionRefused => CriError::Refused { path },
        _ => CriError::Socket { path, source: e },
    }
}

/// `unix:///run/x.sock`, `unix:/run/x.sock` or `/run/x.sock` → `/run/x.sock`.
fn socket_path(endpoint: &str) -> Option<PathBuf> {
    let path =
        endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::fake::FakeRuntime;

    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn endpoints() {
        for (endpoint, path) in [
            ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
            ("unix:/run/crio.sock", Some("/run/crio.sock")),
            ("/run/crio.sock", Some("/run/crio.sock")),
            ("tcp://127.0.0.1:1234", None),
            ("run/crio.sock", None),
            ("", None),
        ] {
            assert_eq!(socket_path(endpoint).as_deref(), path.map(Path::new), "{endpoint}");
        }
    }

    #[tokio::test]
    async fn a_useless_socket_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.sock");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let dead = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let mute = dir.path().join("mute.sock");
        let _mute = tokio::net::UnixListener::bind(&mute).unwrap();
        let rude = dir.path().join("rude.sock");
        let rude_listener = tokio::net::UnixListener::bind(&rude).unwrap();
        tokio::spawn(async move {
            while let Ok((mut s, _)) = rude_listener.accept().await {
                let _ =
                    tokio::io::AsyncWriteExt::write_all(&mut s, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        for (path, expected) in [
            (missing, "is not there: start the runtime"),
            (file, "is not a socket"),
            (dead, "nobody listens"),
            (mute, "answers none within 300ms"),
            (rude, "does not speak CRI v1"),
        ] {
            let error = Connection::open(path.to_str().unwrap(), SHORT).unwrap().check().await.unwrap_err();
            assert!(error.to_string().contains(expected), "{path:?}: {error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[tokio::test]
    async fn a_runtime_without_cri_v1_is_told_from_one_that_has_it() {
        let fake = FakeRuntime::start();
        let connection = Connection::open(&fake.endpoint(), SHORT).unwrap();
        assert_eq!(connection.check().await.unwrap().runtime_name, "fake");
        fake.fail("Version", Code::Unimplemented, "unknown service runtime.v1.RuntimeService");
        let error = connection.check().await.unwrap_err();
        assert!(
            matches!(error, CriError::NotCriV1 { .. }) && error.to_string().contains("disabled_plugins"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_restarted_runtime_is_found_again() {
        let mut fake = FakeRuntime::start();
        let connection = Connection::open(&fake.endpoint(), Duration::from_secs(5)).unwrap();
        connection.check().await.unwrap();
        fake.stop();
        let error = connection.version().await.unwrap_err();
        assert!(error.is_transient() || matches!(error, CriError::NotCriV1 { .. }), "{error}");
        fake.restart();
        connection.check().await.unwrap();
    }
}
