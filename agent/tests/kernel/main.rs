//! The eBPF programs against the running kernel: a process is driven into its cgroup's limit and every
//! record about it must arrive with the right ids; and each way of having less than a whole kernel is
//! survived. Root is needed, as for all of the project's system tests.

mod cgroup;
mod hog;
mod limits;
mod log;
mod matrix;
mod ring;

use std::fs;
use std::io::BufRead as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use cgroup::TestCgroup;
use hog::Hog;
use oomlet::kernel::{Kernel, Options, ProgramState, RingReader, layout, tracefs};
use oomlet_core::signal::{KernelEvent, KernelEventKind, OomVictim};
use oomlet_ebpf_common::layout::ABSENT;

const LIMIT_BYTES: u64 = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Reads until `enough` says so.
async fn collect(
    ring: &mut RingReader,
    events: &mut Vec<KernelEvent>,
    enough: impl Fn(&[KernelEvent]) -> bool,
) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !enough(events) {
        let batch = ring.next_batch(events, 64);
        match tokio::time::timeout_at(deadline, batch).await {
            Ok(read) => read.expect("the ring buffer can be read"),
            Err(_) => panic!("not all records came within {PATIENCE:?}; came: {events:#?}"),
        }
    }
}

fn any(events: &[KernelEvent], wanted: impl Fn(&KernelEventKind) -> bool) -> bool {
    events.iter().any(|event| wanted(&event.kind))
}

/// The first victim that is the right one. Other tests' hogs may be there as well.
fn victim_of(events: &[KernelEvent], known: impl Fn(&OomVictim) -> bool) -> Option<OomVictim> {
    events.iter().find_map(|event| match &event.kind {
        KernelEventKind::OomKill(victim) if known(victim) => Some((**victim).clone()),
        _ => None,
    })
}

/// Old kernels' plain tracepoint tells a pid and nothing else.
fn plain_tracepoint_tells_more_than_a_pid() -> bool {
    let tracefs = tracefs::find_or_mount(None).expect("root is needed");
    let format = tracefs::format(&tracefs, "oom", "mark_victim").expect("every kernel has it");
    layout::mark_victim_format(&format).comm != ABSENT
}

/// What both the plain and the typed tracepoint say of `tail` when it has filled [`LIMIT_BYTES`].
fn assert_is_the_hog(victim: &OomVictim) {
    println!("{victim:#?}");
    assert_eq!(victim.comm.as_deref(), Some("tail"));
    assert!(victim.anon_rss_bytes.is_some_and(|bytes| bytes > LIMIT_BYTES / 2 && bytes <= LIMIT_BYTES));
    assert!(victim.total_vm_bytes >= victim.anon_rss_bytes);
    assert!(victim.pgtables_bytes.is_some_and(|bytes| bytes > 0));
    assert_eq!((victim.uid, victim.oom_score_adj), (Some(0), Some(0)));
}

fn state<'a>(kernel: &'a Kernel, name: &str) -> &'a ProgramState {
    let report = kernel.programs().iter().find(|p| p.name == name);
    &report.unwrap_or_else(|| panic!("no program {name}")).state
}

fn print_programs(kernel: &Kernel) {
    println!("tier {}", kernel.tier());
    for program in kernel.programs() {
        println!("{:22} tier {} {:42} {:?}", program.name, program.tier, program.hook, program.state);
        if let Some(why) = &program.passed_over {
            println!("{:22} passed over: {why}", "");
        }
    }
}

fn print_latency(events: &[KernelEvent]) {
    let mut latencies: Vec<u128> = events
        .iter()
        .filter(|event| !matches!(event.kind, KernelEventKind::Lost { .. }))
        .map(|event| event.read_at.since(event.at).as_nanos())
        .collect();
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get((latencies.len().saturating_sub(1)) * percent / 100);
    println!("{} records, ns from kernel to reader: p50 {:?} p99 {:?}", latencies.len(), at(50), at(99));
}

#[test]
fn a_hog_is_seen_from_its_first_growth_to_its_end() {
    runtime().block_on(async {
        let mut kernel = Kernel::load(&Options::default());
        kernel.attach_logger();
        let mut ring = kernel.ring().expect("the first call gets it");
        assert!(kernel.ring().is_none(), "there is one reader");

        let cgroup = TestCgroup::make("hog");
        cgroup.limit(LIMIT_BYTES);
        let (memory_id, unified_id) = (cgroup.memory_id(), cgroup.unified_id());
        let mut hog = Hog::ready();
        cgroup.enter(hog.pid());
        kernel.watch_init(hog.pid()).expect("the exit program is loaded");
        hog.go();

        let mut events = Vec::new();
        let init_ended =
            |events: &[KernelEvent]| any(events, |k| *k == KernelEventKind::InitExit { pid: hog.pid() });
        collect(&mut ring, &mut events, init_ended).await;
        cgroup.remove();
        collect(&mut ring, &mut events, |events| {
            [memory_id, unified_id].iter().all(|id| {
                any(events, |k| matches!(k, KernelEventKind::CgroupRemoved { cgroup, .. } if cgroup == id))
            })
        })
        .await;
        print_latency(&events);

        for id in [memory_id, unified_id] {
            let made = |k: &KernelEventKind| {
                matches!(k, KernelEventKind::CgroupMade { cgroup: made, path } if *made == id && *path == cgroup.path)
            };
            assert!(any(&events, made), "no CgroupMade of {id:?}");
        }
        assert!(any(&events, |k| {
            matches!(k, KernelEventKind::Growth { cgroup, faults, .. } if *cgroup == unified_id && *faults >= 256)
        }));
        assert!(any(&events, |k| {
            matches!(k, KernelEventKind::MemcgReclaim { cgroup, events, .. } if *cgroup == unified_id && *events > 0)
        }));
        assert_eq!(kernel.lost_records(), 0);

        assert!(matrix::check(&kernel, "mark_victim"));
        if kernel.programs().iter().all(|p| p.hook != "tp_btf:mark_victim") {
            let victim = victim_of(&events, |_| true).expect("an OomKill");
            assert_eq!((victim.cgroup, victim.levels.len()), (None, 0), "the plain tracepoint knows none");
            return;
        }
        let in_cgroup = |v: &OomVictim| v.cgroup == Some(unified_id);
        let victim = victim_of(&events, in_cgroup).expect("an OomKill in the cgroup");
        assert_is_the_hog(&victim);
        let (leaf, ancestors) = victim.levels.split_first().expect("the memcg and its ancestors");
        assert_eq!((leaf.cgroup, leaf.limit_bytes), (memory_id, Some(LIMIT_BYTES)));
        assert!(leaf.usage_bytes <= LIMIT_BYTES && leaf.usage_bytes > LIMIT_BYTES - (1 << 20), "{leaf:?}");
        assert!(!ancestors.is_empty(), "at least the root is above it");
        assert!(ancestors.iter().all(|level| level.cgroup.hierarchy == memory_id.hierarchy));
    });
}

#[test]
fn without_btf_the_plain_tracepoint_reports_the_victim() {
    runtime().block_on(async {
        let mut kernel =
            Kernel::load(&Options { btf_path: PathBuf::from("/nonexistent/btf"), ..Options::default() });
        print_programs(&kernel);
        assert_eq!(kernel.tier(), 1);
        let report = kernel.programs().iter().find(|p| p.name == "mark_victim").expect("in the table");
        assert_eq!(report.state, ProgramState::Loaded);
        assert!(
            report.passed_over.as_ref().is_some_and(|why| why.contains("/nonexistent/btf")),
            "{report:?}"
        );
        let mut ring = kernel.ring().expect("programs are loaded");

        let cgroup = TestCgroup::make("plain");
        cgroup.limit(LIMIT_BYTES);
        let mut hog = Hog::ready();
        cgroup.enter(hog.pid());
        kernel.watch_init(hog.pid()).expect("the exit program needs no BTF");
        hog.go();
        let mut events = Vec::new();
        // Another test's victim may be there as well; both come from the same tracepoint.
        let init_ended =
            |events: &[KernelEvent]| any(events, |k| *k == KernelEventKind::InitExit { pid: hog.pid() });
        collect(&mut ring, &mut events, init_ended).await;
        let victim = victim_of(&events, |_| true).expect("an OomKill");
        if plain_tracepoint_tells_more_than_a_pid() {
            assert_is_the_hog(&victim);
        } else {
            assert_eq!((victim.comm, victim.anon_rss_bytes, victim.uid), (None, None, None));
            assert!(victim.pid > 0);
        }
        assert_eq!((victim.cgroup, victim.levels.len()), (None, 0));
        for program in kernel.programs().iter().filter(|p| p.hook.starts_with("fentry:")) {
            let ProgramState::Unavailable(why) = &program.state else {
                panic!("{} is loaded without BTF", program.name);
            };
            assert!(why.contains("/nonexistent/btf"), "{program:?}");
        }
    });
}

#[test]
fn without_tracefs_the_rest_is_loaded() {
    let kernel =
        Kernel::load(&Options { tracefs: Some(PathBuf::from("/nonexistent/tracing")), ..Options::default() });
    print_programs(&kernel);
    for name in ["mark_victim", "memcg_reclaim_begin", "page_fault_sample", "process_exit"] {
        assert_eq!(*state(&kernel, name), ProgramState::Loaded, "{name}");
    }
    for name in ["cgroup_mkdir", "cgroup_rmdir", "reclaim_retry_zone"] {
        let ProgramState::Unavailable(why) = state(&kernel, name) else {
            panic!("{name} is loaded without tracefs");
        };
        assert!(why.contains("/nonexistent/tracing"), "{why}");
    }
    assert_eq!(kernel.tier(), 2);
}

#[test]
fn a_process_that_is_no_longer_watched_ends_unreported() {
    runtime().block_on(async {
        let mut kernel = Kernel::load(&Options::default());
        let mut ring = kernel.ring().expect("programs are loaded");
        let (forgotten, watched) = (Hog::ready(), Hog::ready());
        for hog in [&forgotten, &watched] {
            kernel.watch_init(hog.pid()).expect("the exit program is loaded");
        }
        let (forgotten_pid, watched_pid) = (forgotten.pid(), watched.pid());
        kernel.unwatch_init(forgotten_pid);
        drop(forgotten);
        drop(watched);
        let mut events = Vec::new();
        collect(&mut ring, &mut events, |events| {
            any(events, |k| *k == KernelEventKind::InitExit { pid: watched_pid })
        })
        .await;
        assert!(!any(&events, |k| *k == KernelEventKind::InitExit { pid: forgotten_pid }));
    });
}

/// Runs itself once more, as a process whose threads come and go.
#[test]
fn a_thread_that_ends_is_not_the_process() {
    const STAGES: &str = "OOMLET_TEST_THREADS";
    let wait = || std::io::stdin().read_line(&mut String::new()).expect("the parent writes a line");
    if std::env::var_os(STAGES).is_some() {
        wait();
        for _ in 0..4 {
            std::thread::spawn(|| ()).join().expect("an empty thread ends");
        }
        println!("joined");
        wait();
        return;
    }
    runtime().block_on(async {
        let mut kernel = Kernel::load(&Options::default());
        let mut ring = kernel.ring().expect("programs are loaded");
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "a_thread_that_ends_is_not_the_process", "--nocapture"])
            .env(STAGES, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = Hog(child.expect("run this test again"));
        kernel.watch_init(process.pid()).expect("the exit program is loaded");
        let ended = KernelEventKind::InitExit { pid: process.pid() };
        process.go();
        let output = std::io::BufReader::new(process.0.stdout.take().expect("piped"));
        let joined = output.lines().map_while(Result::ok).any(|line| line.contains("joined"));
        assert!(joined, "the child says when its threads are gone");

        // A record that comes after theirs would have.
        let marker = TestCgroup::make("marker");
        let id = marker.unified_id();
        let mut events = Vec::new();
        collect(&mut ring, &mut events, |events| {
            any(events, |k| matches!(k, KernelEventKind::CgroupMade { cgroup, .. } if *cgroup == id))
        })
        .await;
        assert!(!any(&events, |k| *k == ended), "its threads ended, not the process");
        process.go();
        collect(&mut ring, &mut events, |events| any(events, |k| *k == ended)).await;
    });
}

/// Runs itself once more as `nobody`.
#[test]
fn without_root_nothing_is_loaded_and_nothing_fails() {
    if rustix::process::geteuid().is_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let copy = dir.path().join("kernel-test");
        fs::copy(std::env::current_exe().expect("this test"), &copy).expect("copy this test");
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let output = Command::new(&copy)
            .args(["--exact", "without_root_nothing_is_loaded_and_nothing_fails", "--nocapture"])
            .current_dir("/")
            .uid(65534)
            .gid(65534)
            .output()
            .expect("run as nobody");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let mut kernel = Kernel::load(&Options::default());
    print_programs(&kernel);
    assert_eq!(kernel.tier(), 0);
    assert!(kernel.ring().is_none());
    assert_eq!(kernel.lost_records(), 0);
    for program in kernel.programs() {
        let ProgramState::Unavailable(why) = &program.state else {
            panic!("{} was loaded by nobody", program.name);
        };
        assert!(why.contains("CAP_BPF"), "{why}");
    }
}
