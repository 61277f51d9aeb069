//! Bytes of the ring buffer → [`KernelEvent`]. Pure; any bytes at all are answered with an event or an
//! error, so that a newer object or a damaged record costs one record.

use std::time::Duration;

use oomlet_ebpf_common::record::{
    CgroupChange, ChargeForecast, Growth, Header, InitExit, KswapdWake, Level, MemcgPressure, OomBegin,
    OomKill, PATH_LEN, Reclaim, ReclaimRetry, Victim, kind, oom_field, oom_scope,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use oomlet_core::clock::Mono;
use oomlet_core::signal::{self, CgroupId, Hierarchy, KernelEvent, KernelEventKind, MemcgLevel, OomVictim};
use oomlet_core::signal::{OomConstraint, OomScope};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    #[error("a record of {len} bytes is too short for its kind {kind}")]
    TooShort { kind: u32, len: usize },
    #[error("a record of unknown kind {0}")]
    UnknownKind(u32),
}

/// Decodes one record. `page_size` in bytes.
///
/// # Errors
/// The record is too short or of an unknown kind.
pub fn decode(bytes: &[u8], read_at: Mono, page_size: u64) -> Result<KernelEvent, Undecodable> {
    let header: Header = parse(bytes, 0)?;
    let kind = match header.kind {
        kind::OOM_KILL => {
            let record: OomKill = parse(bytes, header.kind)?;
            KernelEventKind::OomKill(Box::new(victim(&record.victim, page_size)))
        }
        kind::MEMCG_RECLAIM => {
            let record: Reclaim = parse(bytes, header.kind)?;
            KernelEventKind::MemcgReclaim {
                cgroup: unified(record.cgroup),
                events: clamp(record.events),
                stalled: Duration::from_nanos(record.stalled_ns),
            }
        }
        kind::DIRECT_RECLAIM => {
            let record: Reclaim = parse(bytes, header.kind)?;
            KernelEventKind::DirectReclaim {
                cgroup: unified(record.cgroup),
                events: clamp(record.events),
                stalled: Duration::from_nanos(record.stalled_ns),
            }
        }
        kind::KSWAPD_WAKE => {
            let record: KswapdWake = parse(bytes, header.kind)?;
            KernelEventKind::KswapdWake { events: clamp(record.events) }
        }
        kind::RECLAIM_RETRY => {
            let record: ReclaimRetry = parse(bytes, header.kind)?;
            KernelEventKind::ReclaimRetry {
                cgroup: unified(record.cgroup),
                no_progress_loops: clamp(record.no_progress_loops),
            }
        }
        kind::GROWTH => {
            let record: Growth = parse(bytes, header.kind)?;
            KernelEventKind::Growth {
                cgroup: unified(record.cgroup),
                faults: record.faults,
                window: Duration::from_nanos(record.window_ns),
            }
        }
        kind::CGROUP_MADE => {
            let (cgroup, path) = changed(&parse(bytes, header.kind)?);
            KernelEventKind::CgroupMade { cgroup, path }
        }
        kind::CGROUP_REMOVED => {
            let (cgroup, path) = changed(&parse(bytes, header.kind)?);
            KernelEventKind::CgroupRemoved { cgroup, path }
        }
        kind::INIT_EXIT => {
            let record: InitExit = parse(bytes, header.kind)?;
            KernelEventKind::InitExit { pid: clamp(record.pid) }
        }
        kind::OOM_BEGIN => KernelEventKind::OomBegin(Box::new(begin(&parse(bytes, header.kind)?, page_size))),
        kind::LIMIT_RECLAIM => {
            let (memcg, events) = pressure(&parse(bytes, header.kind)?, page_size);
            KernelEventKind::LimitReclaim { memcg, events }
        }
        kind::OVER_HIGH => {
            let (memcg, events) = pressure(&parse(bytes, header.kind)?, page_size);
            KernelEventKind::OverHigh { memcg, events }
        }
        kind::THROTTLED => {
            let (memcg, events) = pressure(&parse(bytes, header.kind)?, page_size);
            KernelEventKind::Throttled { memcg, events }
        }
        kind::CHARGE_FORECAST => {
            let record: ChargeForecast = parse(bytes, header.kind)?;
            KernelEventKind::ChargeForecast {
                memcg: memcg_level(&record.memcg, record.hierarchy, page_size),
                grown_bytes: record.grown_bytes,
                window: Duration::from_nanos(record.window_ns),
            }
        }
        unknown => return Err(Undecodable::UnknownKind(unknown)),
    };
    Ok(KernelEvent { at: Mono(header.ts), read_at, kind })
}

/// The ring buffer hands out records rounded up to 8 bytes: what follows is left alone.
fn parse<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8], kind: u32) -> Result<T, Undecodable> {
    match T::read_from_prefix(bytes) {
        Ok((record, _)) => Ok(record),
        Err(_) => Err(Undecodable::TooShort { kind, len: bytes.len() }),
    }
}

fn clamp(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn unified(id: u64) -> CgroupId {
    CgroupId { hierarchy: Hierarchy::Unified, id }
}

/// The programs report two hierarchies: the unified one, whose id is 0, and the one with the v1 memory controller.
fn in_hierarchy(hierarchy_id: u32, id: u64) -> CgroupId {
    let hierarchy = if hierarchy_id == 0 { Hierarchy::Unified } else { Hierarchy::MemoryV1 };
    CgroupId { hierarchy, id }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn changed(record: &CgroupChange) -> (CgroupId, String) {
    let len = (record.path_len as usize).min(PATH_LEN);
    (in_hierarchy(record.hierarchy, record.id), text(&record.path[..len]))
}

fn victim(record: &Victim, page_size: u64) -> OomVictim {
    fn when<T>(record: &Victim, bit: u32, value: T) -> Option<T> {
        (record.fields & bit != 0).then_some(value)
    }
    OomVictim {
        pid: record.pid,
        comm: when(record, oom_field::COMM, text(&record.comm)),
        uid: when(record, oom_field::UID, record.uid),
        oom_score_adj: when(record, oom_field::OOM_SCORE_ADJ, record.oom_score_adj)
            .and_then(|adj| adj.try_into().ok()),
        total_vm_bytes: when(record, oom_field::TOTAL_VM, record.total_vm_bytes),
        anon_rss_bytes: when(record, oom_field::ANON_RSS, record.anon_rss_bytes),
        file_rss_bytes: when(record, oom_field::FILE_RSS, record.file_rss_bytes),
        shmem_rss_bytes: when(record, oom_field::SHMEM_RSS, record.shmem_rss_bytes),
        pgtables_bytes: when(record, oom_field::PGTABLES, record.pgtables_bytes),
        cgroup: when(record, oom_field::CGROUP, unified(record.cgroup)),
        levels: branch(&record.levels, record.level_count, record.memcg_hierarchy, page_size),
    }
}

fn begin(record: &OomBegin, page_size: u64) -> signal::OomBegin {
    signal::OomBegin {
        scope: match record.scope {
            oom_scope::GLOBAL => OomScope::Global,
            oom_scope::MEMCG => {
                OomScope::Memcg(memcg_level(&record.memcg, record.memcg_hierarchy, page_size))
            }
            _ => OomScope::Unknown,
        },
        chosen: victim(&record.chosen, page_size),
        total_bytes: record.total_pages.saturating_mul(page_size),
        order: record.order,
        constraint: match record.constraint {
            0 => OomConstraint::None,
            1 => OomConstraint::Cpuset,
            2 => OomConstraint::MemoryPolicy,
            3 => OomConstraint::Memcg,
            other => OomConstraint::Unknown(other),
        },
    }
}

fn branch(levels: &[Level], count: u32, hierarchy: u32, page_size: u64) -> Vec<MemcgLevel> {
    let filled = levels.iter().take(count as usize);
    filled.map(|level| memcg_level(level, hierarchy, page_size)).collect()
}

fn pressure(record: &MemcgPressure, page_size: u64) -> (MemcgLevel, u32) {
    (memcg_level(&record.memcg, record.hierarchy, page_size), clamp(record.events))
}

fn memcg_level(level: &Level, hierarchy: u32, page_size: u64) -> MemcgLevel {
    // PAGE_COUNTER_MAX of include/linux/page_counter.h: LONG_MAX / PAGE_SIZE pages.
    let no_limit = i64::MAX as u64 / page_size.max(1);
    MemcgLevel {
        cgroup: in_hierarchy(hierarchy, level.id),
        usage_bytes: level.usage_bytes,
        limit_bytes: (level.limit_pages < no_limit).then(|| level.limit_pages.saturating_mul(page_size)),
    }
}

#[cfg(test)]
mod tests;
