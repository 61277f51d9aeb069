//! The agent protects itself: it must work best when memory is shortest. What the node does not allow is a warning.

use rustix::mm::{MlockAllFlags, mlockall};

/// The OOM killer looks elsewhere first.
pub fn lower_oom_score(oom_score_adj: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string()) {
        tracing::warn!(%error, oom_score_adj, "cannot set oom_score_adj: the OOM killer may choose the agent; grant CAP_SYS_RESOURCE");
    }
}

/// Memory stays in RAM as it is first touched (not all of each stack and library at once). To be called once what
/// starting needed is freed: locked pages cannot be given back.
pub fn lock_memory() {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::warn!(%error, "mlockall failed: under memory pressure the agent may wait for its own pages; grant CAP_IPC_LOCK");
    }
}

/// The calling thread decides on evictions: it goes before what makes the pressure.
pub fn prefer_this_thread() {
    if let Err(error) = crate::kernel::scheduling::run_at_realtime_priority() {
        tracing::warn!(%error, "the SyncLoop runs at normal priority: decisions may be some milliseconds late; grant CAP_SYS_NICE");
    }
}
