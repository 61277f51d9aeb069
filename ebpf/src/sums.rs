//! Events of one cgroup, summed between records: what a storm of them costs is two additions each, and one record per
//! cool-down.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::maps::LruHashMap;

use crate::atomic::Counter;
use crate::globals::global;

/// What happened to one cgroup since its last record.
#[repr(C)]
pub struct Pressure {
    events: Counter,
    stalled_ns: Counter,
    last_sent_ns: u64,
}

impl Pressure {
    pub const fn none() -> Pressure {
        Pressure { events: Counter::zero(), stalled_ns: Counter::zero(), last_sent_ns: 0 }
    }
}

/// By cgroup id.
pub type Sums = LruHashMap<u64, Pressure>;

#[inline(always)]
pub fn entry(sums: &Sums, cgroup: u64) -> Option<*mut Pressure> {
    if let Some(pressure) = sums.get_ptr_mut(cgroup) {
        return Some(pressure);
    }
    // Another CPU may have been first; then its entry is the one to use.
    let _ = sums.insert(cgroup, Pressure::none(), u64::from(BPF_NOEXIST));
    sums.get_ptr_mut(cgroup)
}

#[inline(always)]
pub fn add(pressure: *mut Pressure, events: u64, stalled_ns: u64) {
    // SAFETY: the verifier knows the pointer as a map value; the sums are atomics that other CPUs add to as well.
    let pressure = unsafe { &*pressure };
    if events != 0 {
        pressure.events.add(events as i64);
    }
    if stalled_ns != 0 {
        pressure.stalled_ns.add(stalled_ns as i64);
    }
}

/// The sums, when they are worth a record now. Starts the cool-down.
#[inline(always)]
pub fn due(pressure: *mut Pressure, ts: u64) -> Option<(u64, u64)> {
    // SAFETY: as in `add`; an aligned 64-bit word is not torn.
    let last = unsafe { (&raw const (*pressure).last_sent_ns).read_volatile() };
    if ts < last + global!(TUNING.cool_down_ns) {
        return None;
    }
    // SAFETY: as in `add`.
    let sums = unsafe { &*pressure };
    let events = sums.events.load();
    let stalled_ns = sums.stalled_ns.load();
    // Below zero: two CPUs reported the same sum, and new events pay that back first.
    if events < 0 || stalled_ns < 0 || events | stalled_ns == 0 {
        return None;
    }
    // Before the record is made: another CPU that looks now finds the cool-down running.
    // SAFETY: as above.
    unsafe { (&raw mut (*pressure).last_sent_ns).write_volatile(ts) };
    Some((events as u64, stalled_ns as u64))
}

/// Takes what was sent off the sums. What was added meanwhile stays.
#[inline(always)]
pub fn settle(pressure: *mut Pressure, events: u64, stalled_ns: u64) {
    // SAFETY: as in `add`.
    let pressure = unsafe { &*pressure };
    pressure.events.add(-(events as i64));
    pressure.stalled_ns.add(-(stalled_ns as i64));
}
