//! oomlet's eBPF programs. They see memory pressure as it happens, fold what repeats into per-cgroup
//! sums and send records of [`oomlet_ebpf_common::record`] through one ring buffer.
//!
//! - [`oom`]: `oom:mark_victim`, `oom:reclaim_retry_zone`; [`oom_begin`]: `oom_kill_process`; [`victim`]: what both tell
//!   of a task.
//! - [`reclaim`]: memcg and direct reclaim, kswapd wake-ups, by who is stalled.
//! - [`limit`]: reclaim and throttling at a memcg's limits, by whose limit it is.
//! - [`charge`]: charges to watched memcgs, and when their limit will be reached.
//! - [`growth`]: page-fault samples.
//! - [`lifecycle`]: cgroups made and removed, exits of watched processes.
//! - [`ring`]: the ring buffer and the count of what it had no room for.
//! - [`memcg`]: ids, usage and limits of memcgs. - [`sums`]: what repeats, folded.
//! - [`atomic`]: counters that several CPUs add to.
//! - [`globals`]: what the agent wrote into read-only data.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Inline assembly for this target is not stable yet; aya-ebpf needs the same.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod atomic;
mod charge;
mod globals;
mod growth;
mod lifecycle;
mod limit;
mod memcg;
mod oom;
mod oom_begin;
mod reclaim;
mod ring;
mod sums;
mod victim;

/// bpf_probe_read_kernel, bpf_ktime_get_ns and others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// For `cargo check` and clippy over the whole workspace, which compile this crate for the host.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
