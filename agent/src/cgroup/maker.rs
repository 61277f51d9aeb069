//! Where kubelet's two cgroup drivers differ: making, changing and removing one cgroup. All else (paths, killing,
//! listing, ids) is the same file operations for both, in [`super::driver`].
//!
//! - [`super::cgroupfs`] writes the cgroup file system.
//! - [`super::systemd`] asks systemd for slices.

use std::fmt::Debug;

use super::CgroupError;
use super::create::Parents;
use oomlet_core::pod::qos::CgroupResources;

/// Paths are those of [`oomlet_core::cgroup::names`], absolute within each hierarchy. All calls block.
pub trait Maker: Debug + Send + Sync {
    /// Makes the cgroup in every hierarchy and its limits what `resources` says, also where it is there already. A
    /// limit of `None` is taken off; shares of `None` are left as they are.
    ///
    /// # Errors
    /// When it cannot be made or a limit not be set, as [`CgroupError::LimitBelowUsage`].
    fn make(&self, path: &str, parents: Parents, resources: &CgroupResources) -> Result<(), CgroupError>;

    /// Removes the cgroup with all below it. One that is gone is fine.
    ///
    /// # Errors
    /// When processes are in it for longer than a second; every hierarchy has been tried by then.
    fn remove(&self, path: &str) -> Result<(), CgroupError>;
}
