//! From BTF and tracepoint formats to the [`Layout`] that the eBPF programs read: which field each entry
//! is, and what a program cannot do without. Pure, so that one kernel's build tests every kernel's layout.

use oomlet_ebpf_common::layout::{ABSENT, CgroupFormat, Layout, MarkVictimFormat};

use super::btf::prune::{self, Keep};
use super::btf::{Btf, BtfError, Kind, Type};
use super::tracefs::Format;

/// The members that are read, by struct. Also what a pruned BTF fixture has to keep.
pub const MEMBERS: &[(&str, &[&str])] = &[
    ("task_struct", &["tgid", "comm", "mm", "signal", "cgroups", "memcg_nr_pages_over_high"]),
    ("signal_struct", &["oom_score_adj", "live"]),
    ("mm_struct", &["total_vm", "pgtables_bytes", "rss_stat"]),
    // `rss_stat` is an array of the one since 6.2 and was a struct of the other before.
    ("percpu_counter", &["count"]),
    ("mm_rss_stat", &["count"]),
    ("css_set", &["dfl_cgrp", "subsys"]),
    ("cgroup_subsys_state", &["cgroup", "parent"]),
    ("cgroup", &["kn", "root", "subsys"]),
    ("cgroup_root", &["hierarchy_id"]),
    ("kernfs_node", &["id"]),
    ("mem_cgroup", &["css", "memory"]),
    ("page_counter", &["usage", "max", "high", "parent"]),
    ("oom_control", &["memcg", "chosen", "order", "totalpages", "constraint"]),
];

/// Enumerators that are read.
pub const ENUMERATORS: &[&str] = &["memory_cgrp_id", "MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES"];

/// Tracepoints whose prototype decides something.
pub const TRACEPOINTS: &[&str] = &["mark_victim"];

/// What a program reads of a hooked function's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A pointer to the struct of this name.
    Struct(&'static str),
    Integer,
}

/// A kernel function that a program hooks, and its first arguments as the program takes them. Those behind, which
/// kernels added and took away over time, are not read.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    pub name: &'static str,
    pub args: &'static [Arg],
}

const MEMCG: Arg = Arg::Struct("mem_cgroup");

/// Every function that any program hooks.
pub const FUNCTIONS: &[Function] = &[
    Function { name: "oom_kill_process", args: &[Arg::Struct("oom_control")] },
    Function { name: "try_to_free_mem_cgroup_pages", args: &[MEMCG] },
    Function { name: "reclaim_high", args: &[MEMCG] },
    Function { name: "mem_cgroup_handle_over_high", args: &[] },
    Function { name: "__mem_cgroup_handle_over_high", args: &[] },
    Function { name: "page_counter_try_charge", args: &[Arg::Struct("page_counter"), Arg::Integer] },
];

/// Whether this kernel's function takes what the program reads.
///
/// # Errors
/// BTF does not know the function, or its prototype is another. One line for people.
pub fn check_function(btf: &Btf, function: &Function) -> Result<(), String> {
    let name = function.name;
    let args = btf.function_args(name).map_err(|error| {
        format!("{error}: this kernel inlined or cloned it (`.constprop`), or calls it by another name")
    })?;
    let fits = |(wanted, id): (&Arg, &u32)| match wanted {
        Arg::Struct(name) => btf.pointee_struct(*id) == Some(name),
        Arg::Integer => btf.resolve(*id).is_some_and(|(_, ty)| ty.kind == Kind::Int),
    };
    if args.len() < function.args.len() || !function.args.iter().zip(&args).all(fits) {
        return Err(format!("`{name}` of this kernel takes other arguments than the program reads"));
    }
    Ok(())
}

/// A BTF blob with nothing but what this module reads: a test fixture.
///
/// # Errors
/// The blob is not of a kernel.
pub fn prune(btf: &Btf) -> Result<Vec<u8>, BtfError> {
    let functions: Vec<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
    let keep =
        Keep { members: MEMBERS, enumerators: ENUMERATORS, tracepoints: TRACEPOINTS, functions: &functions };
    prune::prune(btf, &keep)
}

/// What `oom:mark_victim` passes, by BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkVictim {
    /// `(struct task_struct *)` or, with `args` 2, `(struct task_struct *, uid_t)`.
    Task { args: u32 },
    /// `(int pid)`.
    Pid,
    /// A prototype that none of the programs fits.
    Unknown,
}

/// # Errors
/// BTF does not know the tracepoint.
pub fn mark_victim_prototype(btf: &Btf) -> Result<MarkVictim, BtfError> {
    let args = btf.tracepoint_args("mark_victim")?;
    let is_int = |id: u32| btf.resolve(id).is_some_and(|(_, ty)| ty.kind == Kind::Int);
    Ok(match args.as_slice() {
        [task] if btf.pointee_struct(*task) == Some("task_struct") => MarkVictim::Task { args: 1 },
        [task, uid] if btf.pointee_struct(*task) == Some("task_struct") && is_int(*uid) => {
            MarkVictim::Task { args: 2 }
        }
        [pid] if is_int(*pid) => MarkVictim::Pid,
        _ => MarkVictim::Unknown,
    })
}

/// Fills in what BTF says. What it does not say stays [`ABSENT`] and is named in the result, so that a new
/// kernel's change shows up in the log and in `oomlet check`.
#[must_use]
pub fn from_btf(btf: &Btf, layout: &mut Layout) -> Vec<String> {
    let mut missing = Vec::new();
    let mut put = |slot: &mut u32, found: Result<u32, BtfError>| match found {
        Ok(offset) => *slot = offset,
        Err(error) => missing.push(error.to_string()),
    };
    put(&mut layout.task_tgid, btf.offset_of("task_struct", "tgid"));
    put(&mut layout.task_comm, btf.offset_of("task_struct", "comm"));
    put(&mut layout.task_mm, btf.offset_of("task_struct", "mm"));
    put(&mut layout.task_signal, btf.offset_of("task_struct", "signal"));
    put(&mut layout.task_cgroups, btf.offset_of("task_struct", "cgroups"));
    put(&mut layout.signal_oom_score_adj, btf.offset_of("signal_struct", "oom_score_adj"));
    put(&mut layout.signal_live, btf.offset_of("signal_struct", "live"));
    put(&mut layout.mm_total_vm, btf.offset_of("mm_struct", "total_vm"));
    put(&mut layout.mm_pgtables_bytes, btf.offset_of("mm_struct", "pgtables_bytes"));
    put(&mut layout.mm_rss_file, rss_counter(btf, "MM_FILEPAGES"));
    put(&mut layout.mm_rss_anon, rss_counter(btf, "MM_ANONPAGES"));
    put(&mut layout.mm_rss_shmem, rss_counter(btf, "MM_SHMEMPAGES"));
    put(&mut layout.css_set_dfl_cgrp, btf.offset_of("css_set", "dfl_cgrp"));
    put(&mut layout.css_set_memory, memory_css(btf, "css_set"));
    put(&mut layout.css_cgroup, btf.offset_of("cgroup_subsys_state", "cgroup"));
    put(&mut layout.css_parent, btf.offset_of("cgroup_subsys_state", "parent"));
    put(&mut layout.cgroup_kn, btf.offset_of("cgroup", "kn"));
    put(&mut layout.cgroup_root, btf.offset_of("cgroup", "root"));
    put(&mut layout.cgroup_memory, memory_css(btf, "cgroup"));
    put(&mut layout.cgroup_root_hierarchy_id, btf.offset_of("cgroup_root", "hierarchy_id"));
    put(&mut layout.kernfs_node_id, btf.offset_of("kernfs_node", "id"));
    put(&mut layout.mem_cgroup_css, btf.offset_of("mem_cgroup", "css"));
    put(&mut layout.mem_cgroup_usage, btf.offset_of("mem_cgroup", "memory.usage"));
    put(&mut layout.mem_cgroup_max, btf.offset_of("mem_cgroup", "memory.max"));
    put(&mut layout.mem_cgroup_high, btf.offset_of("mem_cgroup", "memory.high"));
    put(&mut layout.mem_cgroup_memory, btf.offset_of("mem_cgroup", "memory"));
    put(&mut layout.page_counter_parent, btf.offset_of("page_counter", "parent"));
    put(&mut layout.task_pages_over_high, btf.offset_of("task_struct", "memcg_nr_pages_over_high"));
    put(&mut layout.oom_control_memcg, btf.offset_of("oom_control", "memcg"));
    put(&mut layout.oom_control_chosen, btf.offset_of("oom_control", "chosen"));
    put(&mut layout.oom_control_order, btf.offset_of("oom_control", "order"));
    put(&mut layout.oom_control_totalpages, btf.offset_of("oom_control", "totalpages"));
    put(&mut layout.oom_control_constraint, btf.offset_of("oom_control", "constraint"));
    if let Ok(MarkVictim::Task { args }) = mark_victim_prototype(btf) {
        layout.mark_victim_args = args;
    }
    missing
}

/// Where one counter of `mm_struct.rss_stat` keeps its 64-bit value.
fn rss_counter(btf: &Btf, counter: &str) -> Result<u32, BtfError> {
    let index = btf.enum_value(counter)?;
    let (base, ty) = btf.member("mm_struct", "rss_stat")?;
    let missing = || BtfError::Missing { what: "counter", name: format!("mm_struct.rss_stat[{counter}]") };
    if let Some((element, count)) = btf.array(&ty) {
        // 6.2 and later: struct percpu_counter rss_stat[NR_MM_COUNTERS].
        let stride = btf.size_of(element).filter(|_| index < count).ok_or_else(missing)?;
        return Ok(base + index * stride + btf.offset_of("percpu_counter", "count")?);
    }
    // Before: struct mm_rss_stat { atomic_long_t count[NR_MM_COUNTERS]; }.
    let (counts, array) = btf.member("mm_rss_stat", "count")?;
    let stride = element_size(btf, &array, index).ok_or_else(missing)?;
    Ok(base + counts + index * stride)
}

/// The slot of the memory controller in `css_set.subsys` or `cgroup.subsys`.
fn memory_css(btf: &Btf, of: &str) -> Result<u32, BtfError> {
    let index = btf.enum_value("memory_cgrp_id")?;
    let (base, _) = btf.member(of, "subsys")?;
    // An array of pointers; BTF gives a pointer no size.
    Ok(base + index * 8)
}

fn element_size(btf: &Btf, array: &Type, index: u32) -> Option<u32> {
    let (element, count) = btf.array(array)?;
    btf.size_of(element).filter(|_| index < count)
}

/// The fields of `oom:mark_victim` that its `format` file lists at the width the program reads them with.
#[must_use]
pub fn mark_victim_format(format: &Format) -> MarkVictimFormat {
    let at = |name, size| format.offset(name, size).unwrap_or(ABSENT);
    MarkVictimFormat {
        pid: at("pid", 4),
        comm: format.data_loc("comm").unwrap_or(ABSENT),
        total_vm: at("total_vm", 8),
        anon_rss: at("anon_rss", 8),
        file_rss: at("file_rss", 8),
        shmem_rss: at("shmem_rss", 8),
        uid: at("uid", 4),
        pgtables: at("pgtables", 8),
        oom_score_adj: at("oom_score_adj", 2),
    }
}

/// `None` where `id` is not the 64-bit kernfs id (before 5.5 it was an index of its own).
#[must_use]
pub fn cgroup_format(format: &Format) -> Option<CgroupFormat> {
    Some(CgroupFormat {
        root: format.offset("root", 4)?,
        id: format.offset("id", 8)?,
        path: format.data_loc("path")?,
    })
}

#[cfg(test)]
mod tests;
