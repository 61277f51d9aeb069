//! Nothing stays held: what an earlier agent has left is let go at start, and a guard watches over this one.

use crate::actuator::{BrakeFiles, Guard, guard};
use oomlet_core::config::Config;

/// What an agent that was killed has held. Before anything that can fail.
pub(super) fn release_leftovers(cgroup_root: &str) {
    match BrakeFiles::of_node(cgroup_root) {
        Ok(files) => guard::release(&files),
        Err(error) => tracing::warn!(%error, "a pod that an earlier agent has held may still be"),
    }
}

/// `None`: nothing is ever held, or there can be no guard, with a warning.
pub(super) fn guard(config: &Config) -> Option<Guard> {
    if !config.oomlet.eviction.brake {
        return None;
    }
    let warn = |error: &std::io::Error| {
        tracing::warn!(%error, "no guard for the brakes: should the agent be killed while it holds a pod, its next start lets go of it");
    };
    Guard::start(&config.cgroup_root).inspect_err(warn).ok()
}
