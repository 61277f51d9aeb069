//! Keeps the trace: the newest records in memory, a broadcast to followers, and a JSONL file when configured.
//!
//! Signals and forecasts come by the thousand while memory moves. They have a ring of their own, so that they do not
//! push out what they led to.
//!
//! Publishing never blocks: a slow follower or a slow disk loses records, which are counted and told.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use oomlet_core::metrics::records::RecordCounts;
use oomlet_core::trace::record::{Kind, Record};

/// The trace file is renamed to `<name>.1` when it grows beyond this, so that two of them bound the disk use.
const FILE_MAX_BYTES: u64 = 64 << 20;
/// Records waiting for the disk.
const FILE_QUEUE_RECORDS: usize = 8192;

/// Shared by everyone who records; see [`Journal::publish`].
#[derive(Debug)]
pub struct Journal {
    rings: Mutex<Rings>,
    live: broadcast::Sender<Arc<Record>>,
    file: Option<mpsc::Sender<Arc<Record>>>,
    file_dropped: AtomicU64,
    counts: Mutex<RecordCounts>,
}

#[derive(Debug)]
struct Rings {
    /// Signals and forecasts.
    measured: VecDeque<Arc<Record>>,
    /// What was decided, done and told.
    done: VecDeque<Arc<Record>>,
    /// Of each.
    capacity: usize,
    last_seq: u64,
}

/// Receives what [`Journal::publish`] hands over; run it with [`FileWriter::run`].
#[derive(Debug)]
pub struct FileWriter {
    path: PathBuf,
    records: mpsc::Receiver<Arc<Record>>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot open the trace file {path}: {source}; create its directory, or change `oomlet.trace.file`")]
pub struct OpenTraceFile {
    path: PathBuf,
    source: std::io::Error,
}

impl Journal {
    /// `capacity`: how many records of either ring stay in memory. With `file`, the returned writer must be run.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(
        capacity: usize,
        file: Option<&Path>,
    ) -> Result<(Arc<Journal>, Option<FileWriter>), OpenTraceFile> {
        let capacity = capacity.max(1);
        let (sender, writer) = match file {
            None => (None, None),
            Some(path) => {
                open_append(path).map_err(|source| OpenTraceFile { path: path.to_owned(), source })?;
                let (tx, records) = mpsc::channel(FILE_QUEUE_RECORDS);
                (Some(tx), Some(FileWriter { path: path.to_owned(), records }))
            }
        };
        let journal = Journal {
            rings: Mutex::new(Rings {
                measured: VecDeque::new(),
                done: VecDeque::new(),
                capacity,
                last_seq: 0,
            }),
            live: broadcast::Sender::new(capacity.min(4096)),
            file: sender,
            file_dropped: AtomicU64::new(0),
            counts: Mutex::default(),
        };
        Ok((Arc::new(journal), writer))
    }

    /// Numbers the record and hands it to memory, followers and file. Never blocks on a reader.
    pub fn publish(&self, mut record: Record) {
        record.unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        self.counts(|counts| counts.take(&record));
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.last_seq += 1;
        record.seq = rings.last_seq;
        let record = Arc::new(record);
        let capacity = rings.capacity;
        let ring = match record.kind {
            Kind::Signal | Kind::Forecast => &mut rings.measured,
            _ => &mut rings.done,
        };
        if ring.len() == capacity {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(&record));
        // Without followers `send` fails, which is fine. Sent under the lock, so that `follow` sees no gap.
        let _ = self.live.send(Arc::clone(&record));
        drop(rings);
        if let Some(file) = &self.file
            && file.try_send(record).is_err()
        {
            self.file_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is in memory after `after_seq`, and a receiver that continues without a gap.
    #[must_use]
    pub fn follow(&self, after_seq: u64) -> (Vec<Arc<Record>>, broadcast::Receiver<Arc<Record>>) {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = rings.measured.iter().chain(&rings.done);
        let mut backlog: Vec<_> = kept.filter(|r| r.seq > after_seq).cloned().collect();
        let live = self.live.subscribe();
        // The SyncLoop must not wait for the sorting.
        drop(rings);
        backlog.sort_unstable_by_key(|r| r.seq);
        (backlog, live)
    }

    /// With what the records come to, which waits for no reader for long.
    pub fn counts<T>(&self, with: impl FnOnce(&mut RecordCounts) -> T) -> T {
        with(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records that the file's queue had no room for.
    #[must_use]
    pub fn file_dropped(&self) -> u64 {
        self.file_dropped.load(Ordering::Relaxed)
    }
}

fn open_append(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().create(true).append(true).open(path)
}

impl FileWriter {
    /// Writes until `cancel`, then what is still queued. A disk that fails is told once; the agent goes on.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut batch = Vec::with_capacity(256);
        let mut failing = false;
        loop {
            // Cancel-safe: recv_many leaves unread records in the channel.
            let read = tokio::select! {
                n = self.records.recv_many(&mut batch, 256) => n,
                () = cancel.cancelled() => {
                    self.records.close();
                    self.records.recv_many(&mut batch, usize::MAX).await
                }
            };
            if read == 0 {
                return;
            }
            let path = self.path.clone();
            let records = std::mem::take(&mut batch);
            let written = tokio::task::spawn_blocking(move || append(&path, &records)).await;
            match written {
                Ok(Ok(())) => failing = false,
                Ok(Err(error)) if !failing => {
                    failing = true;
                    tracing::warn!(path = %self.path.display(), %error, "cannot write the trace file; records are lost until it can be written again");
                }
                Ok(Err(_)) => {}
                Err(error) => tracing::warn!(%error, "the trace file's writer failed"),
            }
        }
    }
}

fn append(path: &Path, records: &[Arc<Record>]) -> std::io::Result<()> {
    let mut text = Vec::with_capacity(records.len() * 256);
    for record in records {
        serde_json::to_writer(&mut text, record.as_ref())?;
        text.push(b'\n');
    }
    let mut file = open_append(path)?;
    file.write_all(&text)?;
    if file.metadata()?.len() > FILE_MAX_BYTES {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        std::fs::rename(path, old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::clock::Mono;
    use oomlet_core::reason::Reason;

    fn record(n: u64) -> Record {
        Record::new(Mono(n), Kind::Signal, Reason::KernelSignal, format!("record {n}"))
    }

    #[test]
    fn memory_keeps_the_newest() {
        let (journal, writer) = Journal::open(3, None).unwrap();
        assert!(writer.is_none());
        for n in 1..=5 {
            journal.publish(record(n));
        }
        let (backlog, _) = journal.follow(0);
        assert_eq!(backlog.iter().map(|r| r.seq).collect::<Vec<_>>(), [3, 4, 5]);
        let (backlog, _) = journal.follow(4);
        assert_eq!(backlog.iter().map(|r| r.seq).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn signals_do_not_push_out_what_they_led_to() {
        let (journal, _) = Journal::open(3, None).unwrap();
        journal.publish(Record::new(Mono(0), Kind::OomKill, Reason::OomKilled, "killed"));
        for n in 1..=50 {
            journal.publish(record(n));
        }
        let (backlog, _) = journal.follow(0);
        assert_eq!(backlog.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 49, 50, 51]);
    }

    #[tokio::test]
    async fn a_follower_sees_no_gap() {
        let (journal, _) = Journal::open(16, None).unwrap();
        journal.publish(record(1));
        let (backlog, mut live) = journal.follow(0);
        journal.publish(record(2));
        assert_eq!(backlog.last().unwrap().seq + 1, live.recv().await.unwrap().seq);
    }

    #[tokio::test]
    async fn the_file_holds_every_record_as_a_json_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.jsonl");
        let (journal, writer) = Journal::open(4, Some(&path)).unwrap();
        for n in 1..=600 {
            journal.publish(record(n));
        }
        let cancel = CancellationToken::new();
        cancel.cancel();
        writer.unwrap().run(cancel).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let seqs: Vec<u64> = text.lines().map(|l| serde_json::from_str::<Record>(l).unwrap().seq).collect();
        assert_eq!(seqs, (1..=600).collect::<Vec<_>>());
        assert_eq!(journal.file_dropped(), 0);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Journal::open(4, Some(Path::new("/nonexistent/trace.jsonl"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/trace.jsonl") && error.contains("oomlet.trace.file"), "{error}");
    }
}
