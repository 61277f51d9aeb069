//! A task, described as the OOM killer's victim. It is named by its process: the kernel marks any thread of it.

use oomlet_ebpf_common::record::{COMM_LEN, Level, MAX_LEVELS, Victim, oom_field};

use crate::globals::{global, read_field};
use crate::memcg::{self, counted};

#[inline(always)]
pub fn clear(victim: &mut Victim) {
    victim.pid = 0;
    victim.uid = 0;
    victim.fields = 0;
    victim.oom_score_adj = 0;
    victim.comm = [0; COMM_LEN];
    victim.total_vm_bytes = 0;
    victim.anon_rss_bytes = 0;
    victim.file_rss_bytes = 0;
    victim.shmem_rss_bytes = 0;
    victim.pgtables_bytes = 0;
    victim.cgroup = 0;
    victim.memcg_hierarchy = 0;
    victim.level_count = 0;
    victim.levels = [Level { id: 0, usage_bytes: 0, limit_pages: 0 }; MAX_LEVELS];
}

/// All but the uid, which only `mark_victim` is given.
#[inline(always)]
pub fn describe(victim: &mut Victim, task: u64) {
    describe_task(victim, task);
    describe_mm(victim, task);
    describe_cgroups(victim, task);
}

#[inline(always)]
fn describe_task(victim: &mut Victim, task: u64) {
    victim.pid = read_field::<u32>(task, global!(LAYOUT.task_tgid)).unwrap_or(0);
    if let Some(comm) = read_field::<[u8; COMM_LEN]>(task, global!(LAYOUT.task_comm)) {
        victim.comm = comm;
        victim.fields |= oom_field::COMM;
    }
    let adj = read_field::<u64>(task, global!(LAYOUT.task_signal))
        .and_then(|signal| read_field::<i16>(signal, global!(LAYOUT.signal_oom_score_adj)));
    if let Some(adj) = adj {
        victim.oom_score_adj = i32::from(adj);
        victim.fields |= oom_field::OOM_SCORE_ADJ;
    }
}

/// Sizes as mark_victim's own event computes them: page counts of the victim's mm, which the OOM killer
/// holds at this point.
#[inline(always)]
fn describe_mm(victim: &mut Victim, task: u64) {
    let Some(mm) = read_field::<u64>(task, global!(LAYOUT.task_mm)) else {
        return;
    };
    let page_size = global!(TUNING.page_size);
    if let Some(pages) = read_field::<u64>(mm, global!(LAYOUT.mm_total_vm)) {
        victim.total_vm_bytes = pages * page_size;
        victim.fields |= oom_field::TOTAL_VM;
    }
    if let Some(pages) = read_field::<i64>(mm, global!(LAYOUT.mm_rss_anon)) {
        victim.anon_rss_bytes = counted(pages) * page_size;
        victim.fields |= oom_field::ANON_RSS;
    }
    if let Some(pages) = read_field::<i64>(mm, global!(LAYOUT.mm_rss_file)) {
        victim.file_rss_bytes = counted(pages) * page_size;
        victim.fields |= oom_field::FILE_RSS;
    }
    if let Some(pages) = read_field::<i64>(mm, global!(LAYOUT.mm_rss_shmem)) {
        victim.shmem_rss_bytes = counted(pages) * page_size;
        victim.fields |= oom_field::SHMEM_RSS;
    }
    if let Some(bytes) = read_field::<u64>(mm, global!(LAYOUT.mm_pgtables_bytes)) {
        victim.pgtables_bytes = bytes;
        victim.fields |= oom_field::PGTABLES;
    }
}

/// The victim's cgroup in the unified hierarchy, and its memcg with every ancestor.
#[inline(always)]
fn describe_cgroups(victim: &mut Victim, task: u64) {
    let Some(css_set) = read_field::<u64>(task, global!(LAYOUT.task_cgroups)) else {
        return;
    };
    let unified = read_field::<u64>(css_set, global!(LAYOUT.css_set_dfl_cgrp));
    if let Some(id) = unified.and_then(memcg::cgroup_id) {
        victim.cgroup = id;
        victim.fields |= oom_field::CGROUP;
    }
    let Some(css) = read_field::<u64>(css_set, global!(LAYOUT.css_set_memory)) else {
        return;
    };
    if let Some(hierarchy) = memcg::hierarchy(css) {
        victim.memcg_hierarchy = hierarchy;
        victim.level_count = memcg::branch(css, &mut victim.levels);
    }
}
