//! Holding a pod or a container that grows, so that its end has time. Two gears:
//!
//! - **Frozen**: the freezer (v1 `freezer.state`, v2 `cgroup.freeze`) stops all of its threads within a millisecond.
//! - **Throttled**: it runs, so that its SIGTERM handler can. What it may still grow by is a budget that is spread over
//!   its grace; where it runs ahead of that it is frozen again until the budget has caught up. On cgroup v2
//!   `memory.high` slows the threads that allocate, and leaves the handler alone.
//!
//! Held are an evicted pod, and a container that is stopped before it reaches its own limit, until they have ended or their
//! grace is over; and one that grows within its request while another is evicted for it, for less than a second. Nobody is
//! held before there is a decision: that falls in the turn that reads, and takes no longer than a freezer does. Nothing
//! stays held when the agent goes: [`guard`] is a process of its own that lets go, and so does the next start.
//!
//! - [`plan`]: which gear, and when. Core.
//! - [`files`]: the cgroup files. Shell.
//! - [`turns`]: who of a held pod's threads comes first when it runs. Shell, and a small core.
//! - [`guard`]: the dead man's switch. Shell.

pub mod files;
pub mod guard;
pub mod plan;
pub mod turns;

pub use files::BrakeFiles;
pub use guard::Guard;
pub use plan::{BrakeStep, Brakes, Gear, Held, Help};
pub use turns::Turns;
