//! `cgroupDriver: systemd`: each cgroup of the kubepods tree is a slice that systemd makes, changes and removes, so that
//! one process alone writes to that part of the tree and limits outlast a `daemon-reload`.
//!
//! - [`bus`]: systemd's manager over D-Bus.
//! - [`unit`]: a cgroup's path as a unit. Pure.
//! - [`properties`]: limits as unit properties. Pure.
//!
//! As libcontainer does for kubelet, the unit's properties come first and the files after: systemd keeps away from v1
//! hierarchies that it does not know (freezer, cpuset, …), rounds a CPU quota to a per cent, and tells nobody of a limit
//! that the kernel refused.

mod bus;
#[cfg(test)]
mod fake;
pub mod properties;
pub mod unit;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::bus::{Bus, Sockets};
use self::properties::Flavour;
use super::CgroupError;
use super::cgroupfs::remove_dirs;
use super::create::{self, Parents, below};
use super::hierarchy::Hierarchies;
use super::maker::Maker;
use super::resources::ControllerDirs;
use super::tree;
use oomlet_core::pod::qos::CgroupResources;
use oomlet_core::signal::Hierarchy;

/// How long the last process of a cgroup may take to leave it.
const EMPTY_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Systemd {
    hierarchies: Hierarchies,
    bus: Bus,
    /// By unit, what this agent has set. A pod's limits are ensured with each of its syncs, and setting a property makes
    /// systemd go through the cgroups of the whole slice.
    set: Mutex<HashMap<String, CgroupResources>>,
}

impl Systemd {
    /// # Errors
    /// [`CgroupError::NoSystemd`], [`CgroupError::NoSystemdBus`].
    pub fn connect(hierarchies: Hierarchies) -> Result<Self, CgroupError> {
        Self::connect_to(hierarchies, Sockets::default())
    }

    fn connect_to(hierarchies: Hierarchies, sockets: Sockets) -> Result<Self, CgroupError> {
        Ok(Systemd { hierarchies, bus: Bus::connect(sockets)?, set: Mutex::default() })
    }

    fn flavour(&self) -> Flavour {
        match self.hierarchies.memory_mount() {
            Some((_, Hierarchy::Unified)) => Flavour::V2,
            _ => Flavour::V1,
        }
    }

    fn set(&self) -> MutexGuard<'_, HashMap<String, CgroupResources>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        self.hierarchies.mount_points().map(|mount| below(mount, path)).collect()
    }

    /// systemd would start a missing parent too, and it would have no limits.
    fn parent_must_exist(&self, path: &str) -> Result<(), CgroupError> {
        let Some((mount, _)) = self.hierarchies.memory_mount() else { return Ok(()) };
        match below(mount, path).parent() {
            Some(parent) if !parent.is_dir() => {
                Err(CgroupError::io("make the cgroup", below(mount, path), io::ErrorKind::NotFound))
            }
            _ => Ok(()),
        }
    }
}

impl Maker for Systemd {
    fn make(&self, path: &str, parents: Parents, resources: &CgroupResources) -> Result<(), CgroupError> {
        let unit = unit::of(path)?;
        if parents == Parents::MustExist {
            self.parent_must_exist(path)?;
        }
        let files = ControllerDirs::of(&self.hierarchies, path)?;
        files.memory_limit_fits(resources.memory_limit_bytes)?;
        // The slice that goes takes its folder along, whoever stops it.
        let is_set = files.memory.path.is_dir() && self.set().get(&unit.name) == Some(resources);
        if !is_set {
            let limits = properties::limits(resources, self.flavour());
            let all = properties::of_slice(&unit, limits.clone(), self.flavour());
            self.bus.ensure(&unit.name, &all, &limits)?;
            self.set().insert(unit.name, *resources);
        }
        create::make(&self.hierarchies, path, Parents::Make)?;
        files.apply(resources)
    }

    fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let unit = unit::of(path)?;
        // Stopping a slice kills what runs in it: that is not for the one who removes to do.
        for dir in self.dirs(path) {
            tree::wait_empty(&dir, EMPTY_WITHIN)?;
        }
        self.set().remove(&unit.name);
        self.bus.stop(&unit.name)?;
        remove_dirs(&self.hierarchies, path)
    }
}

#[cfg(test)]
mod tests;
