//! The SyncLoop's core: `state.apply(event, now)`, then `plan(&state, now)`.
//!
//! - [`event`]: all that can happen. - [`state`]: what is known; the only code that changes it.
//! - [`action`]: all that can be done. - [`published`]: pods as everybody outside sees them.
//! - [`plan`]: what to do, pure: planning over a state that has noted its own plan plans nothing.
//! - [`prober`]: the probes of all pods, beside the state: it reads what is published, and tells of what has changed.

pub mod action;
pub mod event;
pub mod plan;
pub mod prober;
pub mod published;
pub mod state;
