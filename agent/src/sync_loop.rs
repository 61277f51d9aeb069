//! The SyncLoop's shell: events in, `state.apply(event, now)`, then `plan(&state, now)`, both of
//! [`oomlet_core::node`], then execute.
//!
//! - [`run`]: the loop itself. - [`execute`]: does what was planned; the only code with effects.
//! - [`heartbeat`]: that it is alive. - [`outlet`]: where its picture of the pods leaves it.

pub mod execute;
pub mod heartbeat;
pub mod outlet;
pub mod run;
