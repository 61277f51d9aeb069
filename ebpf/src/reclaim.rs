//! Reclaim: who is stalled by it, how often and for how long, summed per cgroup.
//!
//! Raw tracepoints: their arguments differ between kernels and none is needed, because the task that
//! reclaims is the current one. They need neither tracefs nor BTF.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{Array, LruHashMap};
use aya_ebpf::programs::RawTracePointContext;
use oomlet_ebpf_common::record::{KswapdWake, Reclaim, kind};

use crate::ring::{ROUTINE, URGENT, header, now_ns, send};
use crate::sums::{Pressure, Sums, add, due, entry, settle};

#[map]
static MEMCG_RECLAIM: Sums = Sums::with_max_entries(4096, 0);
#[map]
static DIRECT_RECLAIM: Sums = Sums::with_max_entries(4096, 0);
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
fn begin(sums: &Sums, began: &LruHashMap<u32, u64>, kind: u32) {
    let ts = now_ns();
    let tid = bpf_get_current_pid_tgid() as u32;
    // A full map evicts the oldest: a stall goes uncounted, nothing else.
    let _ = began.insert(tid, ts, 0);
    account(sums, kind, ts, 1, 0);
}

#[inline(always)]
fn end(sums: &Sums, began: &LruHashMap<u32, u64>, kind: u32) {
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
fn account(sums: &Sums, kind: u32, ts: u64, events: u64, stalled_ns: u64) {
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
