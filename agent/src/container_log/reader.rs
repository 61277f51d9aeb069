//! A container's log from its file to one caller: from the line that is asked for, to its end or as long as the container
//! runs, over rotations, however many there are between two looks, and none of its lines twice. Reads no faster than the
//! caller takes; one who takes so slowly that files are removed before their turn misses what was in them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::dir_watch::{DirWatch, DirWatches};
use super::source::{Source, Successors};
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::node_api::log_line::{LogFilter, More};
use oomlet_core::node_api::log_options::LogOptions;
use oomlet_core::pod::PodUid;

/// A longer line is none that a runtime writes (containerd cuts them at 16 KiB); it is passed over in pieces.
const LONGEST_LINE: usize = 4 << 20;
/// Besides inotify: how often the file is looked at, and whether the container still runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The runtime makes the new file, then goes over to it: how long nothing more must have come to the old one, and how often
/// that is waited for. What comes later still is read, out of its order.
const SETTLED_AFTER: Duration = Duration::from_millis(50);
const SETTLE_ROUNDS: usize = 20;

/// Whose log, and who knows whether it still runs.
#[derive(Debug)]
pub struct LogOf {
    pub path: PathBuf,
    pub pod: PodUid,
    /// Without its scheme.
    pub container_id: String,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
}

impl LogOf {
    /// By the pod's status: a container that was started anew has another id.
    fn runs(&self) -> bool {
        let snapshot = self.snapshots.borrow();
        let Some(published) = snapshot.pods.get(&self.pod) else { return false };
        let status = &published.status;
        let lists = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        lists.into_iter().flatten().flatten().any(|container| {
            let id = container.container_id.as_deref().unwrap_or_default();
            let is_it = id.split_once("://").is_some_and(|(_, id)| id == self.container_id);
            is_it && container.state.as_ref().is_some_and(|state| state.running.is_some())
        })
    }
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the caller has gone")]
    Gone,
    #[error("failed to read log file {path:?}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Format(#[from] oomlet_core::node_api::log_line::UnsupportedFormat),
}

/// To the end of what was asked for. What goes wrong is the last that the caller reads, as from kubelet.
pub async fn send(of: LogOf, options: LogOptions, watches: &DirWatches, to: mpsc::Sender<Bytes>) {
    let mut reader = Reader { filter: LogFilter::new(&options), out: Vec::new(), to };
    let ended = reader.read(&of, &options, watches).await;
    if let Err(error @ (Ended::Io { .. } | Ended::Format(_))) = ended {
        reader.out.extend_from_slice(error.to_string().as_bytes());
        let _ = reader.flush().await;
    }
}

struct Reader {
    filter: LogFilter,
    out: Vec<u8>,
    to: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn read(&mut self, of: &LogOf, options: &LogOptions, watches: &DirWatches) -> Result<(), Ended> {
        let io = |source| Ended::Io { path: of.path.clone(), source };
        if self.filter.more() == More::No {
            return Ok(());
        }
        let path = tokio::fs::canonicalize(&of.path).await.map_err(io)?;
        let opened = Source::open(&path).await.map_err(io)?;
        let mut source = opened.ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
        if let Some(lines) = options.tail_lines {
            source.seek_tail(lines).await.map_err(io)?;
        }
        let watch = options.follow.then(|| path.parent().and_then(|dir| watches.watch(dir))).flatten();
        let mut changes = watch.as_deref().map(DirWatch::changes);
        let mut before: Option<Source> = None;
        loop {
            // Asked before the file is read to its end: what a container writes last is there by then.
            let runs = options.follow && of.runs();
            for source in before.as_mut().into_iter().chain([&mut source]) {
                if self.take_all(source).await.map_err(|stopped| stopped.at(&path))?.0 == More::No {
                    return Ok(());
                }
            }
            if options.follow {
                if source.rewind_if_cut().await.map_err(io)? {
                    continue;
                }
                let read_to = self.filter.read_to();
                if let Some(successors) = source.successors(&path, read_to).await.map_err(io)? {
                    self.last_line(before.take()).await?;
                    match self.go_over(source, successors).await.map_err(|stopped| stopped.at(&path))? {
                        Some((old, new)) => (before, source) = (Some(old), new),
                        None => return Ok(()),
                    }
                    continue;
                }
            }
            if !runs {
                self.last_line(before).await?;
                return self.last_line(Some(source)).await;
            }
            self.wait(&mut changes).await?;
        }
    }

    /// Reads the rest of the old file and what came between, to the file that is written now; the last but that one, too.
    /// `None`: the caller has all that was asked for.
    async fn go_over(
        &mut self,
        mut old: Source,
        successors: Successors,
    ) -> Result<Option<(Source, Source)>, Stopped> {
        let Successors { between, next } = successors;
        for path in between {
            // The whole of it: its container writes to another since.
            if self.take_all(&mut old).await?.0 == More::No {
                return Ok(None);
            }
            // Gone before its turn.
            let Some(source) = Source::open(&path).await.map_err(Stopped::Io)? else { continue };
            self.last_line(Some(old)).await.map_err(Stopped::Ended)?;
            old = source;
        }
        for _ in 0..SETTLE_ROUNDS {
            let taken = self.take_all(&mut old).await?;
            if taken.0 == More::No {
                return Ok(None);
            }
            tokio::time::sleep(SETTLED_AFTER).await;
            let taken = self.take_all(&mut old).await?;
            match taken {
                (More::No, _) => return Ok(None),
                (More::Yes, 0) => break,
                (More::Yes, _) => {}
            }
        }
        Ok(Some((old, next)))
    }

    /// Until the file may have more.
    async fn wait(&self, changes: &mut Option<watch::Receiver<()>>) -> Result<(), Ended> {
        let changed = async {
            let told = match changes {
                Some(changes) => changes.changed().await.is_ok(),
                None => false,
            };
            if !told {
                // Without inotify the time below is what is left.
                std::future::pending::<()>().await;
            }
        };
        // Cancel-safe: whatever ends the wait, the file is read next.
        tokio::select! {
            () = self.to.closed() => Err(Ended::Gone),
            () = changed => Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => Ok(()),
        }
    }

    /// And how many bytes there were.
    async fn take_all(&mut self, source: &mut Source) -> Result<(More, usize), Stopped> {
        let mut taken = 0;
        loop {
            let bytes = source.read().await.map_err(Stopped::Io)?;
            if bytes.is_empty() {
                return Ok((More::Yes, taken));
            }
            taken += bytes.len();
            let more = self.take(&mut source.rest, &bytes)?;
            self.flush().await.map_err(Stopped::Ended)?;
            if more == More::No {
                return Ok((More::No, taken));
            }
        }
    }

    fn take(&mut self, rest: &mut Vec<u8>, bytes: &[u8]) -> Result<More, Stopped> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = piece.ends_with(b"\n") || rest.len() + piece.len() > LONGEST_LINE;
            if !whole {
                rest.extend_from_slice(piece);
                continue;
            }
            let more = if rest.is_empty() {
                self.filter.line(piece, &mut self.out)
            } else {
                rest.extend_from_slice(piece);
                let line = std::mem::take(rest);
                self.filter.line(&line, &mut self.out)
            };
            if more.map_err(|error| Stopped::Ended(error.into()))? == More::No {
                return Ok(More::No);
            }
        }
        Ok(More::Yes)
    }

    /// A line without its newline is one too when no more will come.
    async fn last_line(&mut self, of: Option<Source>) -> Result<(), Ended> {
        let line = of.map(|source| source.rest).unwrap_or_default();
        if !line.is_empty() {
            self.filter.line(&line, &mut self.out)?;
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.out.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.out));
        self.to.send(bytes).await.map_err(|_| Ended::Gone)
    }
}

enum Stopped {
    Io(io::Error),
    Ended(Ended),
}

impl Stopped {
    fn at(self, path: &Path) -> Ended {
        match self {
            Stopped::Io(source) => Ended::Io { path: path.to_owned(), source },
            Stopped::Ended(ended) => ended,
        }
    }
}

#[cfg(test)]
mod tests;
