//! The record of signals, forecasts and actions: who, what, when on the monotonic clock, and why.
//!
//! - [`record`]: the record itself (core).
//! - [`journal`]: bounded in memory, a broadcast to followers, a JSONL file (shell).
//! - [`wire`]: gRPC over a unix socket, server and client (shell).
//! - [`render`]: one line a record for people (core).

pub mod journal;
pub mod record;
pub mod render;
pub mod wire;
