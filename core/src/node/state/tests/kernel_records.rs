//! What the eBPF programs' records lead to: kills explained, hints that ask for numbers.

use super::*;
use crate::node::action::Action;
use crate::signal::OomBegin;
use crate::signal::attribution::Target;
use crate::signal::{CgroupId, Hierarchy, MemcgLevel, OomConstraint, OomScope, OomVictim, StatAge};
use crate::trace::record::Record;

const PID: u32 = 4711;

fn id(id: u64) -> CgroupId {
    CgroupId { hierarchy: Hierarchy::MemoryV1, id }
}

/// Usage and limit in MiB.
fn level(n: u64, usage: u64, limit: Option<u64>) -> MemcgLevel {
    MemcgLevel { cgroup: id(n), usage_bytes: usage * MIB, limit_bytes: limit.map(|l| l * MIB) }
}

/// Pod `hog` with its container in cgroup 7, itself in 6, kubepods 5.
fn node_with_a_hog() -> Node {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("hog", "1")]));
    node.step(synced("1"));
    node.step(Event::Cgroups(vec![
        (id(7), Target::Container("1".into(), "c".into())),
        (id(6), Target::Pod("1".into())),
        (id(5), Target::Kubepods),
    ]));
    node.records();
    node
}

fn victim(pid: u32, levels: &[MemcgLevel]) -> KernelEventKind {
    KernelEventKind::OomKill(Box::new(OomVictim {
        comm: Some("leak".into()),
        anon_rss_bytes: Some(60 * MIB),
        ..bare(pid, levels)
    }))
}

/// Of whom only the pid is known, and where it was.
fn bare(pid: u32, levels: &[MemcgLevel]) -> OomVictim {
    OomVictim {
        pid,
        comm: None,
        uid: None,
        oom_score_adj: None,
        total_vm_bytes: None,
        anon_rss_bytes: None,
        file_rss_bytes: None,
        shmem_rss_bytes: None,
        pgtables_bytes: None,
        cgroup: None,
        levels: levels.to_vec(),
    }
}

fn begin(scope: OomScope, chosen_levels: &[MemcgLevel]) -> KernelEventKind {
    KernelEventKind::OomBegin(Box::new(OomBegin {
        scope,
        chosen: OomVictim { anon_rss_bytes: Some(61 * MIB), ..bare(PID, chosen_levels) },
        total_bytes: 64 * MIB,
        order: 0,
        constraint: OomConstraint::None,
    }))
}

/// The records of one kernel event.
fn told(node: &mut Node, kind: KernelEventKind) -> Vec<Record> {
    node.step(Event::Kernel(KernelEvent { at: node.now, read_at: node.now, kind }));
    node.state.take_records()
}

fn kill(node: &mut Node, kind: KernelEventKind) -> Record {
    let records = told(node, kind);
    records.into_iter().find(|r| r.kind == Kind::OomKill).expect("the kill is recorded")
}

#[test]
fn an_oom_kill_names_pod_container_and_limit() {
    let mut node = node_with_a_hog();
    let levels = [level(7, 64, Some(64)), level(6, 65, None), level(5, 100, Some(300))];
    let kill = kill(&mut node, victim(PID, &levels));
    assert_eq!(kill.pod.as_ref().unwrap().name, "hog");
    assert_eq!((kill.container.as_deref(), kill.domain.as_deref()), (Some("c"), Some("container")));
    assert_eq!(kill.numbers["limit_bytes"], 64 << 20);
    assert!(kill.message.contains("the memory limit of the container, 64 MiB"), "{}", kill.message);
    assert!(!kill.numbers.contains_key("oom_global"), "nobody told");
}

/// What the kernel said when it began holds against what the levels look like a moment later.
#[test]
fn a_kill_that_was_announced_is_explained_by_it() {
    let half_full = [level(7, 32, Some(64)), level(6, 40, Some(200)), level(5, 100, Some(300))];
    let full = [level(7, 64, Some(64)), level(6, 65, Some(200)), level(5, 100, Some(300))];
    let unlimited = [level(7, 64, None), level(6, 65, None), level(5, 100, Some(300))];
    let memcg = |n| OomScope::Memcg(half_full[n]);
    let node_itself = "the node itself was out of memory (no cgroup limit)";
    let container = "the memory limit of the container, 64 MiB";
    for (what, scope, levels, domain, global, message) in [
        ("the container's limit", memcg(0), &half_full[..], "container", Some(0), container),
        ("the pod's", memcg(1), &half_full[..], "pod", Some(0), "the memory limit of the pod, 200 MiB"),
        ("kubepods'", memcg(2), &half_full[..], "kubepods", Some(0), "the memory limit of kubepods, 300 MiB"),
        (
            "a stranger's",
            OomScope::Memcg(level(99, 9, Some(9))),
            &full[..],
            "other",
            Some(0),
            "outside kubepods",
        ),
        ("none, though one is full", OomScope::Global, &full[..], "node", Some(1), node_itself),
        ("none, and none is set", OomScope::Global, &unlimited[..], "node", Some(1), node_itself),
        ("unreadable: the levels tell", OomScope::Unknown, &full[..], "container", None, container),
    ] {
        let mut node = node_with_a_hog();
        told(&mut node, begin(scope, &[]));
        let kill = kill(&mut node, victim(PID, levels));
        assert_eq!(kill.domain.as_deref(), Some(domain), "{what}");
        assert_eq!(kill.numbers.get("oom_global").copied(), global, "{what}");
        assert!(kill.message.contains(message), "{what}: {}", kill.message);
        assert_eq!(kill.pod.map(|pod| pod.name).as_deref(), Some("hog"), "{what}");
    }
}

/// `mark_victim` of old kernels passes a pid and nothing else.
#[test]
fn an_announcement_names_the_victim_where_mark_victim_does_not() {
    let mut node = node_with_a_hog();
    let levels = [level(7, 64, Some(64)), level(6, 65, None), level(5, 100, Some(300))];
    told(&mut node, begin(OomScope::Memcg(levels[0]), &levels));
    let kill = kill(&mut node, KernelEventKind::OomKill(Box::new(bare(PID, &[]))));
    assert_eq!((kill.container.as_deref(), kill.domain.as_deref()), (Some("c"), Some("container")));
    assert_eq!(kill.numbers["limit_bytes"], 64 << 20);
    assert_eq!(kill.numbers["victim_anon_rss_bytes"], 61 << 20);
}

#[test]
fn an_announcement_is_of_its_own_kill_only() {
    let levels = [level(7, 10, Some(64)), level(6, 40, None), level(5, 300, Some(300))];
    let scope = OomScope::Memcg(level(99, 9, Some(9)));
    for (what, pid, later, expected) in [
        ("its own", PID, Duration::ZERO, "other"),
        ("another process", PID + 1, Duration::ZERO, "kubepods"),
        ("the same id, much later", PID, Duration::from_secs(60), "kubepods"),
    ] {
        let mut node = node_with_a_hog();
        told(&mut node, begin(scope, &[]));
        node.now = node.now + later;
        assert_eq!(kill(&mut node, victim(pid, &levels)).domain.as_deref(), Some(expected), "{what}");
    }
    // All of a memcg is killed, and the announcement named the first.
    let mut node = node_with_a_hog();
    told(&mut node, begin(OomScope::Memcg(levels[1]), &[]));
    assert_eq!(kill(&mut node, victim(PID + 1, &levels)).domain.as_deref(), Some("pod"));
}

#[test]
fn hints_ask_for_numbers_and_are_told_of_their_domain() {
    let memcg = |n| level(n, 60, Some(64));
    let window = Duration::from_millis(2);
    let forecast = |n| KernelEventKind::ChargeForecast { memcg: memcg(n), grown_bytes: 4 * MIB, window };
    let reclaim = |n| KernelEventKind::LimitReclaim { memcg: memcg(n), events: 3 };
    let hinted = |node: &Node| {
        let read = |a: &Action| {
            matches!(a.kind, ActionKind::Memory(MemoryAction::Read { .. }))
                && a.reason == Reason::KernelSignal
        };
        plan(&node.state, node.now).iter().any(read)
    };
    for (kind, domain, container) in [
        (forecast(7), Some("container"), Some("c")),
        (forecast(6), Some("pod"), None),
        (forecast(5), Some("kubepods"), None),
        (reclaim(7), Some("container"), Some("c")),
        (KernelEventKind::OverHigh { memcg: memcg(6), events: 1 }, Some("pod"), None),
        (KernelEventKind::Throttled { memcg: memcg(7), events: 1 }, Some("container"), Some("c")),
        (begin(OomScope::Memcg(memcg(7)), &[]), Some("container"), Some("c")),
        (begin(OomScope::Global, &[]), Some("node"), None),
        // Other services of the node: numbers are read, nothing is told.
        (forecast(99), None, None),
        (reclaim(99), None, None),
        (begin(OomScope::Memcg(memcg(99)), &[]), None, None),
    ] {
        let mut node = node_with_a_hog();
        node.step(reading(node.now, Reason::SampleDue, 150 * MIB, &[("1", 0)]));
        node.state.take_records();
        node.now = node.now + Duration::from_millis(20);
        let event = KernelEvent { at: node.now, read_at: node.now, kind };
        assert!(!hinted(&node), "nothing has happened yet");
        node.state.apply(Event::Kernel(event.clone()), node.now);
        assert!(hinted(&node), "{event:?}");
        let records = node.state.take_records();
        let signal = records.iter().find(|r| r.kind == Kind::Signal);
        assert_eq!(signal.map(|r| r.domain.as_deref()), domain.map(Some), "{event:?}");
        let Some(signal) = signal else { continue };
        assert_eq!(signal.container.as_deref(), container, "{event:?}");
        assert_eq!(signal.numbers.get("limit_bytes"), (domain != Some("node")).then_some(&(64 << 20)));
    }
}

/// The container's use in MiB and its `oom_kill` counter, as read now.
fn count_kills(node: &mut Node, usage: u64, oom_kills: u64) -> Vec<Record> {
    node.now = node.now + Duration::from_millis(5);
    let Event::Reading(mut reading) = reading(node.now, Reason::SampleDue, 150 * MIB, &[("1", 0)]) else {
        panic!("not a reading");
    };
    reading.domains.push(DomainReading {
        domain: Domain::Container("1".into(), "c".into()),
        usage_bytes: usage * MIB,
        inactive_file_bytes: 0,
        active_file_bytes: 0,
        dirty_bytes: 0,
        refaults: 0,
        statistics: StatAge::New,
        limit_bytes: Some(64 * MIB),
        oom_kills,
    });
    node.step(Event::Reading(reading));
    kills(node)
}

fn kills(node: &mut Node) -> Vec<Record> {
    node.state.take_records().into_iter().filter(|r| r.kind == Kind::OomKill).collect()
}

#[test]
fn a_kill_that_only_the_counter_tells_of_is_told_with_what_was_known_then() {
    let mut node = node_with_a_hog();
    assert_eq!(count_kills(&mut node, 63, 0), []);
    assert_eq!(count_kills(&mut node, 40, 1), [], "the kernel's own record may follow");
    assert_eq!(count_kills(&mut node, 2, 1), []);
    assert!(node.state.next_wakeup() <= node.now + Duration::from_secs(1));
    node.now = node.now + Duration::from_secs(1);
    node.step(Event::Tick);
    let told = kills(&mut node);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].domain.as_deref(), told[0].container.as_deref()), (Some("container"), Some("c")));
    assert!(told[0].message.ends_with("the memory limit of the container, 64 MiB, was reached"), "{told:?}");
    node.now = node.now + Duration::from_secs(5);
    node.step(Event::Tick);
    assert_eq!(kills(&mut node), []);
}

#[test]
fn a_counter_that_is_read_before_the_kernels_record_tells_nothing_of_its_own() {
    let mut node = node_with_a_hog();
    count_kills(&mut node, 63, 0);
    assert_eq!(count_kills(&mut node, 40, 1), []);
    let levels = [level(7, 64, Some(64)), level(6, 65, None), level(5, 100, Some(300))];
    assert_eq!(kill(&mut node, victim(PID, &levels)).numbers["victim_pid"], i64::from(PID));
    node.now = node.now + Duration::from_secs(5);
    node.step(Event::Tick);
    assert_eq!(kills(&mut node), []);
}

/// The container's cgroup went before its counter was read; the pod's counter has the kill.
fn read_pod_counter(node: &mut Node, oom_kills: u64) -> Vec<Record> {
    let Event::Reading(mut reading) = reading(node.now, Reason::SampleDue, 150 * MIB, &[("1", 0)]) else {
        panic!("not a reading");
    };
    reading.domains.last_mut().expect("the pod's").oom_kills = oom_kills;
    node.step(Event::Reading(reading));
    kills(node)
}

fn exited(exit_code: i32, reason: &str) -> Event {
    let mut runtime = running("1", 42);
    let container = &mut runtime.containers[0];
    container.state = ContainerState::Exited;
    container.exit_code = exit_code;
    container.reason = reason.into();
    report("1", done(), runtime)
}

/// What comes one after the other → whether the container is OOMKilled, and how many records tell of it.
#[test]
fn the_pods_counter_tells_of_a_container_whose_cgroup_is_gone() {
    enum Said {
        Exit(i32, &'static str),
        PodCounter(u64),
        Record,
        LongAfter,
    }
    use Said::{Exit, LongAfter, PodCounter};
    for (what, said, oom_killed, records) in [
        ("exit, then counter", vec![Exit(137, "Error"), PodCounter(1)], true, 1),
        ("counter, then exit", vec![PodCounter(1), Exit(137, "Error")], true, 1),
        ("the counter does not rise", vec![Exit(137, "Error"), PodCounter(0)], false, 0),
        ("it ended by itself", vec![PodCounter(1), Exit(1, "Error")], false, 0),
        ("the kernel told", vec![Said::Record, Exit(137, "Error"), PodCounter(1)], true, 1),
        ("the kernel tells late", vec![Exit(137, "Error"), PodCounter(1), Said::Record], true, 1),
        ("the runtime tells", vec![Exit(137, "OOMKilled"), PodCounter(1)], false, 1),
        ("counter, then the runtime", vec![PodCounter(1), Exit(137, "OOMKilled")], false, 1),
        ("killed otherwise, much later", vec![PodCounter(1), LongAfter, Exit(137, "Error")], false, 0),
    ] {
        let mut node = node_with_a_hog();
        let mut told = read_pod_counter(&mut node, 0).len();
        for said in said {
            match said {
                Exit(code, reason) => {
                    node.state.apply(exited(code, reason), node.now);
                    let wanted = code == 137 && reason == "Error" && !node.killed("1-c");
                    assert_eq!(node.state.counters_wanted(), wanted, "{what}");
                    node.step(Event::Tick);
                    assert!(!node.state.counters_wanted(), "{what}: they are being read");
                }
                PodCounter(count) => told += read_pod_counter(&mut node, count).len(),
                Said::Record => {
                    kill(&mut node, victim(PID, &[level(7, 64, Some(64))]));
                    told += 1;
                }
                LongAfter => node.now = node.now + Duration::from_secs(10),
            }
        }
        told += kills(&mut node).len();
        node.now = node.now + Duration::from_secs(1);
        node.step(Event::Tick);
        told += kills(&mut node).len();
        assert_eq!((node.killed("1-c"), told), (oom_killed, records), "{what}");
    }
}
