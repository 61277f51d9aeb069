//! The ring buffer to user space and the count of records that found no room in it.

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use oomlet_ebpf_common::record::Header;

/// The agent sets the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Wake the reader at once.
pub const URGENT: u64 = BPF_RB_FORCE_WAKEUP as u64;
/// Wake the reader when it had read everything before this record, as the kernel does by default.
pub const ROUTINE: u64 = 0;

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments, no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
pub fn header<T>(kind: u32, ts: u64) -> Header {
    Header { kind, size: size_of::<T>() as u32, ts }
}

/// Room for a record, or `None` and one more lost.
#[inline(always)]
pub fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none()
        && let Some(lost) = LOST.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own slot; a program that interrupts this one here costs a count at most.
        unsafe { *lost += 1 };
    }
    entry
}

/// Sends a small record.
#[inline(always)]
pub fn send<T: 'static>(record: T, flags: u64) -> bool {
    let Some(mut entry) = reserve::<T>() else {
        return false;
    };
    entry.write(record);
    entry.submit(flags);
    true
}
