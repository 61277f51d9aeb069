//! `cgroupDriver: cgroupfs`: one cgroup made, changed and removed by file operations.

use super::CgroupError;
use super::create::{self, Parents, below};
use super::hierarchy::Hierarchies;
use super::maker::Maker;
use super::resources::ControllerDirs;
use super::tree;
use oomlet_core::pod::qos::CgroupResources;

#[derive(Debug)]
pub struct Cgroupfs {
    hierarchies: Hierarchies,
}

impl Cgroupfs {
    #[must_use]
    pub fn new(hierarchies: Hierarchies) -> Self {
        Cgroupfs { hierarchies }
    }
}

impl Maker for Cgroupfs {
    fn make(&self, path: &str, parents: Parents, resources: &CgroupResources) -> Result<(), CgroupError> {
        create::make(&self.hierarchies, path, parents)?;
        ControllerDirs::of(&self.hierarchies, path)?.apply(resources)
    }

    fn remove(&self, path: &str) -> Result<(), CgroupError> {
        remove_dirs(&self.hierarchies, path)
    }
}

/// Every hierarchy is tried; the first failure is told.
pub(super) fn remove_dirs(hierarchies: &Hierarchies, path: &str) -> Result<(), CgroupError> {
    let mut first_error = Ok(());
    for mount in hierarchies.mount_points() {
        let removed = tree::remove(&below(mount, path));
        if first_error.is_ok() {
            first_error = removed;
        }
    }
    first_error
}
