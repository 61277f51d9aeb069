//! The SyncLoop's core: `state.apply(event, now)`, then `plan(&state, now)`.
//!
//! - [`event`]: all that can happen. - [`state`]: what is known; the only code that changes it.
//! - [`plan`]: what to do, pure: planning over a state that has noted its own plan plans nothing.

pub mod event;
pub mod plan;
pub mod state;
