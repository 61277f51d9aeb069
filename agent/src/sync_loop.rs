//! The SyncLoop: one event at a time, `state.apply(event, now)`, then `plan(&state, now)`, then execute.
//!
//! Core but for [`execute`] and [`run`]. Only [`state`] mutates node state; only [`execute`] has effects.

pub mod event;
pub mod plan;
pub mod state;
