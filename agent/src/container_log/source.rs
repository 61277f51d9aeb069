//! The files that a log is read from: the one that has its name, and what came after it where the log has been rotated
//! meanwhile, once or more often.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::GzDecoder;
use k8s_openapi::jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::dir::{self, open_regular};
use oomlet_core::container_log::{compressed_names, is_compressed, rotated};
use oomlet_core::node_api::log_line;

/// Read at once.
const CHUNK: usize = 64 << 10;

/// One file, read from where it was left.
pub(super) struct Source {
    /// Away while it is being read.
    reader: Option<Box<dyn Read + Send + Sync>>,
    file: Arc<File>,
    /// A line of it that is not whole yet.
    pub rest: Vec<u8>,
}

impl Source {
    /// `None`: it is not there, nor what it was compressed to meanwhile.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(path: &Path) -> io::Result<Option<Source>> {
        let path = path.to_owned();
        blocking(move || {
            let compressed = path.file_name().map(|name| compressed_names(&name.to_string_lossy()).0);
            let compressed = compressed.map(|name| path.with_file_name(name));
            for path in [Some(path), compressed].into_iter().flatten() {
                match open_regular(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    opened => return opened.map(|file| Some(Source::of(file, &path))),
                }
            }
            Ok(None)
        })
        .await
    }

    fn of(file: File, path: &Path) -> Source {
        let file = Arc::new(file);
        let reader: Box<dyn Read + Send + Sync> = if path.to_str().is_some_and(is_compressed) {
            Box::new(GzDecoder::new(Arc::clone(&file)))
        } else {
            Box::new(Arc::clone(&file))
        };
        Source { reader: Some(reader), file, rest: Vec::new() }
    }

    /// Empty at the end that the file has now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&mut self) -> io::Result<Vec<u8>> {
        // Dropped half-way, the source is of no use any more: whoever reads goes with it.
        let Some(mut reader) = self.reader.take() else { return Ok(Vec::new()) };
        let (reader, read) = blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let read = reader.read(&mut chunk)?;
            chunk.truncate(read);
            Ok((reader, chunk))
        })
        .await?;
        self.reader = Some(reader);
        Ok(read)
    }

    /// To where the last `lines` lines begin.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn seek_tail(&self, lines: u64) -> io::Result<()> {
        let file = Arc::clone(&self.file);
        blocking(move || {
            let start = tail_start(&file, lines)?;
            (&*file).seek(SeekFrom::Start(start)).map(drop)
        })
        .await
    }

    /// Somebody has cut it short, as logrotate's `copytruncate` does: it is read from its begin.
    ///
    /// # Errors
    /// When its length cannot be read.
    pub async fn rewind_if_cut(&mut self) -> io::Result<bool> {
        let file = Arc::clone(&self.file);
        let cut = blocking(move || {
            let cut = file.metadata()?.len() < (&*file).stream_position()?;
            if cut {
                (&*file).rewind()?;
            }
            Ok(cut)
        });
        let cut = cut.await?;
        if cut {
            self.rest.clear();
        }
        Ok(cut)
    }

    /// Where the log has been rotated: what came after this file. `None`: this one has the log's name, or nobody has it just
    /// now. `read_to`: the time of the last line that was read.
    ///
    /// # Errors
    /// When the directory or a file cannot be read.
    pub async fn successors(
        &self,
        path: &Path,
        read_to: Option<Timestamp>,
    ) -> io::Result<Option<Successors>> {
        let (file, path) = (Arc::clone(&self.file), path.to_owned());
        blocking(move || {
            loop {
                let next = match open_regular(&path) {
                    // Between the rename and the runtime's new file.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    opened => opened?,
                };
                let named = id(&next.metadata()?);
                if named == id(&file.metadata()?) {
                    return Ok(None);
                }
                let between = rotated_after(&file, &path, read_to)?;
                // Where it has been rotated once more meanwhile, another one belongs between.
                if id_of(&path)? == Some(named) {
                    return Ok(Some(Successors { between, next: Source::of(next, &path) }));
                }
            }
        })
        .await
    }
}

/// What is to be read after a file that was rotated away.
pub(super) struct Successors {
    /// Rotated away since, oldest first.
    pub between: Vec<PathBuf>,
    /// What has the log's name now.
    pub next: Source,
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

type FileId = (u64, u64);

fn id(of: &fs::Metadata) -> FileId {
    (of.dev(), of.ino())
}

/// `None`: it is not there.
fn id_of(path: &Path) -> io::Result<Option<FileId>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(|found| Some(id(&found))),
    }
}

/// Those that were rotated away after ours. Ours is found by what it is, or, once it was compressed, by its first line; where
/// it is not kept any more, by the time of what was read last.
fn rotated_after(ours: &File, path: &Path, read_to: Option<Timestamp>) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut rotated: Vec<PathBuf> =
        rotated(name, &dir::names(dir)?).iter().map(|name| dir.join(name)).collect();
    let our_id = id(&ours.metadata()?);
    let mut our_first = vec![0; CHUNK];
    let read = ours.read_at(&mut our_first, 0)?;
    our_first.truncate(read);
    our_first.truncate(our_first.iter().position(|byte| *byte == b'\n').map_or(read, |end| end + 1));
    let mut at = None;
    let mut is_later = Vec::new();
    for (index, path) in rotated.iter().enumerate() {
        // Gone since it was listed: it was the oldest.
        let Some(named) = id_of(path)? else { continue };
        let first = first_line(path).unwrap_or_default();
        if named == our_id || !first.is_empty() && first == our_first {
            at = Some(index);
        }
        if log_line::time(&first) > read_to {
            is_later.push(index);
        }
    }
    Ok(match at {
        Some(ours) => rotated.split_off(ours + 1),
        None => is_later.into_iter().map(|index| rotated[index].clone()).collect(),
    })
}

fn first_line(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let mut line = Vec::new();
    let bound = CHUNK as u64;
    if path.to_str().is_some_and(is_compressed) {
        BufReader::new(GzDecoder::new(file).take(bound)).read_until(b'\n', &mut line)?;
    } else {
        BufReader::new(file.take(bound)).read_until(b'\n', &mut line)?;
    }
    Ok(line)
}

/// Where the last `lines` lines begin.
fn tail_start(file: &File, lines: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let (mut end, mut wanted) = (length, lines);
    if wanted == 0 {
        return Ok(end);
    }
    let mut chunk = vec![0; CHUNK];
    while end > 0 {
        let from = end.saturating_sub(CHUNK as u64);
        let size = usize::try_from(end - from).unwrap_or(CHUNK);
        file.read_exact_at(&mut chunk[..size], from)?;
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
