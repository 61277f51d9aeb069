//! What holds a pod or a container that grows, so that its end has time. [`oomlet_core::brake`] decides which gear and
//! when; this writes it. Two gears:
//!
//! - **Frozen**: the freezer (v1 `freezer.state`, v2 `cgroup.freeze`) stops all of its threads within a millisecond.
//! - **Throttled**: it runs, so that its SIGTERM handler can, on a budget that is spread over its grace; on cgroup v2
//!   `memory.high` slows the threads that allocate, and leaves the handler alone.
//!
//! Nothing stays held when the agent goes: [`guard`] is a process of its own that lets go, and so does the next start.
//!
//! - [`brake_files`]: the freezer and `memory.high`.
//! - [`sched_idle`]: puts busy threads of a held pod into SCHED_IDLE, so that its SIGTERM handler runs before them.
//! - [`guard`]: the process that lets go when the agent is stuck or gone.

pub mod brake_files;
pub mod guard;
pub mod sched_idle;

pub use brake_files::BrakeFiles;
pub use guard::Guard;
pub use sched_idle::SchedIdle;
