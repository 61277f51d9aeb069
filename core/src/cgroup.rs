//! cgroups as the core sees them.
//!
//! - [`names`]: what the cgroup of a QoS class, a pod or a container is called.
//! - [`kubepods_limit`]: how far the limit of all pods together may be lowered.

pub mod kubepods_limit;
pub mod names;
