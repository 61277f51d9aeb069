//! The whole agent on real containerd, seen from outside: one module a subject. They are one program, so that tests of
//! all subjects share the machine's cores until the last one is done.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod adoption;
mod bad_input;
mod brake;
mod degraded;
mod eviction;
mod frozen;
mod lifecycle;
mod logs;
mod memory_limit;
mod monitoring;
mod node_pressure;
mod oom;
mod probes;
mod runtime_restart;
mod service;
mod stall;
mod static_pods;
mod trace;
mod tracing;
mod volumes;
