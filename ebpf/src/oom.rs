//! The OOM killer: its victim, by the best variant that the kernel has, and the step before it.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::macros::{btf_tracepoint, map, tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use aya_log_ebpf::{debug, warn};
use oomlet_ebpf_common::layout::ABSENT;
use oomlet_ebpf_common::record::{OomKill, ReclaimRetry, Victim, kind, oom_field};

use crate::globals::global;
use crate::ring::{URGENT, header, now_ns, reserve, send};
use crate::victim;

/// Kernels from 6.8 on, and those that took the change back: `mark_victim(struct task_struct *, uid_t)`.
#[btf_tracepoint(function = "mark_victim")]
pub fn mark_victim_task(ctx: BtfTracePointContext) -> i32 {
    let task: u64 = ctx.arg::<*const u8>(0) as u64;
    let uid = if global!(LAYOUT.mark_victim_args) >= 2 { Some(ctx.arg::<u32>(1)) } else { None };
    let Some(mut entry) = reserve_for(&ctx) else {
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is a whole OomKill in ring-buffer memory; `clear` writes each field.
    let victim = clear(unsafe { &mut *record });
    if let Some(uid) = uid {
        victim.uid = uid;
        victim.fields |= oom_field::UID;
    }
    victim::describe(victim, task);
    if victim.level_count == 0 {
        debug!(&ctx, "mark_victim: no memcg could be read for pid {}", victim.pid);
    }
    entry.submit(URGENT);
    0
}

/// Kernels whose `mark_victim` passes the pid alone.
#[btf_tracepoint(function = "mark_victim")]
pub fn mark_victim_pid(ctx: BtfTracePointContext) -> i32 {
    let pid = ctx.arg::<i32>(0) as u32;
    let Some(mut entry) = reserve_for(&ctx) else {
        return 0;
    };
    // SAFETY: as in `mark_victim_task`.
    clear(unsafe { &mut *entry.as_mut_ptr() }).pid = pid;
    entry.submit(URGENT);
    0
}

/// The plain tracepoint: what the event's own record says, sizes in KiB.
#[tracepoint]
pub fn mark_victim(ctx: TracePointContext) -> i32 {
    let Some(pid) = field::<u32>(&ctx, global!(LAYOUT.mark_victim.pid)) else {
        return 0;
    };
    let Some(mut entry) = reserve_for(&ctx) else {
        return 0;
    };
    // SAFETY: as in `mark_victim_task`.
    let victim = clear(unsafe { &mut *entry.as_mut_ptr() });
    victim.pid = pid;
    if let Some(uid) = field::<u32>(&ctx, global!(LAYOUT.mark_victim.uid)) {
        victim.uid = uid;
        victim.fields |= oom_field::UID;
    }
    if let Some(adj) = field::<i16>(&ctx, global!(LAYOUT.mark_victim.oom_score_adj)) {
        victim.oom_score_adj = i32::from(adj);
        victim.fields |= oom_field::OOM_SCORE_ADJ;
    }
    if let Some(location) = field::<u32>(&ctx, global!(LAYOUT.mark_victim.comm)) {
        // SAFETY: the event's own record; the helper checks the address.
        let read = unsafe {
            let source = ctx.as_ptr().cast::<u8>().add((location & 0xffff) as usize);
            bpf_probe_read_kernel_str_bytes(source, &mut victim.comm)
        };
        if read.is_ok() {
            victim.fields |= oom_field::COMM;
        }
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.total_vm)) {
        victim.total_vm_bytes = kib << 10;
        victim.fields |= oom_field::TOTAL_VM;
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.anon_rss)) {
        victim.anon_rss_bytes = kib << 10;
        victim.fields |= oom_field::ANON_RSS;
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.file_rss)) {
        victim.file_rss_bytes = kib << 10;
        victim.fields |= oom_field::FILE_RSS;
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.shmem_rss)) {
        victim.shmem_rss_bytes = kib << 10;
        victim.fields |= oom_field::SHMEM_RSS;
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.pgtables)) {
        victim.pgtables_bytes = kib << 10;
        victim.fields |= oom_field::PGTABLES;
    }
    entry.submit(URGENT);
    0
}

/// Room for a victim.
#[inline(always)]
fn reserve_for(ctx: &impl EbpfContext) -> Option<RingBufEntry<OomKill>> {
    let entry = reserve::<OomKill>();
    if entry.is_none() {
        warn!(ctx, "mark_victim: the ring buffer is full, a victim goes unreported");
    }
    entry
}

#[inline(always)]
fn field<T>(ctx: &TracePointContext, offset: u32) -> Option<T> {
    if offset == ABSENT {
        return None;
    }
    // SAFETY: the offset comes from the tracepoint's format file, and the helper checks the address.
    unsafe { ctx.read_at::<T>(offset as usize) }.ok()
}

#[inline(always)]
fn clear(record: &mut OomKill) -> &mut Victim {
    record.header = header::<OomKill>(kind::OOM_KILL, now_ns());
    victim::clear(&mut record.victim);
    &mut record.victim
}

/// Cgroup → when its last retry was reported.
#[map]
static RETRIED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4096, 0);

/// should_reclaim_retry looks at each zone in turn: one record per cool-down and cgroup is enough.
#[tracepoint]
pub fn reclaim_retry_zone(ctx: TracePointContext) -> i32 {
    let Some(loops) = field::<i32>(&ctx, global!(LAYOUT.reclaim_retry_zone_loops)) else {
        return 0;
    };
    // SAFETY: no arguments, no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let ts = now_ns();
    if let Some(last) = RETRIED.get_ptr(cgroup) {
        // SAFETY: the verifier knows the pointer as a map value; an aligned 64-bit word is not torn.
        let last = unsafe { *last };
        if ts < last + global!(TUNING.cool_down_ns) {
            return 0;
        }
    }
    let _ = RETRIED.insert(cgroup, ts, 0);
    let record = ReclaimRetry {
        header: header::<ReclaimRetry>(kind::RECLAIM_RETRY, ts),
        cgroup,
        no_progress_loops: if loops < 0 { 0 } else { loops as u64 },
    };
    send(record, URGENT);
    0
}
