//! `oom_kill_process`: what an OOM kill is about, said by the kernel itself. `mark_victim` follows it.

use aya_ebpf::macros::fentry;
use aya_ebpf::programs::FEntryContext;
use aya_log_ebpf::warn;
use oomlet_ebpf_common::record::{Level, MAX_LEVELS, OomBegin, kind, oom_scope};

use crate::globals::{global, read_field};
use crate::memcg;
use crate::ring::{URGENT, header, now_ns, reserve};

#[fentry(function = "oom_kill_process")]
pub fn oom_kill_process(ctx: FEntryContext) -> i32 {
    let control: u64 = ctx.arg::<*const u8>(0) as u64;
    let Some(mut entry) = reserve::<OomBegin>() else {
        warn!(&ctx, "oom_kill_process: the ring buffer is full, an OOM goes unexplained");
        return 0;
    };
    // SAFETY: the entry is a whole OomBegin in ring-buffer memory; `clear` writes each field.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    clear(record);
    match read_field::<u64>(control, global!(LAYOUT.oom_control_memcg)) {
        Some(0) => record.scope = oom_scope::GLOBAL,
        Some(memcg) => describe_memcg(record, memcg),
        None => {}
    }
    record.total_pages = read_field::<u64>(control, global!(LAYOUT.oom_control_totalpages)).unwrap_or(0);
    record.order = read_field::<i32>(control, global!(LAYOUT.oom_control_order)).unwrap_or(0);
    record.constraint = read_field::<u32>(control, global!(LAYOUT.oom_control_constraint)).unwrap_or(0);
    if let Some(task) = read_field::<u64>(control, global!(LAYOUT.oom_control_chosen)) {
        describe_chosen(record, task);
    }
    entry.submit(URGENT);
    0
}

#[inline(always)]
fn clear(record: &mut OomBegin) {
    record.header = header::<OomBegin>(kind::OOM_BEGIN, now_ns());
    record.memcg = Level { id: 0, usage_bytes: 0, limit_pages: 0 };
    record.total_pages = 0;
    record.chosen_cgroup = 0;
    record.chosen_pid = 0;
    record.scope = oom_scope::UNKNOWN;
    record.memcg_hierarchy = 0;
    record.order = 0;
    record.constraint = 0;
    record.level_count = 0;
    record.levels = [Level { id: 0, usage_bytes: 0, limit_pages: 0 }; MAX_LEVELS];
}

#[inline(always)]
fn describe_memcg(record: &mut OomBegin, memcg: u64) {
    let Some(css) = memcg::css_of(memcg) else {
        return;
    };
    let level = memcg::level(css, global!(LAYOUT.mem_cgroup_max));
    if let (Some(level), Some(hierarchy)) = (level, memcg::hierarchy(css)) {
        record.scope = oom_scope::MEMCG;
        record.memcg = level;
        record.memcg_hierarchy = hierarchy;
    }
}

/// Where `mark_victim` passes a pid alone, this is what tells whose process it was.
#[inline(always)]
fn describe_chosen(record: &mut OomBegin, task: u64) {
    record.chosen_pid = read_field::<u32>(task, global!(LAYOUT.task_pid)).unwrap_or(0);
    let unified = read_field::<u64>(task, global!(LAYOUT.task_cgroups))
        .and_then(|css_set| read_field::<u64>(css_set, global!(LAYOUT.css_set_dfl_cgrp)));
    record.chosen_cgroup = unified.and_then(memcg::cgroup_id).unwrap_or(0);
    let Some(css) = memcg::css_of_task(task) else {
        return;
    };
    if let Some(hierarchy) = memcg::hierarchy(css) {
        record.memcg_hierarchy = hierarchy;
        record.level_count = memcg::branch(css, &mut record.levels);
    }
}
