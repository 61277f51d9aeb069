//! Cgroups made and removed, and the exit of container init processes that the agent asked about.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::macros::{map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use oomlet_ebpf_common::layout::{ABSENT, CgroupFormat};
use oomlet_ebpf_common::record::{CgroupChange, InitExit, PATH_LEN, kind};

use crate::globals::{global, read_field};
use crate::ring::{ROUTINE, URGENT, header, now_ns, reserve, send};

/// Thread group ids whose end the agent wants to hear of. It fills and empties the map.
#[map]
static WATCHED: HashMap<u32, u8> = HashMap::with_max_entries(8192, 0);

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(_ctx: RawTracePointContext) -> i32 {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    if WATCHED.get_ptr(tgid).is_none() || !group_ends(tgid, pid_tgid as u32) {
        return 0;
    }
    // The id may be another process's soon.
    let _ = WATCHED.remove(tgid);
    let record = InitExit { header: header::<InitExit>(kind::INIT_EXIT, now_ns()), pid: u64::from(tgid) };
    send(record, URGENT);
    0
}

/// Whether the thread that exits is its process's last: do_exit counts `signal->live` down before the
/// tracepoint. Without BTF the leader's exit stands in for it.
#[inline(always)]
fn group_ends(tgid: u32, tid: u32) -> bool {
    // SAFETY: no arguments, no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let live = read_field::<u64>(task, global!(LAYOUT.task_signal))
        .and_then(|signal| read_field::<i32>(signal, global!(LAYOUT.signal_live)));
    match live {
        Some(live) => live == 0,
        None => tgid == tid,
    }
}

#[tracepoint]
pub fn cgroup_mkdir(ctx: TracePointContext) -> i32 {
    let format = CgroupFormat {
        root: global!(LAYOUT.cgroup_mkdir.root),
        id: global!(LAYOUT.cgroup_mkdir.id),
        path: global!(LAYOUT.cgroup_mkdir.path),
    };
    cgroup_change(&ctx, format, kind::CGROUP_MADE);
    0
}

#[tracepoint]
pub fn cgroup_rmdir(ctx: TracePointContext) -> i32 {
    let format = CgroupFormat {
        root: global!(LAYOUT.cgroup_rmdir.root),
        id: global!(LAYOUT.cgroup_rmdir.id),
        path: global!(LAYOUT.cgroup_rmdir.path),
    };
    cgroup_change(&ctx, format, kind::CGROUP_REMOVED);
    0
}

#[inline(always)]
fn cgroup_change(ctx: &TracePointContext, format: CgroupFormat, kind: u32) -> Option<()> {
    if format.root == ABSENT || format.id == ABSENT || format.path == ABSENT {
        return None;
    }
    // SAFETY: the offsets come from the tracepoint's format file, and the helper checks the address.
    let hierarchy = unsafe { ctx.read_at::<u32>(format.root as usize) }.ok()?;
    // A v1 system makes each cgroup in a dozen hierarchies; two of them matter.
    if hierarchy != 0 && u64::from(hierarchy) != global!(TUNING.memory_hierarchy) {
        return None;
    }
    // SAFETY: as above.
    let id = unsafe { ctx.read_at::<u64>(format.id as usize) }.ok()?;
    // SAFETY: as above. A `__data_loc` word holds the offset in its lower half, the length in its upper.
    let path = unsafe { ctx.read_at::<u32>(format.path as usize) }.ok()? & 0xffff;

    let mut entry = reserve::<CgroupChange>()?;
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is a whole CgroupChange in ring-buffer memory, and every field is written before it is submitted.
    unsafe {
        (*record).header = header::<CgroupChange>(kind, now_ns());
        (*record).id = id;
        (*record).hierarchy = hierarchy;
        let source = aya_ebpf::EbpfContext::as_ptr(ctx).cast::<u8>().add(path as usize);
        let path = &mut *(&raw mut (*record).path).cast::<[u8; PATH_LEN]>();
        (*record).path_len =
            bpf_probe_read_kernel_str_bytes(source, path).map_or(0, |read| read.len() as u32);
    }
    entry.submit(ROUTINE);
    Some(())
}
