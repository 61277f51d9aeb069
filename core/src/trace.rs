//! The record of signals, forecasts and actions: who, what, when on the monotonic clock, and why.
//!
//! - [`record`]: the record itself. - [`event_reason`]: which records are Kubernetes Events.

pub mod event_reason;
pub mod record;
