//! The programs on kernel functions, each against what it is there for: a limit reached, a mark passed, a kill begun,
//! a limit foreseen. The limit is a parent's, so that a record that names the cgroup of the task that charged, as the
//! tracepoints do, is not mistaken for one that names whose limit it is.

use std::fs;

use oomlet::kernel::{Kernel, Options, RingReader};
use oomlet_core::signal::{
    CgroupId, KernelEvent, KernelEventKind, MemcgLevel, OomBegin, OomConstraint, OomScope,
};

use crate::cgroup::TestCgroup;
use crate::hog::Hog;
use crate::{LIMIT_BYTES, any, collect, matrix, runtime};

/// A cgroup with a limit and one inside it without, which the hog is in.
struct Nested {
    // Dropped in this order: the inner one goes first.
    child: TestCgroup,
    parent: TestCgroup,
}

impl Nested {
    fn make(name: &str) -> Nested {
        let parent = TestCgroup::make(name);
        let child = parent.child("inner");
        Nested { child, parent }
    }
}

/// The kernel with its programs, if it has all of `programs` loaded; if not, it was asserted that it must not.
fn kernel_with(programs: &[&str]) -> Option<(Kernel, RingReader)> {
    let mut kernel = Kernel::load(&Options::default());
    let loaded = programs.iter().all(|program| matrix::check(&kernel, program));
    let ring = kernel.ring().expect("programs are loaded");
    loaded.then_some((kernel, ring))
}

fn ended(hog: &Hog) -> impl Fn(&[KernelEvent]) -> bool {
    let pid = hog.pid();
    move |events| any(events, |k| *k == KernelEventKind::InitExit { pid })
}

/// Lets a hog run into the limit above it, and gives back all that was seen until its shell had ended.
async fn run_into(kernel: &mut Kernel, ring: &mut RingReader, cgroup: &TestCgroup) -> Vec<KernelEvent> {
    let mut hog = Hog::ready();
    cgroup.enter(hog.pid());
    kernel.watch_init(hog.pid()).expect("the exit program is loaded");
    hog.go();
    let mut events = Vec::new();
    collect(ring, &mut events, ended(&hog)).await;
    events
}

fn begin_in(events: &[KernelEvent], memcg: CgroupId) -> Option<(&KernelEvent, &OomBegin)> {
    events.iter().find_map(|event| match &event.kind {
        KernelEventKind::OomBegin(begin)
            if matches!(begin.scope, OomScope::Memcg(level) if level.cgroup == memcg) =>
        {
            Some((event, begin.as_ref()))
        }
        _ => None,
    })
}

/// The level is at its limit but for what the failed charge gave back.
fn assert_full(level: &MemcgLevel) {
    let room = level.limit_bytes.expect("a limit").saturating_sub(level.usage_bytes);
    assert!(level.limit_bytes == Some(LIMIT_BYTES) && room < 1 << 20, "{level:?}");
}

#[test]
fn a_kill_says_whose_limit_it_is_about() {
    let Some((mut kernel, mut ring)) = kernel_with(&["oom_kill_process", "mark_victim"]) else { return };
    runtime().block_on(async {
        let nested = Nested::make("begin");
        nested.parent.limit(LIMIT_BYTES);
        let events = run_into(&mut kernel, &mut ring, &nested.child).await;
        let (at, begin) = begin_in(&events, nested.parent.memory_id()).expect("an OomBegin of the parent");
        println!("{begin:#?}");
        let OomScope::Memcg(level) = begin.scope else { panic!("not a memcg's: {begin:?}") };
        assert_full(&level);
        assert_eq!(begin.constraint, OomConstraint::Memcg);
        assert!(begin.total_bytes >= LIMIT_BYTES && begin.order >= 0, "{begin:?}");
        assert_eq!(begin.chosen.cgroup, Some(nested.child.unified_id()));
        let branch: Vec<CgroupId> = begin.chosen.levels.iter().map(|l| l.cgroup).collect();
        assert_eq!(branch[..2], [nested.child.memory_id(), nested.parent.memory_id()]);
        assert_eq!(begin.chosen.levels[0].limit_bytes, None);
        assert_full(&begin.chosen.levels[1]);

        let kill = events.iter().find(
            |event| matches!(&event.kind, KernelEventKind::OomKill(victim) if victim.pid == begin.chosen.pid),
        );
        assert!(kill.is_some_and(|kill| kill.at >= at.at), "the victim that was announced");
    });
}

/// SysRq has the OOM killer act as it does when the node has no memory left, without the node having to run out of it.
#[test]
fn a_kill_that_no_limit_is_the_cause_of_is_told_as_global() {
    let Some((mut kernel, mut ring)) = kernel_with(&["oom_kill_process", "mark_victim"]) else { return };
    let hog = Hog::first_to_be_chosen();
    if let Some(other) = more_likely_victim(hog.pid()) {
        println!("not tried: the OOM killer could choose {other}, which is not this test's");
        return;
    }
    kernel.watch_init(hog.pid()).expect("the exit program is loaded");
    fs::write("/proc/sysrq-trigger", "f").expect("SysRq");
    runtime().block_on(async {
        let mut events = Vec::new();
        collect(&mut ring, &mut events, ended(&hog)).await;
        let begin = events.iter().find_map(|event| match &event.kind {
            KernelEventKind::OomBegin(begin) if begin.chosen.pid == hog.pid() => Some((event, begin)),
            _ => None,
        });
        let (at, begin) = begin.expect("an OomBegin with the hog chosen");
        println!("{begin:#?}");
        assert_eq!((begin.scope, begin.constraint), (OomScope::Global, OomConstraint::None));
        assert_eq!(begin.order, -1, "asked for by SysRq");
        assert!(begin.total_bytes > LIMIT_BYTES, "all of the node's memory");
        assert!(!begin.chosen.levels.is_empty());
        let killed = |event: &&KernelEvent| matches!(&event.kind, KernelEventKind::OomKill(victim) if victim.pid == hog.pid());
        assert!(events.iter().find(killed).is_some_and(|kill| kill.at >= at.at));
    });
}

/// Another process whose `oom_score_adj` brings it near the hog's.
fn more_likely_victim(hog: u32) -> Option<String> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != hog).find_map(|pid| {
        let adj = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?;
        (adj.trim().parse::<i32>().ok()? > 500).then(|| format!("pid {pid}"))
    })
}

#[test]
fn reclaim_names_the_cgroup_whose_limit_it_is() {
    let Some((mut kernel, mut ring)) = kernel_with(&["try_to_free_mem_cgroup_pages"]) else { return };
    runtime().block_on(async {
        let nested = Nested::make("reclaim");
        nested.parent.limit(LIMIT_BYTES);
        let (parent, child) = (nested.parent.memory_id(), nested.child.memory_id());
        let events = run_into(&mut kernel, &mut ring, &nested.child).await;
        let reclaim = events.iter().find_map(|event| match &event.kind {
            KernelEventKind::LimitReclaim { memcg, events } if memcg.cgroup == parent => {
                Some((*memcg, *events))
            }
            _ => None,
        });
        let (level, count) = reclaim.expect("reclaim because of the parent's limit");
        println!("{count} at {level:?}");
        assert_full(&level);
        assert!(count > 0);
        let of_child = |k: &KernelEventKind| {
            matches!(k, KernelEventKind::LimitReclaim { memcg, .. } if memcg.cgroup == child)
        };
        assert!(!any(&events, of_child), "the child has no limit");
    });
}

#[test]
fn above_memory_high_tasks_are_slowed_down() {
    let mut kernel = Kernel::load(&Options::default());
    let mut ring = kernel.ring().expect("programs are loaded");
    let reclaims = matrix::check(&kernel, "reclaim_high");
    let throttles = matrix::check(&kernel, "mem_cgroup_handle_over_high");
    let nested = Nested::make("high");
    if nested.parent.is_v1() {
        assert!(!nested.parent.memory.join("memory.high").exists(), "v1 has no such mark");
        return;
    }
    nested.parent.throttle_above(LIMIT_BYTES);
    let parent = nested.parent.memory_id();
    runtime().block_on(async {
        let mut hog = Hog::ready();
        nested.child.enter(hog.pid());
        hog.go();
        let of_parent = |memcg: &MemcgLevel| {
            memcg.cgroup == parent
                && memcg.limit_bytes == Some(LIMIT_BYTES)
                && memcg.usage_bytes > LIMIT_BYTES
        };
        let reclaim = |k: &KernelEventKind| matches!(k, KernelEventKind::OverHigh { memcg, events } if of_parent(memcg) && *events > 0);
        let throttle = |k: &KernelEventKind| matches!(k, KernelEventKind::Throttled { memcg, events } if of_parent(memcg) && *events > 0);
        let mut events = Vec::new();
        collect(&mut ring, &mut events, |events| {
            (!reclaims || any(events, reclaim)) && (!throttles || any(events, throttle))
        })
        .await;
        assert_eq!((any(&events, reclaim), any(&events, throttle)), (reclaims, throttles));
        nested.child.kill();
    });
}

#[test]
fn a_watched_cgroup_is_told_of_before_it_reaches_its_limit() {
    let Some((mut kernel, mut ring)) = kernel_with(&["page_counter_try_charge", "oom_kill_process"]) else {
        return;
    };
    let forecasts = |events: &[KernelEvent], id: CgroupId| -> Vec<KernelEvent> {
        let of_it = |event: &&KernelEvent| matches!(&event.kind, KernelEventKind::ChargeForecast { memcg, .. } if memcg.cgroup == id);
        events.iter().filter(of_it).cloned().collect()
    };
    runtime().block_on(async {
        let nested = Nested::make("charge");
        nested.parent.limit(LIMIT_BYTES);
        let (parent, child) = (nested.parent.memory_id(), nested.child.memory_id());
        let events = run_into(&mut kernel, &mut ring, &nested.child).await;
        assert_eq!(forecasts(&events, parent), [], "nobody asked");

        kernel.watch_memcg(parent).expect("there is room");
        kernel.watch_memcg(parent).expect("twice is fine");
        let events = run_into(&mut kernel, &mut ring, &nested.child).await;
        let told = forecasts(&events, parent);
        let first = told.first().expect("a forecast of the parent");
        let KernelEventKind::ChargeForecast { memcg, grown_bytes, window } = &first.kind else {
            panic!("not a forecast: {first:?}");
        };
        println!("{} forecasts, the first: {grown_bytes} bytes in {window:?}, {memcg:?}", told.len());
        assert_eq!(memcg.limit_bytes, Some(LIMIT_BYTES));
        assert!(memcg.usage_bytes <= LIMIT_BYTES && *grown_bytes <= memcg.usage_bytes, "{first:?}");
        assert!(!window.is_zero() && *grown_bytes >= 1 << 20, "{first:?}");
        // In its own numbers: at that growth the rest is gone within the horizon, or hardly any is left.
        let headroom = LIMIT_BYTES - memcg.usage_bytes;
        let left_ms = u128::from(headroom) * window.as_millis().max(1) / u128::from(*grown_bytes);
        assert!(left_ms <= 501 || headroom < LIMIT_BYTES / 64, "{first:?}");
        let (kill, _) = begin_in(&events, parent).expect("the hog ran on into the limit");
        assert!(first.at < kill.at, "before the kernel kills");
        assert_eq!(forecasts(&events, child), [], "only what is watched, and it has no limit");

        kernel.unwatch_memcg(parent);
        kernel.unwatch_memcg(parent);
        let events = run_into(&mut kernel, &mut ring, &nested.child).await;
        assert_eq!(forecasts(&events, parent), [], "nobody asks any more");
    });
}
