//! The SyncLoop: events in, `state.apply(event, now)`, then `plan(&state, now)`, then execute.
//!
//! - [`event`]: all that can happen. - [`state`]: what is known; the only code that changes it.
//! - [`plan`]: what to do, pure. - [`execute`]: does it; the only code with effects. - [`run`]: the loop itself.
//! - [`heartbeat`]: that it turns.

pub mod event;
pub mod execute;
pub mod heartbeat;
pub mod plan;
pub mod run;
pub mod state;
