use oomlet_ebpf_common::record::{COMM_LEN, MAX_LEVELS};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

const PAGE: u64 = 4096;

fn header<T>(kind: u32) -> Header {
    Header { kind, size: size_of::<T>() as u32, ts: 77 }
}

fn unified_id(id: u64) -> CgroupId {
    CgroupId { hierarchy: Hierarchy::Unified, id }
}

fn kind_of(bytes: &[u8]) -> KernelEventKind {
    let event = decode(bytes, Mono(99), PAGE).expect("decodes");
    assert_eq!((event.at, event.read_at), (Mono(77), Mono(99)));
    event.kind
}

fn path(text: &str) -> [u8; PATH_LEN] {
    let mut bytes = [0u8; PATH_LEN];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

#[test]
fn records_about_pressure() {
    let reclaim = |kind| Reclaim { header: header::<Reclaim>(kind), cgroup: 5, events: 3, stalled_ns: 1_000 };
    assert_eq!(
        kind_of(reclaim(kind::MEMCG_RECLAIM).as_bytes()),
        KernelEventKind::MemcgReclaim { cgroup: unified_id(5), events: 3, stalled: Duration::from_micros(1) }
    );
    assert_eq!(
        kind_of(reclaim(kind::DIRECT_RECLAIM).as_bytes()),
        KernelEventKind::DirectReclaim {
            cgroup: unified_id(5),
            events: 3,
            stalled: Duration::from_micros(1)
        }
    );
    let wake = KswapdWake { header: header::<KswapdWake>(kind::KSWAPD_WAKE), events: u64::MAX };
    assert_eq!(kind_of(wake.as_bytes()), KernelEventKind::KswapdWake { events: u32::MAX });
    let retry =
        ReclaimRetry { header: header::<ReclaimRetry>(kind::RECLAIM_RETRY), cgroup: 6, no_progress_loops: 2 };
    assert_eq!(
        kind_of(retry.as_bytes()),
        KernelEventKind::ReclaimRetry { cgroup: unified_id(6), no_progress_loops: 2 }
    );
    let growth =
        Growth { header: header::<Growth>(kind::GROWTH), cgroup: 7, faults: 512, window_ns: 2_000_000 };
    assert_eq!(
        kind_of(growth.as_bytes()),
        KernelEventKind::Growth { cgroup: unified_id(7), faults: 512, window: Duration::from_millis(2) }
    );
}

#[test]
fn records_about_lifecycle() {
    let change = |kind, hierarchy, path_len| CgroupChange {
        header: header::<CgroupChange>(kind),
        id: 9,
        hierarchy,
        path_len,
        path: path("/kubepods/pod1"),
    };
    assert_eq!(
        kind_of(change(kind::CGROUP_MADE, 0, 14).as_bytes()),
        KernelEventKind::CgroupMade { cgroup: unified_id(9), path: "/kubepods/pod1".to_owned() }
    );
    let memory_v1 = CgroupId { hierarchy: Hierarchy::MemoryV1, id: 9 };
    // A length beyond the array is cut to it, and the text ends at its zero byte.
    assert_eq!(
        kind_of(change(kind::CGROUP_REMOVED, 4, u32::MAX).as_bytes()),
        KernelEventKind::CgroupRemoved { cgroup: memory_v1, path: "/kubepods/pod1".to_owned() }
    );
    let exit = InitExit { header: header::<InitExit>(kind::INIT_EXIT), pid: 4_000 };
    assert_eq!(kind_of(exit.as_bytes()), KernelEventKind::InitExit { pid: 4_000 });
}

fn oom_kill(fields: u32, memcg_hierarchy: u32, levels: &[Level]) -> OomKill {
    let victim = raw_victim(fields, memcg_hierarchy, levels);
    OomKill { header: header::<OomKill>(kind::OOM_KILL), victim }
}

fn raw_victim(fields: u32, memcg_hierarchy: u32, levels: &[Level]) -> Victim {
    let mut victim = Victim {
        pid: 42,
        uid: 1000,
        fields,
        oom_score_adj: -997,
        comm: [0; COMM_LEN],
        total_vm_bytes: 5,
        anon_rss_bytes: 4,
        file_rss_bytes: 3,
        shmem_rss_bytes: 2,
        pgtables_bytes: 1,
        cgroup: 11,
        memcg_hierarchy,
        level_count: levels.len() as u32,
        levels: [Level { id: 0, usage_bytes: 0, limit_pages: 0 }; MAX_LEVELS],
    };
    victim.comm[..4].copy_from_slice(b"tail");
    victim.levels[..levels.len()].copy_from_slice(levels);
    victim
}

fn decoded(record: &OomKill) -> OomVictim {
    match kind_of(record.as_bytes()) {
        KernelEventKind::OomKill(victim) => *victim,
        other => panic!("not an OomKill: {other:?}"),
    }
}

#[test]
fn a_victim_with_everything() {
    let levels = [
        Level { id: 11, usage_bytes: 8192, limit_pages: 2 },
        Level { id: 1, usage_bytes: 1 << 30, limit_pages: i64::MAX as u64 / PAGE },
    ];
    let victim = decoded(&oom_kill(u32::MAX, 4, &levels));
    assert_eq!((victim.pid, victim.comm.as_deref()), (42, Some("tail")));
    assert_eq!((victim.uid, victim.oom_score_adj), (Some(1000), Some(-997)));
    assert_eq!((victim.total_vm_bytes, victim.anon_rss_bytes), (Some(5), Some(4)));
    assert_eq!((victim.file_rss_bytes, victim.shmem_rss_bytes), (Some(3), Some(2)));
    assert_eq!((victim.pgtables_bytes, victim.cgroup), (Some(1), Some(unified_id(11))));
    let found: Vec<_> = victim
        .levels
        .iter()
        .map(|l| (l.cgroup.hierarchy, l.cgroup.id, l.usage_bytes, l.limit_bytes))
        .collect();
    assert_eq!(found, [(Hierarchy::MemoryV1, 11, 8192, Some(8192)), (Hierarchy::MemoryV1, 1, 1 << 30, None)]);
}

#[test]
fn a_victim_of_which_only_the_pid_is_known() {
    let victim = decoded(&oom_kill(0, 0, &[]));
    let nothing = OomVictim {
        pid: 42,
        comm: None,
        uid: None,
        oom_score_adj: None,
        total_vm_bytes: None,
        anon_rss_bytes: None,
        file_rss_bytes: None,
        shmem_rss_bytes: None,
        pgtables_bytes: None,
        cgroup: None,
        levels: Vec::new(),
    };
    assert_eq!(victim, nothing);
}

fn oom_begin(scope: u32, constraint: u32) -> OomBegin {
    let level = Level { id: 11, usage_bytes: 4096, limit_pages: 7 };
    OomBegin {
        header: header::<OomBegin>(kind::OOM_BEGIN),
        memcg: Level { id: 9, usage_bytes: 8192, limit_pages: 2 },
        total_pages: 2,
        scope,
        memcg_hierarchy: 4,
        order: -1,
        constraint,
        chosen: raw_victim(u32::MAX, 4, &[level]),
    }
}

#[test]
fn the_beginning_of_a_kill() {
    let memcg = |id| CgroupId { hierarchy: Hierarchy::MemoryV1, id };
    let limited = MemcgLevel { cgroup: memcg(9), usage_bytes: 8192, limit_bytes: Some(8192) };
    for (scope, constraint, expected) in [
        (oom_scope::GLOBAL, 0, (OomScope::Global, OomConstraint::None)),
        (oom_scope::GLOBAL, 1, (OomScope::Global, OomConstraint::Cpuset)),
        (oom_scope::GLOBAL, 2, (OomScope::Global, OomConstraint::MemoryPolicy)),
        (oom_scope::MEMCG, 3, (OomScope::Memcg(limited), OomConstraint::Memcg)),
        (oom_scope::UNKNOWN, 4, (OomScope::Unknown, OomConstraint::Unknown(4))),
        (77, 3, (OomScope::Unknown, OomConstraint::Memcg)),
    ] {
        let KernelEventKind::OomBegin(begin) = kind_of(oom_begin(scope, constraint).as_bytes()) else {
            panic!("not an OomBegin");
        };
        assert_eq!((begin.scope, begin.constraint), expected);
        assert_eq!((begin.chosen.pid, begin.chosen.cgroup), (42, Some(unified_id(11))));
        assert_eq!((begin.total_bytes, begin.order), (8192, -1));
        let chosen = MemcgLevel { cgroup: memcg(11), usage_bytes: 4096, limit_bytes: Some(7 * PAGE) };
        assert_eq!(begin.chosen.levels, [chosen]);
        assert_eq!((begin.chosen.comm.as_deref(), begin.chosen.anon_rss_bytes), (Some("tail"), Some(4)));
    }
    let mut unreadable = oom_begin(oom_scope::GLOBAL, 0);
    unreadable.chosen = raw_victim(0, 0, &[]);
    let KernelEventKind::OomBegin(begin) = kind_of(unreadable.as_bytes()) else {
        panic!("not an OomBegin");
    };
    assert_eq!((begin.chosen.cgroup, begin.chosen.levels.len()), (None, 0));
    assert_eq!(begin.chosen.anon_rss_bytes, None);
}

#[test]
fn memcgs_at_their_limits() {
    let pressure = |kind| MemcgPressure {
        header: header::<MemcgPressure>(kind),
        memcg: Level { id: 9, usage_bytes: 8192, limit_pages: 2 },
        events: 3,
        hierarchy: 0,
        reserved: 0,
    };
    let (memcg, events) =
        (MemcgLevel { cgroup: unified_id(9), usage_bytes: 8192, limit_bytes: Some(8192) }, 3);
    for (kind, expected) in [
        (kind::LIMIT_RECLAIM, KernelEventKind::LimitReclaim { memcg, events }),
        (kind::OVER_HIGH, KernelEventKind::OverHigh { memcg, events }),
        (kind::THROTTLED, KernelEventKind::Throttled { memcg, events }),
    ] {
        assert_eq!(kind_of(pressure(kind).as_bytes()), expected);
    }
    let forecast = ChargeForecast {
        header: header::<ChargeForecast>(kind::CHARGE_FORECAST),
        memcg: Level { id: 9, usage_bytes: 4096, limit_pages: 2 },
        grown_bytes: 4096,
        window_ns: 1_000_000,
        hierarchy: 4,
        reserved: 0,
    };
    let cgroup = CgroupId { hierarchy: Hierarchy::MemoryV1, id: 9 };
    let memcg = MemcgLevel { cgroup, usage_bytes: 4096, limit_bytes: Some(8192) };
    let window = Duration::from_millis(1);
    assert_eq!(
        kind_of(forecast.as_bytes()),
        KernelEventKind::ChargeForecast { memcg, grown_bytes: 4096, window }
    );
}

#[test]
fn more_levels_than_there_is_room_for() {
    let mut record = oom_kill(0, 0, &[]);
    record.victim.level_count = u32::MAX;
    assert_eq!(decoded(&record).levels.len(), MAX_LEVELS);
}

#[test]
fn what_is_no_record() {
    let check = |bytes: &[u8], expected| assert_eq!(decode(bytes, Mono(1), PAGE), Err(expected));
    check(&[], Undecodable::TooShort { kind: 0, len: 0 });
    check(header::<Header>(999).as_bytes(), Undecodable::UnknownKind(999));
    for kind in kind::OOM_KILL..=kind::CHARGE_FORECAST {
        check(header::<Header>(kind).as_bytes(), Undecodable::TooShort { kind, len: 16 });
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(kind in 0u32..20, body in prop::collection::vec(any::<u8>(), 0..600), page_size in 0u64..65_536) {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&body);
        let _ = decode(&bytes, Mono(0), page_size);
    }
}
