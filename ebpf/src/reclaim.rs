//! Reclaim: who is stalled by it, how often and for how long, summed per cgroup.
//!
//! Raw tracepoints: their arguments differ between kernels and none is needed, because the task that
//! reclaims is the current one. They need neither tracefs nor BTF.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{Array, LruHashMap};
use aya_ebpf::programs::RawTracePointContext;
use oomlet_ebpf_common::record::{KswapdWake, Reclaim, kind};

use crate::atomic::Counter;
use crate::globals::global;
use crate::ring::{ROUTINE, URGENT, header, now_ns, send};

/// What happened to one cgroup since its last record.
#[repr(C)]
struct Pressure {
    events: Counter,
    stalled_ns: Counter,
    last_sent_ns: u64,
}

impl Pressure {
    const fn none() -> Pressure {
        Pressure { events: Counter::zero(), stalled_ns: Counter::zero(), last_sent_ns: 0 }
    }
}

#[map]
static MEMCG_RECLAIM: LruHashMap<u64, Pressure> = LruHashMap::with_max_entries(4096, 0);
#[map]
static DIRECT_RECLAIM: LruHashMap<u64, Pressure> = LruHashMap::with_max_entries(4096, 0);
#[map]
static KSWAPD: Array<Pressure> = Array::with_max_entries(1, 0);

/// Thread id → when its reclaim began. A thread is in one reclaim of a kind at a time.
#[map]
static MEMCG_RECLAIM_BEGAN: LruHashMap<u32, u64> = LruHashMap::with_max_entries(8192, 0);
#[map]
static DIRECT_RECLAIM_BEGAN: LruHashMap<u32, u64> = LruHashMap::with_max_entries(8192, 0);

#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_begin")]
pub fn memcg_reclaim_begin(_ctx: RawTracePointContext) -> i32 {
    begin(&MEMCG_RECLAIM, &MEMCG_RECLAIM_BEGAN, kind::MEMCG_RECLAIM);
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
pub fn memcg_reclaim_end(_ctx: RawTracePointContext) -> i32 {
    end(&MEMCG_RECLAIM, &MEMCG_RECLAIM_BEGAN, kind::MEMCG_RECLAIM);
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_begin")]
pub fn direct_reclaim_begin(_ctx: RawTracePointContext) -> i32 {
    begin(&DIRECT_RECLAIM, &DIRECT_RECLAIM_BEGAN, kind::DIRECT_RECLAIM);
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_end")]
pub fn direct_reclaim_end(_ctx: RawTracePointContext) -> i32 {
    end(&DIRECT_RECLAIM, &DIRECT_RECLAIM_BEGAN, kind::DIRECT_RECLAIM);
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_kswapd_wake")]
pub fn kswapd_wake(_ctx: RawTracePointContext) -> i32 {
    let Some(pressure) = KSWAPD.get_ptr_mut(0) else {
        return 0;
    };
    let ts = now_ns();
    add(pressure, 1, 0);
    if let Some((events, _)) = due(pressure, ts) {
        let record = KswapdWake { header: header::<KswapdWake>(kind::KSWAPD_WAKE, ts), events };
        // Where the ring buffer was full the sums stay: the next record says it.
        if send(record, ROUTINE) {
            settle(pressure, events, 0);
        }
    }
    0
}

#[inline(always)]
fn begin(sums: &LruHashMap<u64, Pressure>, began: &LruHashMap<u32, u64>, kind: u32) {
    let ts = now_ns();
    let tid = bpf_get_current_pid_tgid() as u32;
    // A full map evicts the oldest: a stall goes uncounted, nothing else.
    let _ = began.insert(tid, ts, 0);
    account(sums, kind, ts, 1, 0);
}

#[inline(always)]
fn end(sums: &LruHashMap<u64, Pressure>, began: &LruHashMap<u32, u64>, kind: u32) {
    let ts = now_ns();
    let tid = bpf_get_current_pid_tgid() as u32;
    let Some(since) = began.get_ptr(tid) else {
        return;
    };
    // SAFETY: the verifier knows the pointer as a map value; only this thread writes this key.
    let stalled = ts.saturating_sub(unsafe { *since });
    let _ = began.remove(tid);
    account(sums, kind, ts, 0, stalled);
}

#[inline(always)]
fn account(sums: &LruHashMap<u64, Pressure>, kind: u32, ts: u64, events: u64, stalled_ns: u64) {
    // SAFETY: no arguments, no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let Some(pressure) = entry(sums, cgroup) else {
        return;
    };
    add(pressure, events, stalled_ns);
    if let Some((events, stalled_ns)) = due(pressure, ts) {
        let record = Reclaim { header: header::<Reclaim>(kind, ts), cgroup, events, stalled_ns };
        if send(record, URGENT) {
            settle(pressure, events, stalled_ns);
        }
    }
}

#[inline(always)]
fn entry(sums: &LruHashMap<u64, Pressure>, cgroup: u64) -> Option<*mut Pressure> {
    if let Some(pressure) = sums.get_ptr_mut(cgroup) {
        return Some(pressure);
    }
    // Another CPU may have been first; then its entry is the one to use.
    let _ = sums.insert(cgroup, Pressure::none(), u64::from(BPF_NOEXIST));
    sums.get_ptr_mut(cgroup)
}

#[inline(always)]
fn add(pressure: *mut Pressure, events: u64, stalled_ns: u64) {
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
fn due(pressure: *mut Pressure, ts: u64) -> Option<(u64, u64)> {
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
fn settle(pressure: *mut Pressure, events: u64, stalled_ns: u64) {
    // SAFETY: as in `add`.
    let pressure = unsafe { &*pressure };
    pressure.events.add(-(events as i64));
    pressure.stalled_ns.add(-(stalled_ns as i64));
}
