//! The node's cgroup tree: where the hierarchies are mounted, the `kubepods` tree in them, and the memory
//! files of every cgroup in it. Shell: it reads and writes cgroup files and decides nothing.
//!
//! - [`hierarchy`]: which hierarchies there are (v1, v2, hybrid) and where.
//! - [`driver`]: makes, changes, empties and removes the kubepods tree.
//! - [`maker`]: one cgroup made, changed and removed; by [`cgroupfs`] or by [`systemd`].
//! - [`class_updates`]: the QoS classes' resources, set aside from the SyncLoop.
//! - [`kubepods_limit`]: the limit of all pods together, where it cannot be set at once.
//! - [`create`]: one cgroup's directories in every hierarchy.
//! - [`resources`]: one cgroup's limits and shares, as files.
//! - [`tree`]: walking and removing a subtree of one hierarchy.
//! - [`kill`]: SIGKILL to every process of a cgroup; [`frozen`]: who has frozen it.
//! - [`stats`]: the memory files of the watched cgroups, kept open: the sampler's hands.
//! - [`pressure`]: pressure stall information of the node and of pods.
//! - [`parse`]: what those files say. Pure.
//!
//! All calls block; a caller in async code uses `spawn_blocking`.

pub mod accounting;
pub mod cgroupfs;
pub mod class_updates;
pub mod create;
pub mod driver;
pub mod frozen;
pub mod hierarchy;
pub mod kill;
pub mod kubepods_limit;
pub mod maker;
mod open_file;
pub mod parse;
pub mod pressure;
pub mod resources;
pub mod stats;
pub mod systemd;
#[cfg(test)]
pub(crate) mod test_tree;
pub mod tree;

use std::io;
use std::path::{Path, PathBuf};

pub use driver::{CgroupDriver, DriverKind, Options, PodDirs};
pub use hierarchy::CgroupVersion;
pub use stats::{MemoryFiles, Psi, psi};

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "the kernel offers no memory cgroup controller, and without it no pod can be limited or evicted by its \
         memory ({found}). Remedy: boot with `cgroup_enable=memory`, drop `cgroup_disable=memory`, or mount the \
         hierarchy (v2: `mount -t cgroup2 none /sys/fs/cgroup`)"
    )]
    NoMemoryController { found: String },

    #[error(
        "cannot make {controller} available below {}: {source}. Remedy: no process may sit in that cgroup \
         itself (cgroup v2's rule of no internal processes); move them to a child, or choose another `cgroupRoot`",
        path.display()
    )]
    Delegate { controller: String, path: PathBuf, source: io::Error },

    #[error(
        "`cgroupDriver: systemd` asks systemd for each pod's slice, and systemd does not run this node ({} is not \
         there). Remedy: `cgroupDriver: cgroupfs` here and `SystemdCgroup = false` in the container runtime",
        booted.display()
    )]
    NoSystemd { booted: PathBuf },

    #[error(
        "`cgroupDriver: systemd` needs one of systemd's sockets, and none answers: {found}. Remedy: run as root where \
         the node's /run is (a container mounts the socket from the node), or `cgroupDriver: cgroupfs` here and \
         `SystemdCgroup = false` in the container runtime"
    )]
    NoSystemdBus { found: String },

    #[error("systemd did not {action} {unit}: {why}. `systemctl status {unit}` may say more")]
    Unit { action: &'static str, unit: String, why: String },

    #[error(
        "`cgroupRoot: {root}` is not usable: {why}. Remedy: an absolute path without `.` or `..`, such as `/`"
    )]
    BadRoot { root: String, why: &'static str },

    #[error("pod UID {uid:?} cannot name a cgroup: {why}. Remedy: correct `metadata.uid` in the manifest")]
    BadUid { uid: String, why: &'static str },

    #[error(
        "cannot set the memory limit of {} to {limit_bytes} bytes: it uses {usage_bytes} bytes and the kernel \
         cannot reclaim down to the limit. Remedy: a higher limit, or stop pods first",
        path.display()
    )]
    LimitBelowUsage { path: PathBuf, limit_bytes: u64, usage_bytes: u64 },

    #[error("{} still has {processes} processes after SIGKILL and {waited_ms} ms; they may be in uninterruptible sleep (D)", path.display())]
    StillRunning { path: PathBuf, processes: usize, waited_ms: u64 },

    #[error(
        "{} still has processes after SIGKILL, because {frozen} is frozen: on cgroup v1 a frozen process does not die. \
         Remedy: `{remedy}`",
        path.display()
    )]
    Frozen { path: PathBuf, frozen: String, remedy: String },

    #[error("{} is not removed: {processes} processes run in it. Remedy: stop its pods first", path.display())]
    InUse { path: PathBuf, processes: usize },

    #[error("{}: {source}", path.display())]
    Malformed { path: PathBuf, source: parse::ParseError },
}

impl CgroupError {
    fn frozen(path: &Path, by: &[frozen::Frozen]) -> Self {
        let all = |text: fn(&frozen::Frozen) -> String, and: &str| {
            by.iter().map(text).collect::<Vec<_>>().join(and)
        };
        let frozen = all(|f| f.path.display().to_string(), " and ");
        CgroupError::Frozen { path: path.to_owned(), frozen, remedy: all(frozen::Frozen::remedy, " && ") }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        CgroupError::Io { action, path: path.into(), source: source.into() }
    }
}
