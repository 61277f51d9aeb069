//! The trace over gRPC (`proto/oomlet/v1/trace.proto`) on a unix socket: the agent serves, `oomlet trace` reads.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use oomlet_proto::v1;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::journal::Journal;
use crate::clock;
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::{Kind, Record, RecordPod};

/// Records on their way to one follower.
const FOLLOWER_QUEUE: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("cannot listen on {path}: {source}; choose another --root-dir, or remove what is in the way")]
    Listen { path: PathBuf, source: std::io::Error },
    #[error("no agent answers on {path}: {source}; is `oomlet run` started with the same --root-dir?")]
    Connect { path: PathBuf, source: tonic::transport::Error },
    #[error("the trace stream of {path} failed: {source}")]
    Stream { path: PathBuf, source: Box<Status> },
    #[error("the record {seq} of {path} cannot be read: {why}; are agent and client of the same version?")]
    Decode { path: PathBuf, seq: u64, why: String },
}

/// Serves the journal on `socket` until `cancel`. The socket is for root alone.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(
    socket: &Path,
    journal: Arc<Journal>,
    cancel: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + use<>, WireError> {
    let listen = |source| WireError::Listen { path: socket.to_owned(), source };
    // The root directory's lock is held, so a socket that is there belongs to nobody any more.
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(listen(e)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(listen)?;
    std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(listen)?;
    let service = v1::trace_server::TraceServer::new(TraceService { journal, cancel: cancel.clone() });
    let socket = socket.to_owned();
    Ok(async move {
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), cancel.cancelled())
            .await;
        if let Err(error) = served {
            tracing::warn!(socket = %socket.display(), %error, "the trace server ended");
        }
        let _ = std::fs::remove_file(&socket);
    })
}

struct TraceService {
    journal: Arc<Journal>,
    cancel: CancellationToken,
}

#[tonic::async_trait]
impl v1::trace_server::Trace for TraceService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Record, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let v1::WatchRequest { after_seq, follow } = request.into_inner();
        let (backlog, mut live) = self.journal.follow(after_seq);
        let backlog = tokio_stream::iter(backlog).map(|r| Ok(to_wire(&r)));
        if !follow {
            return Ok(Response::new(Box::pin(backlog)));
        }
        let (tx, rx) = mpsc::channel(FOLLOWER_QUEUE);
        let cancel = self.cancel.clone();
        tokio::spawn(async move {
            loop {
                // Cancel-safe: broadcast recv loses nothing when dropped.
                let next = tokio::select! {
                    next = live.recv() => next,
                    () = cancel.cancelled() => return,
                    () = tx.closed() => return,
                };
                let record = match next {
                    Ok(record) => to_wire(&record),
                    Err(RecvError::Lagged(missed)) => to_wire(&missed_record(missed)),
                    Err(RecvError::Closed) => return,
                };
                if tx.send(Ok(record)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(backlog.chain(ReceiverStream::new(rx)))))
    }
}

fn missed_record(missed: u64) -> Record {
    Record::new(
        clock::now(),
        Kind::Warning,
        Reason::RecordsLost,
        format!("this follower read too slowly and missed {missed} records"),
    )
    .number("missed_records", missed)
}

/// Connects to the agent's socket and calls `each` for every record; `each` ends the stream with `false`.
///
/// # Errors
/// When nobody answers, the stream breaks, or a record is of another version.
pub async fn watch(
    socket: &Path,
    after_seq: u64,
    follow: bool,
    mut each: impl FnMut(Record) -> bool,
) -> Result<(), WireError> {
    let path = socket.to_owned();
    // The URI is unused: the connector below always goes to the socket.
    let channel = tonic::transport::Endpoint::from_static("http://oomlet")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        }))
        .await
        .map_err(|source| WireError::Connect { path: socket.to_owned(), source })?;
    let stream = |source: Status| WireError::Stream { path: socket.to_owned(), source: Box::new(source) };
    let mut client = v1::trace_client::TraceClient::new(channel);
    let mut records =
        client.watch(v1::WatchRequest { after_seq, follow }).await.map_err(stream)?.into_inner();
    while let Some(record) = records.message().await.map_err(stream)? {
        let seq = record.seq;
        let record =
            from_wire(record).map_err(|why| WireError::Decode { path: socket.to_owned(), seq, why })?;
        if !each(record) {
            break;
        }
    }
    Ok(())
}

fn to_wire(r: &Record) -> v1::Record {
    v1::Record {
        seq: r.seq,
        monotonic_ns: r.monotonic_ns,
        unix_ms: r.unix_ms,
        kind: r.kind.as_str().to_owned(),
        reason: r.reason.as_str().to_owned(),
        pod: r.pod.as_ref().map(|p| v1::Pod {
            namespace: p.namespace.clone(),
            name: p.name.clone(),
            uid: p.uid.clone(),
        }),
        container: r.container.clone().unwrap_or_default(),
        domain: r.domain.clone().unwrap_or_default(),
        message: r.message.clone(),
        numbers: r.numbers.iter().map(|(k, v)| (k.clone(), *v)).collect(),
        signal: r.signal.clone().unwrap_or_default(),
    }
}

fn from_wire(r: v1::Record) -> Result<Record, String> {
    let some = |s: String| (!s.is_empty()).then_some(s);
    Ok(Record {
        seq: r.seq,
        monotonic_ns: r.monotonic_ns,
        unix_ms: r.unix_ms,
        kind: *Kind::ALL
            .iter()
            .find(|k| k.as_str() == r.kind)
            .ok_or_else(|| format!("unknown kind {:?}", r.kind))?,
        reason: *Reason::ALL
            .iter()
            .find(|k| k.as_str() == r.reason)
            .ok_or_else(|| format!("unknown reason {:?}", r.reason))?,
        pod: r.pod.map(|p| RecordPod { namespace: p.namespace, name: p.name, uid: p.uid }),
        container: some(r.container),
        domain: some(r.domain),
        signal: some(r.signal),
        message: r.message,
        numbers: r.numbers.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::clock::Mono;
    use oomlet_core::pod::PodRef;

    fn sample() -> Record {
        let pod = PodRef { uid: "u-1".into(), namespace: "default".into(), name: "hog".into() };
        Record::new(Mono(5), Kind::OomKill, Reason::OomKilled, "killed")
            .pod(&pod)
            .container("leak")
            .domain("container")
            .signal("Growth")
            .number("usage_bytes", 1u64 << 40)
    }

    #[test]
    fn the_wire_keeps_every_field() {
        assert_eq!(from_wire(to_wire(&sample())), Ok(sample()));
    }

    #[tokio::test]
    async fn a_client_reads_backlog_and_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("t.sock");
        let (journal, _) = Journal::open(16, None).unwrap();
        journal.publish(sample());
        let cancel = CancellationToken::new();
        let server = tokio::spawn(serve(&socket, Arc::clone(&journal), cancel.clone()).unwrap());
        let mut seen = Vec::new();
        watch(&socket, 0, true, |r| {
            seen.push(r.seq);
            if seen.len() == 1 {
                journal.publish(sample());
            }
            seen.len() < 2
        })
        .await
        .unwrap();
        assert_eq!(seen, [1, 2]);
        cancel.cancel();
        server.await.unwrap();
        assert!(!socket.exists(), "the socket goes with the server");
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_remedy() {
        let error =
            watch(Path::new("/nonexistent/t.sock"), 0, false, |_| true).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/t.sock") && error.contains("--root-dir"), "{error}");
    }
}
