//! A memcg at one of its limits: reclaim because of `memory.max`, tasks slowed down because of `memory.high`. The
//! tracepoints of [`reclaim`](crate::reclaim) tell who is stalled, these functions whose limit it is.

use aya_ebpf::helpers::bpf_get_current_task;
use aya_ebpf::macros::{fentry, map};
use aya_ebpf::programs::FEntryContext;
use oomlet_ebpf_common::record::{Level, MAX_LEVELS, MemcgPressure, kind};

use crate::globals::{global, read_field};
use crate::memcg;
use crate::ring::{URGENT, header, now_ns, send};
use crate::sums::{Sums, add, due, entry, settle};

#[map]
static LIMIT_RECLAIM: Sums = Sums::with_max_entries(4096, 0);
#[map]
static OVER_HIGH: Sums = Sums::with_max_entries(4096, 0);
#[map]
static THROTTLED: Sums = Sums::with_max_entries(4096, 0);

/// Reclaim inside `memcg`, because a charge found it at its limit (or somebody wrote to its files).
#[fentry(function = "try_to_free_mem_cgroup_pages")]
pub fn try_to_free_mem_cgroup_pages(ctx: FEntryContext) -> i32 {
    let memcg: u64 = ctx.arg::<*const u8>(0) as u64;
    if let Some(css) = memcg::css_of(memcg)
        && let Some(level) = memcg::level(css, global!(LAYOUT.mem_cgroup_max))
    {
        account(&LIMIT_RECLAIM, kind::LIMIT_RECLAIM, css, level);
    }
    0
}

/// Called with the memcg of the task that charged; the one above its `memory.high` is that or one of its ancestors.
#[fentry(function = "reclaim_high")]
pub fn reclaim_high(ctx: FEntryContext) -> i32 {
    let memcg: u64 = ctx.arg::<*const u8>(0) as u64;
    if let Some(css) = memcg::css_of(memcg) {
        above_high(&OVER_HIGH, kind::OVER_HIGH, css);
    }
    0
}

/// On its way back to user space a task pays for what it charged above `memory.high`, by reclaim and by sleeping.
#[fentry(function = "mem_cgroup_handle_over_high")]
pub fn mem_cgroup_handle_over_high(_ctx: FEntryContext) -> i32 {
    throttled();
    0
}

/// The same, where the header has an inline function of the old name.
#[fentry(function = "__mem_cgroup_handle_over_high")]
pub fn mem_cgroup_handle_over_high_7(_ctx: FEntryContext) -> i32 {
    throttled();
    0
}

#[inline(always)]
fn throttled() {
    // SAFETY: no arguments, no preconditions.
    let task = unsafe { bpf_get_current_task() };
    // Old kernels call it on every return to user space that has work to do, and look at this first.
    match read_field::<u32>(task, global!(LAYOUT.task_pages_over_high)) {
        Some(pages) if pages > 0 => {}
        _ => return,
    }
    if let Some(css) = memcg::css_of_task(task) {
        above_high(&THROTTLED, kind::THROTTLED, css);
    }
}

/// Accounts to the lowest memcg on the branch that is above its `memory.high`, as reclaim_high walks it.
#[inline(always)]
fn above_high(sums: &Sums, kind: u32, leaf: u64) {
    let mut css = leaf;
    let mut found = None;
    let mut walked = 0;
    while walked < MAX_LEVELS {
        if is_above(css) {
            found = memcg::level(css, global!(LAYOUT.mem_cgroup_high));
            break;
        }
        css = match memcg::parent(css) {
            Some(parent) => parent,
            None => break,
        };
        walked += 1;
    }
    if let Some(level) = found {
        account(sums, kind, css, level);
    }
}

#[inline(always)]
fn is_above(css: u64) -> bool {
    let high = memcg::of_css(css).and_then(|memcg| read_field::<u64>(memcg, global!(LAYOUT.mem_cgroup_high)));
    // Pages on both sides: the kernel's "no limit" is a number of pages that has no size in bytes.
    match (memcg::usage_pages(css), high) {
        (Some(pages), Some(high)) => pages > high,
        _ => false,
    }
}

#[inline(always)]
fn account(sums: &Sums, kind: u32, css: u64, memcg: Level) {
    let ts = now_ns();
    let Some(pressure) = entry(sums, memcg.id) else {
        return;
    };
    add(pressure, 1, 0);
    if let Some((events, _)) = due(pressure, ts) {
        let Some(hierarchy) = memcg::hierarchy(css) else {
            return;
        };
        let header = header::<MemcgPressure>(kind, ts);
        let record = MemcgPressure { header, memcg, events, hierarchy, reserved: 0 };
        if send(record, URGENT) {
            settle(pressure, events, 0);
        }
    }
}
