//! A pod's log directory, `<podLogsDir>/<namespace>_<name>_<uid>`, and in it one for each container. Blocking.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};

use super::links;
use crate::cri::names::pod_log_dir;
use oomlet_core::container_log::files_of_run;
use oomlet_core::pod::PodRef;

/// Readable for log shippers.
///
/// # Errors
/// When it is not there and cannot be made.
pub fn make(pod_logs_dir: &Path, pod: &PodRef, container: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(pod_log_dir(pod_logs_dir, pod).join(container))
}

/// What is in a directory; nothing where it is not there.
///
/// # Errors
/// When it is there and cannot be listed.
pub fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    // What is not UTF-8 is nobody's log.
    entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
}

/// As long as one has it, nobody else rotates or removes logs in the directory: a rotation leaves no file behind in one that
/// is being removed.
#[derive(Debug)]
pub struct Locked {
    _dir: File,
}

/// `None`: it is not there (any more).
///
/// # Errors
/// When it cannot be locked.
pub fn lock(dir: &Path) -> io::Result<Option<Locked>> {
    match File::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => {
            let opened = opened?;
            flock(&opened, FlockOperation::LockExclusive)?;
            Ok(Some(Locked { _dir: opened }))
        }
    }
}

/// The log of one run of a container, which is gone from the runtime, with all that was rotated away from it.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_run(container_dir: &Path, log: &str) -> io::Result<()> {
    let Some(_locked) = lock(container_dir)? else { return Ok(()) };
    let names = names(container_dir)?;
    files_of_run(log, &names).try_for_each(|name| gone(fs::remove_file(container_dir.join(name))))
}

/// All of a pod's logs, and links to them. One that is gone is fine.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_pod(pod_logs_dir: &Path, pod: &PodRef) -> io::Result<()> {
    let dir = pod_log_dir(pod_logs_dir, pod);
    // Names of an orphan come from the runtime's labels: they must not lead elsewhere.
    if pod.uid.as_str().is_empty() || dir.parent() != Some(pod_logs_dir) {
        return Ok(());
    }
    let mut locked = Vec::new();
    for container in names(&dir)? {
        let container = dir.join(container);
        if container.is_dir() {
            locked.extend(lock(&container)?);
        }
    }
    gone(fs::remove_dir_all(&dir))?;
    links::remove_dead(pod, pod_logs_dir)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A regular file only: a container may have put a pipe or a link to elsewhere in its place. Blocking.
///
/// # Errors
/// When it cannot be opened, or is something else.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_regular_file_is_opened() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["0.log", "1.log", "2.log"].map(|name| dir.path().join(name));
        fs::write(&file, "a line").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(open_regular(&file).is_ok());
        assert!(open_regular(&link).is_err());
        assert!(open_regular(&pipe).is_err(), "and nobody waits for its other end");
    }
    use oomlet_core::pod::PodUid;

    fn pod(name: &str) -> PodRef {
        PodRef { uid: PodUid::from("u1"), namespace: "default".into(), name: name.into() }
    }

    #[test]
    fn logs_are_removed_only_below_their_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("pods");
        let other = dir.path().join("default_x_u1");
        fs::create_dir_all(&other).unwrap();
        make(&root, &pod("web"), "c").unwrap();
        remove_pod(&root, &pod("web")).unwrap();
        remove_pod(&root, &pod("web")).unwrap();
        assert!(!root.join("default_web_u1").exists());
        let escape = PodRef { namespace: "../default".into(), ..pod("x") };
        remove_pod(&root, &escape).unwrap();
        assert!(other.exists());
    }

    #[test]
    fn a_run_goes_with_what_was_rotated_away() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20260102-030405.gz", "1.log", "10.log"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        remove_run(dir.path(), "0.log").unwrap();
        remove_run(&dir.path().join("none"), "0.log").unwrap();
        let mut left = names(dir.path()).unwrap();
        left.sort();
        assert_eq!(left, ["1.log", "10.log"]);
    }

    #[test]
    fn who_removes_waits_for_who_rotates() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        make(&root, &pod("web"), "c").unwrap();
        let container = pod_log_dir(&root, &pod("web")).join("c");
        let locked = lock(&container).unwrap().unwrap();
        let removing = std::thread::spawn(move || remove_pod(&root, &pod("web")));
        // As a compressed file comes to be, whenever the other gets its turn.
        fs::write(container.join("0.log.20260102-030405.gz"), "x").unwrap();
        drop(locked);
        removing.join().unwrap().unwrap();
        assert!(!container.exists());
    }
}
