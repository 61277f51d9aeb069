//! The cgroup files of the brake. A pod is held in its own cgroup, above those of its containers: nobody else freezes there,
//! so that what is found held without an agent can be let go. A container is held in its own, where others freeze too
//! (`ctr task pause`): the cgroup itself is marked with an extended attribute as held by the agent, and so is either whose
//! threads were put into SCHED_IDLE.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr_query, removexattr, setxattr};

use super::sched_idle;
use crate::cgroup::create::below;
use crate::cgroup::driver::CgroupDriver;
use crate::cgroup::hierarchy::Hierarchies;
use crate::cgroup::{CgroupError, tree};
use oomlet_core::brake::{Gear, Held};
use oomlet_core::cgroup::names::{self, Layout};
use oomlet_core::pod::qos::QosClass;
use oomlet_core::signal::Hierarchy;

/// What the cgroup says of itself in the hierarchy that freezes. It goes with the cgroup, and is root's alone.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// A container that is held.
    Held,
    /// Some of its threads are in SCHED_IDLE ([`sched_idle`]).
    SchedIdle,
}

/// `memory.high` without a value.
const NO_HIGH: &str = "max";

#[derive(Debug, thiserror::Error)]
pub enum BrakeError {
    #[error(
        "this node has no freezer (neither a v1 hierarchy with it nor cgroup v2): a pod that is evicted grows on until it \
         has ended. Remedy: mount one of them"
    )]
    NoFreezer,
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// A freezer's file and its two words.
#[derive(Clone, Copy, Debug)]
struct Freezer {
    file: &'static str,
    freeze: &'static str,
    thaw: &'static str,
    /// What says of this cgroup, and not of one above, that it is frozen.
    own: &'static str,
}

const V1: Freezer =
    Freezer { file: "freezer.state", freeze: "FROZEN", thaw: "THAWED", own: "freezer.self_freezing" };
const V2: Freezer = Freezer { file: "cgroup.freeze", freeze: "1", thaw: "0", own: "cgroup.freeze" };

/// Where the node's brakes are.
#[derive(Clone, Debug)]
pub struct BrakeFiles {
    /// Mount point of the hierarchy that freezes.
    freezer: Option<(PathBuf, Freezer)>,
    /// Mount point of the hierarchy that has `memory.high`.
    throttle: Option<PathBuf>,
    layout: Layout,
    cgroup_root: String,
}

impl BrakeFiles {
    #[must_use]
    pub fn new(hierarchies: &Hierarchies, layout: Layout, cgroup_root: &str) -> BrakeFiles {
        let v1 = hierarchies.with_controller("freezer").filter(|(_, v2)| !v2);
        let v1 = v1.map(|(mount, _)| (mount.to_owned(), V1));
        let v2 = || hierarchies.unified.as_ref().map(|unified| (unified.mount_point.clone(), V2));
        let memory = hierarchies.memory_mount().filter(|(_, hierarchy)| *hierarchy == Hierarchy::Unified);
        BrakeFiles {
            freezer: v1.or_else(v2),
            throttle: memory.map(|(mount, _)| mount.to_owned()),
            layout,
            cgroup_root: cgroup_root.to_owned(),
        }
    }

    /// Of whichever driver the agent had: both layouts below this cgroup root.
    ///
    /// # Errors
    /// When the node's hierarchies cannot be found.
    pub fn of_node(cgroup_root: &str) -> Result<[BrakeFiles; 2], CgroupError> {
        let hierarchies = Hierarchies::detect()?;
        Ok([Layout::Cgroupfs, Layout::Systemd]
            .map(|layout| BrakeFiles::new(&hierarchies, layout, cgroup_root)))
    }

    #[must_use]
    pub fn of(driver: &CgroupDriver) -> BrakeFiles {
        BrakeFiles::new(driver.hierarchies(), driver.layout(), driver.cgroup_root())
    }

    /// Puts the pod or container into this gear. Freezing is begun, not waited for: the kernel stops a thread when it next
    /// returns to user space. What has no cgroup any more is held by nobody, and needs not to be.
    ///
    /// # Errors
    /// [`BrakeError::NoFreezer`]; [`BrakeError::Cgroup`] with the file that cannot be written.
    pub fn set(&self, held: &Held, qos: QosClass, gear: Gear) -> Result<(), BrakeError> {
        let Some((mount, freezer)) = &self.freezer else {
            return if gear == Gear::Free { Ok(()) } else { Err(BrakeError::NoFreezer) };
        };
        let Some(path) = self.path(mount, held, qos)? else { return Ok(()) };
        let dir = below(mount, &path);
        if held.container.is_some() && gear != Gear::Free {
            Mark::Held.set(&dir)?;
        }
        let throttled = self.throttle.as_ref().map_or(Ok(()), |mount| {
            let dir = below(mount, &path);
            match gear {
                Gear::Frozen => Ok(()),
                Gear::Throttled { room_bytes } => throttle(&dir, room_bytes),
                Gear::Free => write(&dir.join("memory.high"), NO_HIGH),
            }
        });
        // Also after a failure: what is to run must not stay frozen for it.
        let word = if gear == Gear::Frozen { freezer.freeze } else { freezer.thaw };
        write(&dir.join(freezer.file), word)?;
        throttled?;
        if held.container.is_some() && gear == Gear::Free {
            Mark::Held.take_off(&dir)?;
        }
        Ok(())
    }

    /// Its cgroup where it freezes; `None`: there is none.
    pub(super) fn freezer_dir(&self, held: &Held, qos: QosClass) -> Result<Option<PathBuf>, CgroupError> {
        let Some((mount, _)) = &self.freezer else { return Ok(None) };
        Ok(self.path(mount, held, qos)?.map(|path| below(mount, &path)))
    }

    /// Within each hierarchy; `None`: the container has no cgroup (any more).
    fn path(&self, mount: &Path, held: &Held, qos: QosClass) -> Result<Option<String>, CgroupError> {
        let pod = names::pod(self.layout, &self.cgroup_root, &held.pod, qos);
        let Some(container) = &held.container else { return Ok(Some(pod)) };
        // How the runtime calls it is known only in part.
        let is_its = |name: &String| names::container_id(self.layout, name).as_ref() == Some(&container.id);
        let name = child_names(&below(mount, &pod))?.into_iter().find(is_its);
        Ok(name.map(|name| format!("{pod}/{name}")))
    }

    /// Lets go of every pod and container that is held; returns how many there were.
    ///
    /// # Errors
    /// The first that could not be let go; the others have been.
    pub fn release_all(&self) -> Result<usize, CgroupError> {
        let mut released = BTreeSet::new();
        let mut failed = None;
        let mut note = |path: &String, result: Result<bool, CgroupError>| match result {
            Ok(true) => drop(released.insert(path.clone())),
            Ok(false) => {}
            Err(error) => drop(failed.get_or_insert(error)),
        };
        let mut paths = self.pods()?;
        for pod in &paths.clone() {
            note(pod, self.release(pod));
            match self.marked_containers(pod) {
                Ok(containers) => {
                    containers.iter().for_each(|path| note(path, self.release_container(path)));
                    paths.extend(containers);
                }
                Err(error) => note(pod, Err(error)),
            }
        }
        // When all of them run: that may take a while.
        if let Some((mount, _)) = &self.freezer {
            paths.iter().for_each(|path| note(path, sched_idle::restore(&below(mount, path))));
        }
        failed.map_or(Ok(released.len()), Err)
    }

    fn marked_containers(&self, pod: &str) -> Result<Vec<String>, CgroupError> {
        let Some((mount, _)) = &self.freezer else { return Ok(Vec::new()) };
        let paths = child_names(&below(mount, pod))?.into_iter().map(|name| format!("{pod}/{name}"));
        let is_marked = |path: &String| {
            let dir = below(mount, path);
            Mark::Held.is_on(&dir) || Mark::SchedIdle.is_on(&dir)
        };
        Ok(paths.filter(is_marked).collect())
    }

    fn release_container(&self, path: &str) -> Result<bool, CgroupError> {
        self.release(path)?;
        if let Some((mount, _)) = &self.freezer {
            Mark::Held.take_off(&below(mount, path))?;
        }
        Ok(true)
    }

    /// Paths of the pods that have a cgroup where it can be held.
    fn pods(&self) -> Result<Vec<String>, CgroupError> {
        let mounts = self.freezer.iter().map(|(mount, _)| mount).chain(&self.throttle);
        let mut paths = Vec::new();
        for mount in mounts {
            for qos in QosClass::ALL {
                let class = names::qos_class(self.layout, &self.cgroup_root, qos);
                for name in child_names(&below(mount, &class))? {
                    if names::pod_uid(self.layout, &name).is_some() {
                        paths.push(format!("{class}/{name}"));
                    }
                }
            }
        }
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    fn release(&self, path: &str) -> Result<bool, CgroupError> {
        let mut held = false;
        if let Some(mount) = &self.throttle {
            held |= reset(&below(mount, path).join("memory.high"), |text| text != NO_HIGH, NO_HIGH)?;
        }
        if let Some((mount, freezer)) = &self.freezer {
            let dir = below(mount, path);
            if is_one(&dir.join(freezer.own))? {
                write(&dir.join(freezer.file), freezer.thaw)?;
                held = true;
            }
        }
        Ok(held)
    }
}

/// Of the directories right below.
fn child_names(dir: &Path) -> Result<Vec<String>, CgroupError> {
    let dirs = tree::child_dirs(dir)?;
    Ok(dirs.iter().filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned())).collect())
}

impl Mark {
    const fn name(self) -> &'static str {
        match self {
            Mark::Held => "trusted.oomlet.held",
            Mark::SchedIdle => "trusted.oomlet.sched_idle",
        }
    }

    pub fn set(self, dir: &Path) -> Result<(), CgroupError> {
        let set = setxattr(dir, self.name(), b"1", XattrFlags::empty());
        unless_gone(set.map_err(io::Error::from), "mark", dir)
    }

    pub fn take_off(self, dir: &Path) -> Result<(), CgroupError> {
        match removexattr(dir, self.name()) {
            Err(rustix::io::Errno::NODATA) => Ok(()),
            other => unless_gone(other.map_err(io::Error::from), "take the mark from", dir),
        }
    }

    pub fn is_on(self, dir: &Path) -> bool {
        getxattr_query(dir, self.name()).is_ok()
    }
}

/// Below this the kernel would be reclaiming from the start, at the expense of whoever writes the file.
const LEAST_ROOM: u64 = 4 << 20;

/// Once for each hold: a second one would give the pod the same room again. `memory.high` stays above what is used, for
/// the kernel would reclaim down to it before the write comes back.
fn throttle(dir: &Path, room_bytes: u64) -> Result<(), CgroupError> {
    let high = dir.join("memory.high");
    if room_bytes < LEAST_ROOM {
        return Ok(());
    }
    if read(&high)?.is_none_or(|text| text != NO_HIGH) {
        return Ok(());
    }
    let Some(usage) = read(&dir.join("memory.current"))? else { return Ok(()) };
    let usage: u64 = usage.parse().unwrap_or(u64::MAX);
    write(&high, &usage.saturating_add(room_bytes).to_string())
}

fn is_one(file: &Path) -> Result<bool, CgroupError> {
    Ok(read(file)?.is_some_and(|text| text == "1"))
}

fn reset(file: &Path, is_set: impl Fn(&str) -> bool, to: &str) -> Result<bool, CgroupError> {
    let set = read(file)?.is_some_and(|text| is_set(&text));
    if set {
        write(file, to)?;
    }
    Ok(set)
}

/// `None`: the cgroup is gone.
fn read(file: &Path) -> Result<Option<String>, CgroupError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if tree::is_gone(&e) => Ok(None),
        Err(e) => Err(CgroupError::io("read", file, e)),
    }
}

fn write(file: &Path, text: &str) -> Result<(), CgroupError> {
    let opened = fs::OpenOptions::new().write(true).open(file);
    let written = opened.and_then(|mut f| io::Write::write_all(&mut f, text.as_bytes()));
    unless_gone(written, "write", file)
}

fn unless_gone(result: io::Result<()>, what: &'static str, dir: &Path) -> Result<(), CgroupError> {
    match result {
        Err(e) if !tree::is_gone(&e) => Err(CgroupError::io(what, dir, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(in crate::actuator) mod tests;
