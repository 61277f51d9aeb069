//! Rotates the logs of running containers that have grown too large: what was rotated away before is compressed, the log
//! gets a name with the time, and the runtime opens it anew. As kubelet's container log manager does it, but that the sizes are
//! read off the files and the runtime is asked only where one is not where it should be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::dir::{self, Locked};
use crate::cri::names::{container_log_path, pod_log_dir};
use crate::cri::{CriError, RuntimeClient};
use oomlet_core::container_log::{LogPolicy, before_rotation, compressed_names, rotated_name};
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::PodRef;

/// Read at once while a log is compressed.
const CHUNK: usize = 64 << 10;

/// The task.
#[derive(Debug)]
pub struct LogRotation {
    pub runtime: RuntimeClient,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    /// kubelet's `podLogsDir`.
    pub pod_logs_dir: PathBuf,
    pub policy: LogPolicy,
}

/// A running container's log.
#[derive(Clone, Debug)]
struct Log {
    container_id: String,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RotationError {
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} goes on as it is, for the runtime does not open it anew: {source}")]
    Runtime { path: PathBuf, source: Box<CriError> },
    #[error("rotating {path} panicked: this is a defect of the agent, please report it with the log")]
    Panicked { path: PathBuf },
}

impl LogRotation {
    pub async fn run(self, cancel: CancellationToken) {
        let Some(max_bytes) = self.policy.max_bytes else { return };
        loop {
            // Cancel-safe: nothing is lost with the time.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.policy.monitor_interval) => {}
            }
            // To its end: between the new name and the runtime's new file a container has no log of its name.
            self.rotate_all(max_bytes, &cancel).await;
        }
    }

    async fn rotate_all(&self, max_bytes: u64, cancel: &CancellationToken) {
        let logs = running(&self.snapshots.borrow(), &self.pod_logs_dir);
        let sized = spawn_blocking(move || logs.into_iter().map(|log| (size(&log.path), log)).collect());
        let Ok(sized): Result<Vec<_>, _> = sized.await else { return };
        let mut due = Vec::new();
        for (size, log) in sized {
            match size {
                Ok(Some(bytes)) if bytes >= max_bytes => due.push(log),
                Ok(Some(_)) => {}
                Ok(None) => due.extend(self.recover(log, max_bytes).await),
                Err(source) => tell(&RotationError::File { what: "look at", path: log.path, source }),
            }
        }
        let mut running = JoinSet::new();
        for log in due {
            if running.len() >= self.policy.max_workers {
                running.join_next().await;
            }
            let (runtime, max_files, cancel) = (self.runtime.clone(), self.policy.max_files, cancel.clone());
            running.spawn(async move {
                let rotated = async {
                    let Some(moved) = prepare(&log, (max_bytes, max_files), &cancel).await? else {
                        return Ok(());
                    };
                    let reopened = runtime.reopen_container_log(&log.container_id).await;
                    moved.reopened(reopened.map_err(Box::new)).await
                };
                rotated.await.unwrap_or_else(|error: RotationError| tell(&error));
            });
        }
        while running.join_next().await.is_some() {}
    }

    /// The log is not where it should be: the runtime has it elsewhere, or an agent has ended between the two halves of a
    /// rotation. Where that makes it one that is to be rotated, it.
    async fn recover(&self, log: Log, max_bytes: u64) -> Option<Log> {
        // A container that has just gone, or whose log the runtime keeps nowhere.
        let path = self.runtime.container_log(&log.container_id).await.ok()?.path;
        let log = Log { path, ..log };
        let look = |path: PathBuf| async move { spawn_blocking(move || size(&path)).await.ok()?.ok()? };
        if let Some(bytes) = look(log.path.clone()).await {
            return (bytes >= max_bytes).then_some(log);
        }
        if let Err(source) = self.runtime.reopen_container_log(&log.container_id).await {
            tracing::debug!(%source, path = %log.path.display(), "a log that is not there is not opened anew");
        }
        None
    }
}

fn tell(error: &RotationError) {
    tracing::warn!(%error, "a container's log is not rotated");
}

/// By the status that others are told.
fn running(snapshot: &NodeSnapshot, pod_logs_dir: &Path) -> Vec<Log> {
    let mut logs = Vec::new();
    for published in snapshot.pods.values() {
        let dir = pod_log_dir(pod_logs_dir, &PodRef::of(&published.pod));
        let status = &published.status;
        let lists = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        for container in lists.into_iter().flatten().flatten() {
            let runs = container.state.as_ref().is_some_and(|state| state.running.is_some());
            let id = container.container_id.as_deref().and_then(|id| id.split_once("://"));
            let restart_count = u32::try_from(container.restart_count);
            if let (true, Some((_, id)), Ok(restart_count)) = (runs, id, restart_count) {
                let path = dir.join(container_log_path(&container.name, restart_count));
                logs.push(Log { container_id: id.to_owned(), path });
            }
        }
    }
    logs
}

/// `None`: it is not there.
fn size(log: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(|found| Some(found.len())),
    }
}

/// A log that has its new name, while the runtime is asked for another.
#[derive(Debug)]
pub(super) struct MovedAway {
    _locked: Locked,
    log: PathBuf,
    rotated: PathBuf,
}

impl MovedAway {
    /// Where the runtime still writes to the old file it gets its name back, and the next look tries again.
    pub(super) async fn reopened(self, reopened: Result<(), Box<CriError>>) -> Result<(), RotationError> {
        let Err(source) = reopened else {
            tracing::debug!(log = %self.log.display(), "rotated");
            return Ok(());
        };
        let path = self.log.clone();
        let back =
            spawn_blocking(
                move || {
                    if self.log.exists() { Ok(()) } else { fs::rename(&self.rotated, &self.log) }
                },
            );
        match back.await {
            Ok(Ok(())) => Err(RotationError::Runtime { path, source }),
            Ok(Err(source)) => Err(RotationError::File { what: "give its name back to", path, source }),
            Err(_) => Err(RotationError::Panicked { path }),
        }
    }
}

async fn prepare(
    log: &Log,
    (max_bytes, max_files): (u64, usize),
    cancel: &CancellationToken,
) -> Result<Option<MovedAway>, RotationError> {
    let (path, cancel) = (log.path.clone(), cancel.clone());
    let moved = spawn_blocking(move || {
        let too_large = |log: &Path| size(log).map(|size| size.is_some_and(|bytes| bytes >= max_bytes));
        move_away(&path, max_files, too_large, &|| cancel.is_cancelled())
    });
    let moved = moved.await.map_err(|_| RotationError::Panicked { path: log.path.clone() })?;
    moved.map_err(|source| RotationError::File { what: "rotate", path: log.path.clone(), source })
}

/// The first half of a rotation. Blocking. `None`: there is nothing to do any more, or the agent ends.
pub(super) fn move_away(
    log: &Path,
    max_files: usize,
    is_due: impl Fn(&Path) -> io::Result<bool>,
    ends: &dyn Fn() -> bool,
) -> io::Result<Option<MovedAway>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Err(io::Error::other("it has no name"));
    };
    let Some(locked) = dir::lock(dir)? else { return Ok(None) };
    let plan = before_rotation(name, &dir::names(dir)?, max_files);
    for name in &plan.remove {
        fs::remove_file(dir.join(name))?;
    }
    for name in &plan.compress {
        // Not on a full disk: what is not compressed now is next time, and the log must not grow meanwhile.
        if let Err(error) = compress(dir, name, ends) {
            tracing::warn!(log = %dir.join(name).display(), %error, "a rotated log is not compressed");
        }
        if ends() {
            return Ok(None);
        }
    }
    if !is_due(log)? {
        return Ok(None);
    }
    let rotated = dir.join(rotated_name(name, &dir::names(dir)?, Timestamp::now()));
    fs::rename(log, &rotated)?;
    Ok(Some(MovedAway { _locked: locked, log: log.to_owned(), rotated }))
}

/// A reader finds the whole of it at any time, under the one name or the other.
fn compress(dir: &Path, name: &str, ends: &dyn Fn() -> bool) -> io::Result<()> {
    let plain = dir.join(name);
    let (compressed, half_written) = compressed_names(name);
    let half_written = dir.join(half_written);
    let done = compress_into(&plain, &half_written, ends);
    if !matches!(done, Ok(true)) {
        let _ = fs::remove_file(&half_written);
        return done.map(drop);
    }
    fs::rename(&half_written, dir.join(compressed))?;
    fs::remove_file(&plain)
}

/// Whether it was done to the end.
fn compress_into(plain: &Path, to: &Path, ends: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut from = File::open(plain)?;
    let mode = from.metadata()?.permissions().mode();
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(to)?;
    // The mode once more, for the process's umask took bits off it.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    let mut chunk = vec![0; CHUNK];
    loop {
        if ends() {
            return Ok(false);
        }
        match from.read(&mut chunk)? {
            0 => break,
            read => encoder.write_all(&chunk[..read])?,
        }
    }
    encoder.finish()?;
    Ok(true)
}

#[cfg(test)]
mod tests;
