//! `oom_kill_process`: what an OOM kill is about, said by the kernel itself. `mark_victim` follows it.

use aya_ebpf::macros::fentry;
use aya_ebpf::programs::FEntryContext;
use aya_log_ebpf::warn;
use oomlet_ebpf_common::record::{Level, OomBegin, kind, oom_scope};

use crate::globals::{global, read_field};
use crate::memcg;
use crate::ring::{URGENT, header, now_ns, reserve};
use crate::victim;

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
    // Where `mark_victim` passes a pid alone, this is what tells whose process it was.
    if let Some(task) = read_field::<u64>(control, global!(LAYOUT.oom_control_chosen)) {
        victim::describe(&mut record.chosen, task);
    }
    entry.submit(URGENT);
    0
}

#[inline(always)]
fn clear(record: &mut OomBegin) {
    record.header = header::<OomBegin>(kind::OOM_BEGIN, now_ns());
    record.memcg = Level { id: 0, usage_bytes: 0, limit_pages: 0 };
    record.total_pages = 0;
    record.scope = oom_scope::UNKNOWN;
    record.memcg_hierarchy = 0;
    record.order = 0;
    record.constraint = 0;
    victim::clear(&mut record.chosen);
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
