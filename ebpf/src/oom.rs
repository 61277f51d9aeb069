//! The OOM killer: its victim, by the best variant that the kernel has, and the step before it.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::macros::{btf_tracepoint, map, tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use aya_log_ebpf::{debug, warn};
use oomlet_ebpf_common::layout::ABSENT;
use oomlet_ebpf_common::record::{COMM_LEN, Level, MAX_LEVELS, OomKill, ReclaimRetry, kind, oom_field};

use crate::globals::{global, read_field};
use crate::memcg::{self, counted};
use crate::ring::{URGENT, header, now_ns, reserve, send};

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
    let record = unsafe { &mut *record };
    clear(record);
    record.pid = read_field::<u32>(task, global!(LAYOUT.task_pid)).unwrap_or(0);
    if let Some(uid) = uid {
        record.uid = uid;
        record.fields |= oom_field::UID;
    }
    describe_task(record, task);
    describe_mm(record, task);
    describe_cgroups(record, task);
    if record.level_count == 0 {
        debug!(&ctx, "mark_victim: no memcg could be read for pid {}", record.pid);
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
    let record = unsafe { &mut *entry.as_mut_ptr() };
    clear(record);
    record.pid = pid;
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
    let record = unsafe { &mut *entry.as_mut_ptr() };
    clear(record);
    record.pid = pid;
    if let Some(uid) = field::<u32>(&ctx, global!(LAYOUT.mark_victim.uid)) {
        record.uid = uid;
        record.fields |= oom_field::UID;
    }
    if let Some(adj) = field::<i16>(&ctx, global!(LAYOUT.mark_victim.oom_score_adj)) {
        record.oom_score_adj = i32::from(adj);
        record.fields |= oom_field::OOM_SCORE_ADJ;
    }
    if let Some(location) = field::<u32>(&ctx, global!(LAYOUT.mark_victim.comm)) {
        // SAFETY: the event's own record; the helper checks the address.
        let read = unsafe {
            let source = ctx.as_ptr().cast::<u8>().add((location & 0xffff) as usize);
            bpf_probe_read_kernel_str_bytes(source, &mut record.comm)
        };
        if read.is_ok() {
            record.fields |= oom_field::COMM;
        }
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.total_vm)) {
        record.total_vm_bytes = kib << 10;
        record.fields |= oom_field::TOTAL_VM;
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.anon_rss)) {
        record.anon_rss_bytes = kib << 10;
        record.fields |= oom_field::ANON_RSS;
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.file_rss)) {
        record.file_rss_bytes = kib << 10;
        record.fields |= oom_field::FILE_RSS;
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.shmem_rss)) {
        record.shmem_rss_bytes = kib << 10;
        record.fields |= oom_field::SHMEM_RSS;
    }
    if let Some(kib) = field::<u64>(&ctx, global!(LAYOUT.mark_victim.pgtables)) {
        record.pgtables_bytes = kib << 10;
        record.fields |= oom_field::PGTABLES;
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
fn clear(record: &mut OomKill) {
    record.header = header::<OomKill>(kind::OOM_KILL, now_ns());
    record.pid = 0;
    record.uid = 0;
    record.fields = 0;
    record.oom_score_adj = 0;
    record.comm = [0; COMM_LEN];
    record.total_vm_bytes = 0;
    record.anon_rss_bytes = 0;
    record.file_rss_bytes = 0;
    record.shmem_rss_bytes = 0;
    record.pgtables_bytes = 0;
    record.cgroup = 0;
    record.memcg_hierarchy = 0;
    record.level_count = 0;
    record.levels = [Level { id: 0, usage_bytes: 0, limit_pages: 0 }; MAX_LEVELS];
}

#[inline(always)]
fn describe_task(record: &mut OomKill, task: u64) {
    if let Some(comm) = read_field::<[u8; COMM_LEN]>(task, global!(LAYOUT.task_comm)) {
        record.comm = comm;
        record.fields |= oom_field::COMM;
    }
    let adj = read_field::<u64>(task, global!(LAYOUT.task_signal))
        .and_then(|signal| read_field::<i16>(signal, global!(LAYOUT.signal_oom_score_adj)));
    if let Some(adj) = adj {
        record.oom_score_adj = i32::from(adj);
        record.fields |= oom_field::OOM_SCORE_ADJ;
    }
}

/// Sizes as mark_victim's own event computes them: page counts of the victim's mm, which the OOM killer
/// holds at this point.
#[inline(always)]
fn describe_mm(record: &mut OomKill, task: u64) {
    let Some(mm) = read_field::<u64>(task, global!(LAYOUT.task_mm)) else {
        return;
    };
    let page_size = global!(TUNING.page_size);
    if let Some(pages) = read_field::<u64>(mm, global!(LAYOUT.mm_total_vm)) {
        record.total_vm_bytes = pages * page_size;
        record.fields |= oom_field::TOTAL_VM;
    }
    if let Some(pages) = read_field::<i64>(mm, global!(LAYOUT.mm_rss_anon)) {
        record.anon_rss_bytes = counted(pages) * page_size;
        record.fields |= oom_field::ANON_RSS;
    }
    if let Some(pages) = read_field::<i64>(mm, global!(LAYOUT.mm_rss_file)) {
        record.file_rss_bytes = counted(pages) * page_size;
        record.fields |= oom_field::FILE_RSS;
    }
    if let Some(pages) = read_field::<i64>(mm, global!(LAYOUT.mm_rss_shmem)) {
        record.shmem_rss_bytes = counted(pages) * page_size;
        record.fields |= oom_field::SHMEM_RSS;
    }
    if let Some(bytes) = read_field::<u64>(mm, global!(LAYOUT.mm_pgtables_bytes)) {
        record.pgtables_bytes = bytes;
        record.fields |= oom_field::PGTABLES;
    }
}

/// The victim's cgroup in the unified hierarchy, and its memcg with every ancestor.
#[inline(always)]
fn describe_cgroups(record: &mut OomKill, task: u64) {
    let Some(css_set) = read_field::<u64>(task, global!(LAYOUT.task_cgroups)) else {
        return;
    };
    let unified = read_field::<u64>(css_set, global!(LAYOUT.css_set_dfl_cgrp));
    if let Some(id) = unified.and_then(memcg::cgroup_id) {
        record.cgroup = id;
        record.fields |= oom_field::CGROUP;
    }
    let Some(css) = read_field::<u64>(css_set, global!(LAYOUT.css_set_memory)) else {
        return;
    };
    if let Some(hierarchy) = memcg::hierarchy(css) {
        record.memcg_hierarchy = hierarchy;
        record.level_count = memcg::branch(css, &mut record.levels);
    }
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
