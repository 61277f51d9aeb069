//! Reading memcgs: from a `mem_cgroup`, its css or its page counter to an id, usage and limit.
//!
//! Addresses are plain numbers here and every read goes through the checked helper, so a pointer that is not what it is
//! taken for costs a field, never more.

use oomlet_ebpf_common::layout::ABSENT;
use oomlet_ebpf_common::record::{Level, MAX_LEVELS};

use crate::globals::{global, read_field};

/// A per-CPU counter's sum may be below zero for a moment (percpu_counter_read_positive).
#[inline(always)]
pub fn counted(pages: i64) -> u64 {
    if pages < 0 { 0 } else { pages as u64 }
}

/// The css inside a `mem_cgroup`.
#[inline(always)]
pub fn css_of(memcg: u64) -> Option<u64> {
    let offset = global!(LAYOUT.mem_cgroup_css);
    if offset == ABSENT || memcg == 0 { None } else { Some(memcg + u64::from(offset)) }
}

/// The `mem_cgroup` around a css.
#[inline(always)]
pub fn of_css(css: u64) -> Option<u64> {
    let offset = global!(LAYOUT.mem_cgroup_css);
    if offset == ABSENT || css == 0 { None } else { Some(css - u64::from(offset)) }
}

/// The memcg's css of a task.
#[inline(always)]
pub fn css_of_task(task: u64) -> Option<u64> {
    let css_set = read_field::<u64>(task, global!(LAYOUT.task_cgroups))?;
    read_field::<u64>(css_set, global!(LAYOUT.css_set_memory))
}

#[inline(always)]
pub fn parent(css: u64) -> Option<u64> {
    match read_field::<u64>(css, global!(LAYOUT.css_parent)) {
        Some(parent) if parent != 0 => Some(parent),
        _ => None,
    }
}

/// `cgroup_root.hierarchy_id` of the hierarchy that the css is in.
#[inline(always)]
pub fn hierarchy(css: u64) -> Option<u32> {
    let cgroup = read_field::<u64>(css, global!(LAYOUT.css_cgroup))?;
    let root = read_field::<u64>(cgroup, global!(LAYOUT.cgroup_root))?;
    read_field::<u32>(root, global!(LAYOUT.cgroup_root_hierarchy_id))
}

#[inline(always)]
pub fn usage_pages(css: u64) -> Option<u64> {
    read_field::<i64>(of_css(css)?, global!(LAYOUT.mem_cgroup_usage)).map(counted)
}

/// Usage and limit of one memcg. `limit`: the offset of its limit, `mem_cgroup.memory.max` or `.high`.
#[inline(always)]
pub fn level(css: u64, limit: u32) -> Option<Level> {
    let id = cgroup_id(read_field::<u64>(css, global!(LAYOUT.css_cgroup))?)?;
    let memcg = of_css(css)?;
    Some(Level {
        id,
        usage_bytes: usage_pages(css)? * global!(TUNING.page_size),
        limit_pages: read_field::<u64>(memcg, limit)?,
    })
}

/// A memcg and its ancestors, leaf first, with their `memory.max`. Returns how many there are.
#[inline(always)]
pub fn branch(leaf: u64, levels: &mut [Level; MAX_LEVELS]) -> u32 {
    let mut css = leaf;
    let mut count = 0;
    while count < MAX_LEVELS {
        let Some(level) = level(css, global!(LAYOUT.mem_cgroup_max)) else {
            break;
        };
        levels[count] = level;
        count += 1;
        css = match parent(css) {
            Some(parent) => parent,
            None => break,
        };
    }
    count as u32
}

#[inline(always)]
pub fn cgroup_id(cgroup: u64) -> Option<u64> {
    let kn = read_field::<u64>(cgroup, global!(LAYOUT.cgroup_kn))?;
    read_field::<u64>(kn, global!(LAYOUT.kernfs_node_id))
}
