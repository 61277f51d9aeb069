//! What wants a machine of its own: the node's memory is used up, the kernel is locked down, systemd is PID 1. Run by
//! `cargo xtask lab -- suite`, never on a developer's machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fallback;
mod lockdown;
mod node;
mod oom_group;
mod service;
