//! Links to containers' logs in one flat folder, `/var/log/containers`, where log shippers look for them (kubelet:
//! kuberuntime/legacy.go). Blocking.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::cri::names::{container_log_path, pod_log_dir};
use oomlet_core::pod::PodRef;

/// A file's name on ext4.
const MAX_NAME: usize = 255;
const SUFFIX: &str = ".log";

/// Beside the pods' logs: where those are in `/var/log/pods`, in `/var/log/containers`.
fn dir(pod_logs_dir: &Path) -> Option<PathBuf> {
    Some(pod_logs_dir.parent()?.join("containers"))
}

/// No part of a pod's name has an underscore.
fn prefix(pod: &PodRef) -> String {
    format!("{}_{}_", pod.name, pod.namespace)
}

fn link_name(pod: &PodRef, container: &str, id: &str) -> String {
    let name: String =
        format!("{}{container}-{id}", prefix(pod)).chars().take(MAX_NAME - SUFFIX.len()).collect();
    name + SUFFIX
}

/// Of a container that has just been started. One whose log the runtime keeps elsewhere has none.
///
/// # Errors
/// When the link cannot be made.
pub fn make(
    pod: &PodRef,
    pod_logs_dir: &Path,
    container: &str,
    id: &str,
    restart_count: u32,
) -> io::Result<()> {
    let Some(dir) = dir(pod_logs_dir) else { return Ok(()) };
    let log = pod_log_dir(pod_logs_dir, pod).join(container_log_path(container, restart_count));
    if !log.exists() {
        return Ok(());
    }
    fs::create_dir_all(&dir)?;
    match symlink(&log, dir.join(link_name(pod, container, id))) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Of a container that is gone from the runtime.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(pod: &PodRef, pod_logs_dir: &Path, container: &str, id: &str) -> io::Result<()> {
    let Some(dir) = dir(pod_logs_dir) else { return Ok(()) };
    gone(fs::remove_file(dir.join(link_name(pod, container, id))))
}

/// All of a pod that lead to logs that are no more.
///
/// # Errors
/// When one cannot be removed.
pub fn remove_dead(pod: &PodRef, pod_logs_dir: &Path) -> io::Result<()> {
    let Some(dir) = dir(pod_logs_dir) else { return Ok(()) };
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let prefix = prefix(pod);
    for entry in entries {
        let entry = entry?;
        let is_of_pod = entry.file_name().to_string_lossy().starts_with(&prefix);
        if is_of_pod && entry.file_type()?.is_symlink() && !entry.path().exists() {
            gone(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::pod::PodUid;

    #[test]
    fn links_come_with_containers_and_go_with_their_logs() {
        let root = tempfile::tempdir().unwrap();
        let pods = root.path().join("pods");
        let pod = PodRef { uid: PodUid::from("u"), namespace: "shop".into(), name: "web".into() };
        let other = PodRef { name: "web-2".into(), ..pod.clone() };
        for pod in [&pod, &other] {
            let log = pod_log_dir(&pods, pod).join("main/0.log");
            fs::create_dir_all(log.parent().unwrap()).unwrap();
            fs::write(log, "line").unwrap();
            make(pod, &pods, "main", "abc", 0).unwrap();
            make(pod, &pods, "main", "abc", 0).unwrap();
            make(pod, &pods, "main", "without a log", 7).unwrap();
        }
        let links = || {
            let entries = fs::read_dir(root.path().join("containers")).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(links(), ["web-2_shop_main-abc.log", "web_shop_main-abc.log"]);
        assert_eq!(fs::read(root.path().join("containers").join(&links()[1])).unwrap(), b"line");
        remove_dead(&pod, &pods).unwrap();
        assert_eq!(links().len(), 2);
        fs::remove_dir_all(pod_log_dir(&pods, &pod)).unwrap();
        fs::remove_dir_all(pod_log_dir(&pods, &other)).unwrap();
        remove_dead(&pod, &pods).unwrap();
        assert_eq!(links(), ["web-2_shop_main-abc.log"]);
        remove(&other, &pods, "main", "abc").unwrap();
        remove(&other, &pods, "main", "abc").unwrap();
        assert!(links().is_empty());
        assert!(remove_dead(&pod, &root.path().join("none/pods")).is_ok());
    }

    #[test]
    fn a_long_name_is_cut() {
        let name = "n".repeat(253);
        let pod = PodRef { uid: PodUid::from("u"), namespace: "ns".into(), name };
        assert_eq!(link_name(&pod, "c", &"0".repeat(64)).len(), MAX_NAME);
    }
}
