//! The files that a pod has on the node beside its volumes: log directories, its /etc/hosts, its containers'
//! termination messages. Blocking, but for [`termination_message`].

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::WorkerError;
use crate::container_log::dir::{self, open_regular};
use crate::cri::runtime::ContainerDetail;
use oomlet_core::pod::PodRef;
use oomlet_core::pod::runtime_status::ContainerState;
use oomlet_core::pod::termination_message::{self, MAX_LOG_BYTES, MAX_MESSAGE_BYTES};

fn failed<'a>(
    pod: &'a PodRef,
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> WorkerError + 'a {
    move |source| WorkerError::File { pod: pod.clone(), what, path: path.to_owned(), source }
}

fn make_dirs(pod: &PodRef, dir: &Path, mode: u32) -> Result<(), WorkerError> {
    DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(failed(pod, "make directory", dir))
}

/// Each container's, below the pod's.
pub fn make_log_dir(pod: &PodRef, pod_logs_dir: &Path, container: &str) -> Result<(), WorkerError> {
    dir::make(pod_logs_dir, pod, container).map_err(failed(pod, "make a log directory below", pod_logs_dir))
}

/// Removes the pod's logs, and links to them. One that is gone is fine.
pub fn remove_logs(pod: &PodRef, pod_logs_dir: &Path) -> Result<(), WorkerError> {
    dir::remove_pod(pod_logs_dir, pod).map_err(failed(pod, "remove the logs below", pod_logs_dir))
}

/// Writes the pod's hosts file in place: containers have it mounted.
pub fn write_hosts(pod: &PodRef, pod_dir: &Path, text: &str) -> Result<PathBuf, WorkerError> {
    let path = pod_dir.join("etc-hosts");
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(path);
    }
    let written =
        fs::write(&path, text).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)));
    written.map_err(failed(pod, "write hosts file", &path))?;
    Ok(path)
}

/// An empty file for the container's termination message, writable for whatever user it runs as.
pub fn make_termination_log(
    pod: &PodRef,
    pod_dir: &Path,
    container: &str,
    restart_count: u32,
) -> Result<PathBuf, WorkerError> {
    let dir = pod_dir.join("containers").join(container);
    make_dirs(pod, &dir, 0o750)?;
    let path = dir.join(restart_count.to_string());
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open(&path);
    // The mode once more, for the process's umask took bits off it.
    let made = made.and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(0o666))?;
        file.flush()
    });
    made.map_err(failed(pod, "make termination message file", &path))?;
    Ok(path)
}

/// What an ended container left as its message; by its policy, the end of its log when it failed without one.
/// `None`: nothing, or it has not ended, or the file is gone.
pub async fn termination_message(detail: &ContainerDetail) -> Option<String> {
    let status = &detail.status;
    if status.state != ContainerState::Exited {
        return None;
    }
    let file = detail.termination_message_file.as_ref().map(PathBuf::from);
    let log =
        (detail.log_is_message_on_error && status.exit_code != 0).then(|| PathBuf::from(&status.log_path));
    if file.is_none() && log.is_none() {
        return None;
    }
    let read = tokio::task::spawn_blocking(move || {
        let message = file.and_then(|f| read_start(&f).ok()).filter(|m| !m.is_empty());
        message.or_else(|| log.and_then(|l| read_end(&l).ok()).map(|l| termination_message::from_log(&l)))
    });
    read.await.ok().flatten().filter(|m| !m.is_empty())
}

fn read_start(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(MAX_MESSAGE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_end(path: &Path) -> io::Result<String> {
    // Each line of a log has some 40 bytes of its own before the text.
    const SPAN: u64 = 8 * MAX_LOG_BYTES as u64;
    let mut file = open_regular(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(SPAN)))?;
    let mut bytes = Vec::new();
    file.take(SPAN).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::pod::PodUid;

    fn pod(name: &str) -> PodRef {
        PodRef { uid: PodUid::from("u1"), namespace: "default".into(), name: name.into() }
    }

    #[test]
    fn hosts_file_keeps_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = write_hosts(&pod("web"), dir.path(), "one").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        write_hosts(&pod("web"), dir.path(), "two").unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), fs::metadata(&path).unwrap().ino()),
            ("two", inode)
        );
    }

    #[test]
    fn a_message_is_read_from_a_regular_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "x".repeat(10_000)).unwrap();
        assert_eq!(read_start(&secret).unwrap().len(), MAX_MESSAGE_BYTES);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        assert!(read_start(&link).is_err());
        assert!(read_start(dir.path()).is_err());
    }

    #[test]
    fn anyone_may_write_the_termination_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = make_termination_log(&pod("web"), dir.path(), "c", 3).unwrap();
        assert!(path.ends_with("containers/c/3"));
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o666);
    }
}
