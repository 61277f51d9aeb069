//! Growth: a perf event on each CPU runs this program once every so many page faults. A cgroup that takes
//! memory at speed shows as many samples, a quiet one as almost none, and neither pays per fault.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::macros::{map, perf_event};
use aya_ebpf::maps::{Array, LruHashMap};
use aya_ebpf::programs::PerfEventContext;
use oomlet_ebpf_common::record::{Growth, kind};

use crate::atomic::Counter;
use crate::globals::global;
use crate::ring::{ROUTINE, header, now_ns, send};

/// Faults of one cgroup since `since_ns`.
#[repr(C)]
struct Faults {
    count: Counter,
    since_ns: u64,
    last_sent_ns: u64,
}

#[map]
static FAULTS: LruHashMap<u64, Faults> = LruHashMap::with_max_entries(4096, 0);

/// Before this time nobody wants to know: the agent has read that nothing can have run out by then.
#[map]
static GROWTH_QUIET_UNTIL: Array<u64> = Array::with_max_entries(1, 0);

#[perf_event]
pub fn page_fault_sample(_ctx: PerfEventContext) -> i32 {
    sample();
    0
}

#[inline(always)]
fn sample() {
    let ts = now_ns();
    // SAFETY: no arguments, no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let Some(faults) = FAULTS.get_ptr_mut(cgroup) else {
        // The faults of the first sample happened before this window: it only opens the window.
        let fresh = Faults { count: Counter::zero(), since_ns: ts, last_sent_ns: 0 };
        let _ = FAULTS.insert(cgroup, &fresh, u64::from(BPF_NOEXIST));
        return;
    };
    // SAFETY: the verifier knows the pointer as a map value. The count is an atomic that other CPUs add to as
    // well, the times are aligned 64-bit words and not torn.
    let (count, since, last_sent) = unsafe {
        let since = (&raw const (*faults).since_ns).read_volatile();
        (&(*faults).count, since, (&raw const (*faults).last_sent_ns).read_volatile())
    };
    let window_ns = ts.saturating_sub(since);
    if window_ns > global!(TUNING.growth_window_ns) {
        // Too slow to be worth a record: forget it and open a new window.
        count.add(-count.load());
        // SAFETY: as above.
        unsafe { (&raw mut (*faults).since_ns).write_volatile(ts) };
        return;
    }
    count.add(global!(TUNING.fault_sample_period) as i64);
    let seen = count.load();
    if seen < global!(TUNING.growth_min_faults) as i64 || ts < last_sent + global!(TUNING.cool_down_ns) {
        return;
    }
    // SAFETY: an aligned 64-bit word of the agent's, read as a whole.
    let quiet = GROWTH_QUIET_UNTIL.get_ptr(0).is_some_and(|until| ts < unsafe { until.read_volatile() });
    if quiet {
        return;
    }
    // Before the record is made, so that another CPU does not report the same faults. Where it was as fast, the
    // count goes below zero and its next faults pay that back.
    // SAFETY: as above.
    unsafe {
        (&raw mut (*faults).since_ns).write_volatile(ts);
        (&raw mut (*faults).last_sent_ns).write_volatile(ts);
    }
    count.add(-seen);
    let record =
        Growth { header: header::<Growth>(kind::GROWTH, ts), cgroup, faults: seen as u64, window_ns };
    send(record, ROUTINE);
}
