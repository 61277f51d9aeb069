//! A container's log from its file to one caller: from the line that is asked for, to its end or as long as the container
//! runs, over rotations. Reads no faster than the caller takes.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{mpsc, watch};

use super::dir_watch::{DirWatch, DirWatches};
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::node_api::log_line::{LogFilter, More};
use oomlet_core::node_api::log_options::LogOptions;
use oomlet_core::pod::PodUid;

/// Read at once.
const CHUNK: usize = 64 << 10;
/// A longer line is none that a runtime writes (containerd cuts them at 16 KiB); it is passed over in pieces.
const LONGEST_LINE: usize = 4 << 20;
/// Besides inotify: how often the file is looked at, and whether the container still runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    let mut reader = Reader { filter: LogFilter::new(&options), out: Vec::new(), rest: Vec::new(), to };
    let ended = reader.read(&of, &options, watches).await;
    if let Err(error @ (Ended::Io { .. } | Ended::Format(_))) = ended {
        reader.out.extend_from_slice(error.to_string().as_bytes());
        let _ = reader.flush().await;
    }
}

struct Reader {
    filter: LogFilter,
    out: Vec<u8>,
    /// A line that is not whole yet.
    rest: Vec<u8>,
    to: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn read(&mut self, of: &LogOf, options: &LogOptions, watches: &DirWatches) -> Result<(), Ended> {
        let io = |source| Ended::Io { path: of.path.clone(), source };
        if self.filter.more() == More::No {
            return Ok(());
        }
        let path = tokio::fs::canonicalize(&of.path).await.map_err(io)?;
        let mut file = File::open(&path).await.map_err(io)?;
        if let Some(lines) = options.tail_lines {
            let start = tail_start(&mut file, lines).await.map_err(io)?;
            file.seek(SeekFrom::Start(start)).await.map_err(io)?;
        }
        let watch = options.follow.then(|| path.parent().and_then(|dir| watches.watch(dir))).flatten();
        let mut changes = watch.as_deref().map(DirWatch::changes);
        loop {
            // Asked before the file is read to its end: what a container writes last is there by then.
            let runs = options.follow && of.runs();
            if self.take_all(&mut file).await.map_err(|error| error.at(&path))? == More::No {
                return Ok(());
            }
            if options.follow
                && let Some(next) = rotated(&file, &path).await.map_err(io)?
            {
                // What the old file got between its end and its successor.
                if self.take_all(&mut file).await.map_err(|error| error.at(&path))? == More::No {
                    return Ok(());
                }
                file = next;
                continue;
            }
            if !runs {
                return self.last_line().await;
            }
            self.wait(&mut changes).await?;
        }
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

    async fn take_all(&mut self, file: &mut File) -> Result<More, Stopped> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = file.read(&mut chunk).await.map_err(Stopped::Io)?;
            if read == 0 {
                return Ok(More::Yes);
            }
            let more = self.take(&chunk[..read])?;
            self.flush().await.map_err(Stopped::Ended)?;
            if more == More::No {
                return Ok(More::No);
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<More, Stopped> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = piece.ends_with(b"\n") || self.rest.len() + piece.len() > LONGEST_LINE;
            if !whole {
                self.rest.extend_from_slice(piece);
                continue;
            }
            let more = if self.rest.is_empty() {
                self.filter.line(piece, &mut self.out)
            } else {
                self.rest.extend_from_slice(piece);
                let line = std::mem::take(&mut self.rest);
                self.filter.line(&line, &mut self.out)
            };
            if more.map_err(|error| Stopped::Ended(error.into()))? == More::No {
                return Ok(More::No);
            }
        }
        Ok(More::Yes)
    }

    /// A line without its newline is one too when no more will come.
    async fn last_line(&mut self) -> Result<(), Ended> {
        let line = std::mem::take(&mut self.rest);
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

/// The file that has the path now, where that is another one than ours; ours from its begin where it was cut short.
async fn rotated(file: &File, path: &Path) -> io::Result<Option<File>> {
    let named = match tokio::fs::metadata(path).await {
        Ok(named) => named,
        // Between the rename and the runtime's new file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let ours = file.metadata().await?;
    let position = file.try_clone().await?.stream_position().await?;
    if (named.ino(), named.dev()) != (ours.ino(), ours.dev()) || named.len() < position {
        return match File::open(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        };
    }
    Ok(None)
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0)).await?;
    let mut wanted = lines;
    if wanted == 0 {
        return Ok(end);
    }
    let length = end;
    let mut chunk = vec![0; CHUNK];
    while end > 0 {
        let from = end.saturating_sub(CHUNK as u64);
        let size = usize::try_from(end - from).unwrap_or(CHUNK);
        file.seek(SeekFrom::Start(from)).await?;
        file.read_exact(&mut chunk[..size]).await?;
        for (at, _) in chunk[..size].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = from + at as u64 + 1;
            // The newline at the very end ends the last line.
            if after == length {
                continue;
            }
            wanted -= 1;
            if wanted == 0 {
                return Ok(after);
            }
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
