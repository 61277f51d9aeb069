//! The memory that the eBPF programs and the agent share: records that travel through the ring buffer
//! ([`record`]) and the constants that the agent writes into the object before it is loaded ([`layout`]).
//!
//! Every type is `repr(C)` and free of padding; `zerocopy::IntoBytes` refuses to derive otherwise, so a
//! record never carries stale kernel bytes and user space parses it without `unsafe`.

#![no_std]

pub mod layout;
pub mod record;
