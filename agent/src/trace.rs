//! Where trace records ([`oomlet_core::trace`]) go. Shell.
//!
//! - [`journal`]: bounded in memory, a broadcast to followers, a JSONL file.
//! - [`render`]: one line a record for people.
//! - [`wire`]: gRPC over a unix socket, server and client.

pub mod journal;
pub mod render;
pub mod wire;
