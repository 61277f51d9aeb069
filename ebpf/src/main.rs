//! oomlet's eBPF programs. They see memory pressure as it happens, fold what repeats into per-cgroup
//! sums and send records of [`oomlet_ebpf_common::record`] through one ring buffer.
//!
//! - [`oom`]: `oom:mark_victim`, `oom:reclaim_retry_zone`.
//! - [`reclaim`]: memcg and direct reclaim, kswapd wake-ups.
//! - [`growth`]: page-fault samples.
//! - [`lifecycle`]: cgroups made and removed, exits of watched processes.
//! - [`ring`]: the ring buffer and the count of what it had no room for.
//! - [`atomic`]: counters that several CPUs add to.
//! - [`globals`]: what the agent wrote into read-only data.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Inline assembly for this target is not stable yet; aya-ebpf needs the same.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod atomic;
mod globals;
mod growth;
mod lifecycle;
mod oom;
mod reclaim;
mod ring;

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
