//! What can be found out about this kernel before anything is loaded: the layout that BTF and the
//! tracepoints' formats give, and for each thing that is missing the reason. Reads files, mounts tracefs.

use std::path::Path;

use aya::Endianness;
use oomlet_ebpf_common::layout::{ABSENT, Layout};

use super::Options;
use super::btf::Btf;
use super::layout::{self, MarkVictim};
use super::programs::chain;
use super::tracefs::{self, Format};

/// What was found out about this kernel before anything is loaded. A reason stands where something is missing.
pub(super) struct Facts {
    pub(super) layout: Layout,
    /// aya's own parse of BTF, which loading a typed program needs.
    pub(super) btf: Result<aya::Btf, String>,
    pub(super) mark_victim: Result<MarkVictim, String>,
    /// Why a function of [`layout::FUNCTIONS`] cannot be hooked; those that can are not in it.
    unhookable: Vec<(&'static str, String)>,
    pub(super) formats: Formats,
    pub(super) fault_sample_period: u64,
}

/// Whether a plain tracepoint's fields could be located, or why not.
pub(super) struct Formats {
    pub(super) mark_victim: Result<(), String>,
    pub(super) reclaim_retry_zone: Result<(), String>,
    pub(super) cgroup_mkdir: Result<(), String>,
    pub(super) cgroup_rmdir: Result<(), String>,
}

/// Reads BTF and the tracepoints' formats, mounting tracefs where that is needed and possible.
pub(super) fn gather(options: &Options) -> Facts {
    let mut layout = Layout::ABSENT;
    let types = if options.max_tier < 2 {
        Types::none(format!("tier 2 is turned off (max tier {})", options.max_tier))
    } else {
        gather_btf(&options.btf_path, &mut layout)
    };
    let formats = gather_formats(options, &mut layout);
    Facts {
        layout,
        btf: types.btf,
        mark_victim: types.mark_victim,
        unhookable: types.unhookable,
        formats,
        fault_sample_period: options.fault_sample_period,
    }
}

impl Facts {
    /// Whether the function can be hooked and the fields that its program cannot do without are there.
    ///
    /// # Errors
    /// One line for people.
    pub(super) fn hookable(&self, function: &str, fields: &[(&str, u32)]) -> Result<(), String> {
        if let Err(why) = &self.btf {
            return Err(why.clone());
        }
        if let Some((_, why)) = self.unhookable.iter().find(|(name, _)| *name == function) {
            return Err(why.clone());
        }
        let absent: Vec<&str> =
            fields.iter().filter(|(_, at)| *at == ABSENT).map(|(name, _)| *name).collect();
        if absent.is_empty() { Ok(()) } else { Err(format!("this kernel's BTF lacks {}", absent.join(", "))) }
    }
}

/// What BTF says.
struct Types {
    btf: Result<aya::Btf, String>,
    mark_victim: Result<MarkVictim, String>,
    unhookable: Vec<(&'static str, String)>,
}

impl Types {
    fn none(why: String) -> Types {
        Types { btf: Err(why.clone()), mark_victim: Err(why), unhookable: Vec::new() }
    }
}

fn gather_btf(path: &Path, layout: &mut Layout) -> Types {
    let btf = match Btf::read(path) {
        Ok(btf) => btf,
        Err(error) => return Types::none(error.to_string()),
    };
    let missing = layout::from_btf(&btf, layout);
    if !missing.is_empty() {
        tracing::warn!(
            ?missing,
            "this kernel lacks fields that the eBPF programs read; records will lack them too"
        );
    }
    let mark_victim = layout::mark_victim_prototype(&btf).map_err(|error| error.to_string());
    let unhookable = layout::FUNCTIONS
        .iter()
        .filter_map(|function| Some((function.name, layout::check_function(&btf, function).err()?)))
        .collect();
    drop(btf);
    // aya wants a parse of its own.
    let btf = aya::Btf::parse_file(path, Endianness::default())
        .map_err(|error| format!("parse BTF of {}: {}", path.display(), chain(&error)));
    Types { btf, mark_victim, unhookable }
}

fn gather_formats(options: &Options, layout: &mut Layout) -> Formats {
    let tracefs = if options.max_tier < 1 {
        Err("tier 1 is turned off (max tier 0)".to_owned())
    } else {
        tracefs::find_or_mount(options.tracefs.as_deref()).map_err(|error| error.to_string())
    };
    let read = |category: &str, name: &str| -> Result<Format, String> {
        tracefs::format(tracefs.as_ref()?, category, name).map_err(|error| error.to_string())
    };
    let lacks = |format: &Format, field| format.lacks(field).to_string();
    let mark_victim = read("oom", "mark_victim").and_then(|format| {
        layout.mark_victim = layout::mark_victim_format(&format);
        if layout.mark_victim.pid == ABSENT {
            return Err(lacks(&format, "pid"));
        }
        Ok(())
    });
    let reclaim_retry_zone = read("oom", "reclaim_retry_zone").and_then(|format| {
        layout.reclaim_retry_zone_loops =
            format.offset("no_progress_loops", 4).ok_or_else(|| lacks(&format, "no_progress_loops"))?;
        Ok(())
    });
    let cgroup_event = |name: &str| {
        let format = read("cgroup", name)?;
        layout::cgroup_format(&format).ok_or_else(|| lacks(&format, "root, u64 id, path"))
    };
    let cgroup_mkdir = cgroup_event("cgroup_mkdir").map(|found| layout.cgroup_mkdir = found);
    let cgroup_rmdir = cgroup_event("cgroup_rmdir").map(|found| layout.cgroup_rmdir = found);
    Formats { mark_victim, reclaim_retry_zone, cgroup_mkdir, cgroup_rmdir }
}
