//! Constants that the agent overrides in the object's read-only data before it loads the programs.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use oomlet_ebpf_common::layout::{ABSENT, Layout, Tuning};

#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::ABSENT;

#[unsafe(no_mangle)]
pub static TUNING: Tuning = Tuning {
    cool_down_ns: 10_000_000,
    growth_window_ns: 1_000_000_000,
    growth_min_faults: 256,
    fault_sample_period: 64,
    page_size: 4096,
    memory_hierarchy: 0,
    forecast_horizon_ns: 500_000_000,
    forecast_window_min_ns: 1_000_000,
    forecast_window_max_ns: 100_000_000,
    forecast_low_shift: 6,
    forecast_cool_down_ns: 20_000_000,
};

/// Reads one field of [`LAYOUT`] or [`TUNING`]. Volatile: the compiler must not take the value that
/// stands in the source, the agent replaces it.
macro_rules! global {
    ($global:ident . $($field:tt)+) => {{
        // SAFETY: a reference to an initialised static's field is valid to read.
        unsafe { core::ptr::read_volatile(&raw const $crate::globals::$global.$($field)+) }
    }};
}
pub(crate) use global;

/// Reads the `T` that lies `offset` bytes into the kernel object at `base`. `None` when the field is absent
/// in this kernel, the pointer is null or the read fails.
#[inline(always)]
pub fn read_field<T>(base: u64, offset: u32) -> Option<T> {
    if offset == ABSENT || base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address itself and returns an error for one it cannot read.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}
