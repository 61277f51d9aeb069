//! Ending and removing what belongs to a scratch. Each pass repeats until nothing is left, within a bound: a
//! process may start another while it is being ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup_driver::CgroupDriver;
use crate::process::{self, holds_within};

const BOUND: Duration = Duration::from_secs(20);
/// Programs that a fixture starts with its folder on the command line. Others, such as a pager that a developer
/// has open on a log, are not ours to end.
const OURS: [&str; 10] = [
    "containerd",
    "containerd-shim",
    "oomlet",
    "runc",
    "ctr",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
];

pub(super) fn sweep(dir: &Path, cgroup_root: &str) -> Result<()> {
    let cgroups = cgroup_dirs(cgroup_root)?;
    end_processes(dir, &cgroups)?;
    remove_shim_sockets(dir);
    unmount_below(dir)?;
    stop_slice(cgroup_root, &cgroups)?;
    for top in &cgroups {
        remove_cgroup(top)?;
    }
    remove_cni_results(dir);
    // The agent's pods may have left folders that are busy for a moment after a lazy unmount.
    let mut last = None;
    let gone = holds_within(BOUND, || match fs::remove_dir_all(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => {
            last = Some(error);
            false
        }
    });
    ensure!(gone, "deleting {}: {last:?}", dir.display());
    Ok(())
}

pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold spaces and brackets itself.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[derive(Debug)]
pub(super) struct CgroupMount {
    pub path: PathBuf,
    /// Mount options; on v1 they name the controllers.
    pub options: String,
    pub v2: bool,
}

pub(super) fn cgroup_mounts() -> Result<Vec<CgroupMount>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| CgroupMount {
                path: path.into(),
                options: options.to_owned(),
                v2: kind == "cgroup2",
            })
        })
        .collect())
}

/// The scratch's cgroup in each hierarchy that has it, by either driver.
fn cgroup_dirs(cgroup_root: &str) -> Result<Vec<PathBuf>> {
    ensure!(
        !cgroup_root.trim_matches('/').is_empty(),
        "the cgroup root of a scratch is never the hierarchy's"
    );
    let paths = [CgroupDriver::Cgroupfs, CgroupDriver::Systemd].map(|driver| driver.path(cgroup_root));
    let mounts = cgroup_mounts()?;
    let mut dirs: Vec<PathBuf> =
        mounts.iter().flat_map(|m| paths.each_ref().map(|p| m.path.join(p))).collect();
    dirs.retain(|dir| dir.is_dir());
    Ok(dirs)
}

/// `top` and all below it, children first.
fn subtree(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(top) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                found.extend(subtree(&entry.path()));
            }
        }
    }
    found.push(top.to_owned());
    found
}

/// Name and pid of each program of ours that has `dir` on its command line.
pub(super) fn programs_below(dir: &Path) -> Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let runs = state_and_parent(pid).is_some_and(|(state, _)| state != 'Z');
        if let Some(name) = our_name(pid, dir).filter(|_| runs) {
            found.push((name, pid));
        }
    }
    Ok(found)
}

pub(super) fn end_processes(dir: &Path, cgroups: &[PathBuf]) -> Result<()> {
    let mut left = BTreeSet::new();
    let gone = holds_within(BOUND, || {
        // A frozen process does not die of SIGKILL until it is thawed (v1); parents first, as a child stays frozen
        // with its parent.
        for cgroup in cgroups.iter().flat_map(|top| subtree(top).into_iter().rev()) {
            let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
            let _ = fs::write(cgroup.join("cgroup.freeze"), "0");
        }
        left = processes(dir, cgroups);
        for pid in &left {
            if let Some(pid) = Pid::from_raw(*pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        left.is_empty()
    });
    ensure!(gone, "these processes do not end: {left:?}");
    Ok(())
}

fn processes(dir: &Path, cgroups: &[PathBuf]) -> BTreeSet<u32> {
    let own = std::process::id();
    let mut found = BTreeSet::new();
    for cgroup in cgroups.iter().flat_map(|top| subtree(top)) {
        let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        found.extend(members.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    for pid in entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        let Some((state, parent)) = state_and_parent(pid) else { continue };
        // A zombie has ended; its parent reaps it.
        if state == 'Z' {
            found.remove(&pid);
            continue;
        }
        children.entry(parent).or_default().push(pid);
        if is_ours(pid, dir) {
            found.insert(pid);
        }
    }
    let mut queue: Vec<u32> = found.iter().copied().collect();
    while let Some(pid) = queue.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                queue.push(*child);
            }
        }
    }
    // 0 stands for a process outside this pid namespace.
    found.retain(|pid| *pid != own && *pid != 0);
    found
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_ours(pid: u32, dir: &Path) -> bool {
    our_name(pid, dir).is_some()
}

/// The program's name, when it is one of ours with `dir` on its command line.
fn our_name(pid: u32, dir: &Path) -> Option<String> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut args = cmdline.split(|b| *b == 0);
    let program = args.next().unwrap_or_default();
    let name = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let ours = OURS.iter().any(|our| name == our.as_bytes() || name.starts_with(b"containerd-shim-"));
    let dir = dir.as_os_str().as_bytes();
    let named = ours && args.any(|arg| arg.windows(dir.len()).any(|part| part == dir));
    named.then(|| String::from_utf8_lossy(name).into_owned())
}

/// containerd's shims listen below /run/containerd/s whatever containerd's state folder is, and remove their socket
/// when they end in order. Ours were killed; each bundle's `address` file names the socket.
fn remove_shim_sockets(dir: &Path) {
    let tasks = dir.join("containerd/state/io.containerd.runtime.v2.task");
    for namespace in fs::read_dir(tasks).into_iter().flatten().flatten() {
        for bundle in fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
            for name in ["address", "bootstrap.json"] {
                let Ok(text) = fs::read_to_string(bundle.path().join(name)) else { continue };
                if let Some(at) = text.find("/run/containerd/s/") {
                    let path: &str = text[at..].split(['"', '\n', ' ']).next().unwrap_or_default();
                    let _ = fs::remove_file(path);
                }
            }
        }
    }
    // Made by the first shim on a machine that runs no containerd of its own; removed only when empty.
    for path in ["/run/containerd/s", "/run/containerd"] {
        let _ = fs::remove_dir(path);
    }
}

/// libcni keeps the result of each ADD below /var/lib/cni (newer releases: in `cache` there) until the DEL, which a
/// pod that is killed never sees. Each names the path of its network namespace, which is below `dir` when it is ours.
fn remove_cni_results(dir: &Path) {
    let dir = dir.to_string_lossy();
    for results in ["/var/lib/cni/results", "/var/lib/cni/cache/results"] {
        for entry in fs::read_dir(results).into_iter().flatten().flatten() {
            if fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&format!("{dir}/"))) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    // Removed only when empty.
    for path in ["/var/lib/cni/cache/results", "/var/lib/cni/cache", "/var/lib/cni/results", "/var/lib/cni"] {
        let _ = fs::remove_dir(path);
    }
}

/// Mounts at or below `dir`, deepest first.
fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let mut mounts: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(dir))
        .collect();
    // Later mounts cover earlier ones, so the last of a path goes first.
    mounts.reverse();
    mounts.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(mounts)
}

/// proc(5): space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |text, (code, character)| text.replace(code, character))
}

fn unmount_below(dir: &Path) -> Result<()> {
    for _ in 0..5 {
        let mounts = mounts_below(dir)?;
        if mounts.is_empty() {
            return Ok(());
        }
        for path in mounts {
            match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(error) => return Err(error).with_context(|| format!("unmounting {}", path.display())),
            }
        }
    }
    let left = mounts_below(dir)?;
    ensure!(left.is_empty(), "mounts that do not go away: {left:?}");
    Ok(())
}

/// systemd would make the folders of a slice again, and remember its limits. Stopping it stops all that is in it.
fn stop_slice(cgroup_root: &str, cgroups: &[PathBuf]) -> Result<()> {
    let slice = CgroupDriver::Systemd.path(cgroup_root);
    if !cgroups.iter().any(|dir| dir.ends_with(&slice)) {
        return Ok(());
    }
    process::output(Command::new("systemctl").arg("stop").arg(&slice)).map(drop)
}

fn remove_cgroup(top: &Path) -> Result<()> {
    // EBUSY for a moment after the last process ended.
    let gone =
        holds_within(BOUND, || subtree(top).iter().all(|dir| fs::remove_dir(dir).is_ok()) || !top.exists());
    ensure!(gone, "removing cgroup {}: still busy", top.display());
    Ok(())
}

/// Copies the logs of `dir`, for a person to read.
pub(super) fn keep_logs(dir: &Path, kept: &Path) -> Result<()> {
    fs::create_dir_all(kept)?;
    for path in subtree_files(dir, 0) {
        if path.extension().is_some_and(|e| e == "log" || e == "jsonl" || e == "toml" || e == "yaml") {
            let name = path.strip_prefix(dir)?.to_string_lossy().replace('/', "_");
            fs::copy(&path, kept.join(name))?;
        }
    }
    Ok(())
}

fn subtree_files(dir: &Path, depth: u32) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // The snapshots of containerd lie deeper; nothing in them is a log of ours.
    if depth > 4 {
        return files;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(subtree_files(&entry.path(), depth + 1)),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_paths_are_unescaped() {
        for (text, expected) in [("/a", "/a"), ("/a\\040b", "/a b"), ("/a\\134b", "/a\\b")] {
            assert_eq!(unescape(text), expected);
        }
    }

    #[test]
    fn start_times_are_read() {
        assert!(start_ticks(std::process::id()).is_some());
        assert_eq!(start_ticks(u32::MAX), None);
    }
}
