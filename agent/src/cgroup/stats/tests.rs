use std::fs;
use std::time::{Duration, Instant};

use super::*;
use crate::cgroup::test_tree::TestTree;
use oomlet_core::pod::PodUid;
use oomlet_core::pod::qos::{CgroupResources, QosClass};
use oomlet_core::signal::StatAge;

fn none() -> CgroupResources {
    CgroupResources::default()
}

fn read(files: &mut MemoryFiles, scope: ReadScope) -> MemoryReading {
    files.read(scope, Reason::SampleDue, None).unwrap()
}

#[test]
fn node_and_kubepods() {
    let tree = TestTree::new(&CgroupResources { memory_limit_bytes: Some(1 << 30), ..none() });
    let mut files = MemoryFiles::open(&tree.driver).unwrap();
    let before = clock::now();
    let reading = files.read(ReadScope::Top, Reason::KernelSignal, Some(Mono(7))).unwrap();
    assert!(before <= reading.at && reading.at < reading.done_at);
    assert_eq!((reading.why, reading.caused_by), (Reason::KernelSignal, Some(Mono(7))));
    let [node, kubepods] = reading.domains.as_slice() else { panic!("{reading:?}") };
    assert_eq!((&node.domain, &kubepods.domain), (&Domain::Node, &Domain::Kubepods));
    let total = node.limit_bytes.unwrap();
    assert!(node.usage_bytes > 1 << 20 && node.usage_bytes < total, "{node:?}");
    assert!(node.inactive_file_bytes < node.usage_bytes, "{node:?}");
    assert!(reading.mem_available_bytes > 0 && reading.mem_available_bytes < total);
    assert_eq!((kubepods.limit_bytes, kubepods.oom_kills), (Some(1 << 30), 0));
    assert!(kubepods.usage_bytes < 64 << 20, "{kubepods:?}");
}

#[test]
fn pods_come_and_go() {
    let tree = TestTree::new(&none());
    let (a, b) = (PodUid::from("a"), PodUid::from("b"));
    let mut files = MemoryFiles::open(&tree.driver).unwrap();
    for uid in [&a, &b] {
        tree.driver.ensure_pod(uid, QosClass::Burstable, &none()).unwrap();
        files.watch(Domain::Pod(uid.clone()), &tree.driver.pod_dir(uid, QosClass::Burstable).memory).unwrap();
    }
    let container = tree.driver.pod_dir(&a, QosClass::Burstable).memory.join("c1");
    if tree.driver.memory_hierarchy() == Hierarchy::Unified {
        // The runtime's part.
        fs::write(container.with_file_name("cgroup.subtree_control"), "+memory").unwrap();
    }
    fs::create_dir(&container).unwrap();
    let c1 = Domain::Container(a.clone(), "app".into());
    files.watch(c1.clone(), &container).unwrap();
    files.watch(c1.clone(), &container).unwrap();
    assert_eq!(read(&mut files, ReadScope::AllPods).domains.len(), 5, "watching twice is watching once");
    assert_eq!(read(&mut files, ReadScope::Top).domains.len(), 2);
    let some = [c1.clone(), Domain::Pod("unknown".into())];
    let these = files.read_these(&some, Reason::SampleDue, None).unwrap();
    let read_of: Vec<_> = these.domains.into_iter().map(|r| r.domain).collect();
    assert_eq!(read_of, [Domain::Node, Domain::Kubepods, c1.clone()]);

    // Removed and made again under the same name: read on, from the new files.
    tree.driver.remove_pod(&b, QosClass::Burstable).unwrap();
    tree.driver.ensure_pod(&b, QosClass::Burstable, &none()).unwrap();
    assert!(read(&mut files, ReadScope::AllPods).of(&Domain::Pod(b.clone())).is_some());

    tree.driver.remove_pod(&a, QosClass::Burstable).unwrap();
    let reading = read(&mut files, ReadScope::AllPods);
    assert!(reading.of(&Domain::Pod(a.clone())).is_none() && reading.of(&c1).is_none());
    assert!(!files.is_watched(&c1) && files.is_watched(&Domain::Pod(b.clone())));
    files.unwatch(&Domain::Pod(b));
    assert_eq!(read(&mut files, ReadScope::AllPods).domains.len(), 2);

    let error = files.watch(Domain::Pod(a), &container).unwrap_err().to_string();
    assert!(error.contains("cannot open") && error.contains("c1/memory."), "{error}");
}

/// Usage, limit and the kill counter of a real OOM in a cgroup of 24 MiB.
#[test]
fn a_growing_process_and_its_oom_kill() {
    let tree = TestTree::new(&none());
    let uid = PodUid::from("hog");
    let limit = CgroupResources { memory_limit_bytes: Some(24 << 20), ..none() };
    tree.driver.ensure_pod(&uid, QosClass::Guaranteed, &limit).unwrap();
    let dir = tree.driver.pod_dir(&uid, QosClass::Guaranteed).memory;
    let mut files = MemoryFiles::open(&tree.driver).unwrap();
    let domain = Domain::Pod(uid);
    files.watch(domain.clone(), &dir).unwrap();
    let node_before = read(&mut files, ReadScope::Top).domains[0].oom_kills;
    let script = format!("echo $$ > {}/cgroup.procs; exec tail /dev/zero", dir.display());
    let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(!status.success());
    let reading = read(&mut files, ReadScope::AllPods);
    let pod = reading.of(&domain).unwrap();
    assert_eq!((pod.limit_bytes, pod.oom_kills), (Some(24 << 20), 1));
    assert!(reading.domains[0].oom_kills > node_before);
}

/// Somebody writes files as fast as the kernel takes them. On Linux 6.16 and later `kubepods`' statistics then stand still now
/// and again, for up to two seconds, if nobody makes the kernel go on.
#[test]
fn page_cache_is_known_for_what_it_is() {
    const MIB: u64 = 1 << 20;
    let tree = TestTree::new(&CgroupResources { memory_limit_bytes: Some(512 * MIB), ..none() });
    let uid = PodUid::from("writer");
    tree.driver.ensure_pod(&uid, QosClass::Burstable, &none()).unwrap();
    let dir = tree.driver.pod_dir(&uid, QosClass::Burstable).memory;
    let mut files = MemoryFiles::open(&tree.driver).unwrap();
    files.watch(Domain::Pod(uid), &dir).unwrap();
    let timed = |files: &mut MemoryFiles| {
        let start = Instant::now();
        (read(files, ReadScope::Top), start.elapsed())
    };
    let usual = (0..20).map(|_| timed(&mut files).1).min().unwrap();
    let most_it_takes = (4 * usual).max(Duration::from_millis(2));
    let on_disk = tempfile::tempdir_in("/var/tmp").unwrap();
    let (procs, file) = (dir.join("cgroup.procs"), on_disk.path().join("file"));
    let write = format!("dd if=/dev/zero of={0} bs=256k count=1200 status=none; rm {0}", file.display());
    let script = format!("echo $$ > {}; for i in 1 2 3 4 5 6 7 8; do {write}; done", procs.display());
    let mut writer = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let (mut readings, mut judged, mut before, mut while_lagging) = (0, 0, 0, 0);
    let (mut most_in_use, mut most_while_lagging) = (0, 0);
    while writer.try_wait().unwrap().is_none() {
        let (reading, took) = timed(&mut files);
        let Some(d) = reading.of(&Domain::Kubepods) else { continue };
        readings += 1;
        // Usage that was read much later than what it is made of, for want of a CPU, says nothing.
        if took > most_it_takes {
            before = d.usage_bytes;
            continue;
        }
        judged += 1;
        if d.is_stale() {
            // What is written between two readings while this test has no CPU says nothing.
            while_lagging += d.usage_bytes.abs_diff(before).min(4 * MIB);
            most_while_lagging = while_lagging.max(most_while_lagging);
        } else {
            while_lagging = 0;
            let in_use = d.usage_bytes.saturating_sub(d.inactive_file_bytes + d.active_file_bytes);
            most_in_use = in_use.max(most_in_use);
        }
        before = d.usage_bytes;
    }
    assert!(writer.wait().unwrap().success());
    println!("{most_in_use} bytes in use, {most_while_lagging} written while the statistics lagged");
    assert!(readings > 100 && judged > 20, "{readings} readings, of which {judged} at once");
    // The kernel's own part, which is 1/40 of the cache and left behind by files that are gone.
    assert!(most_in_use <= 48 * MIB, "{} MiB look like they were in use", most_in_use / MIB);
    assert!(most_while_lagging <= 128 * MIB, "statistics lagged by {} MiB", most_while_lagging / MIB);
}

/// Prints what a reading costs; `cargo test -p oomlet reading_cost -- --nocapture`.
#[test]
fn reading_cost_with_thirty_pods() {
    let tree = TestTree::new(&none());
    let mut files = MemoryFiles::open(&tree.driver).unwrap();
    for i in 0..30 {
        let uid = PodUid::from(format!("cost-{i}").as_str());
        tree.driver.ensure_pod(&uid, QosClass::Burstable, &none()).unwrap();
        let dir = tree.driver.pod_dir(&uid, QosClass::Burstable).memory;
        files.watch(Domain::Pod(uid), &dir).unwrap();
    }
    for scope in [ReadScope::Top, ReadScope::AllPods] {
        let mut micros: Vec<u128> = (0..200)
            .map(|_| {
                let reading = read(&mut files, scope);
                reading.done_at.since(reading.at).as_nanos() / 1000
            })
            .collect();
        micros.sort_unstable();
        println!("{scope:?}: p50 {} µs, p99 {} µs", micros[100], micros[197]);
        // A bound that only a mistake (a walk, a reopen a read) would break.
        assert!(micros[100] < 20_000, "{scope:?} takes {} µs", micros[100]);
    }
}

/// A v2 tree as plain files: this machine's memory controller is on v1.
#[test]
fn v2_files() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("memory.current", "1000\n"),
        (
            "memory.stat",
            "anon 1\nfile_dirty 5\nfile_writeback 6\ninactive_file 300\nactive_file 200\nworkingset_refault_file 4\n",
        ),
        ("memory.max", "max\n"),
        ("memory.events", "low 0\nhigh 0\nmax 0\noom 2\noom_kill 3\n"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let reader = |buffer| Reader { hierarchy: Hierarchy::Unified, slack_bytes: 100, buffer };
    let mut reads = reader(vec![0; BUFFER_BYTES]);
    let mut w = Watched::open(Hierarchy::Unified, Domain::Kubepods, dir.path()).unwrap();
    let reading = w.read_or_reopen(&mut reads).unwrap().unwrap();
    assert_eq!(
        reading,
        DomainReading {
            domain: Domain::Kubepods,
            usage_bytes: 1000,
            inactive_file_bytes: 300,
            active_file_bytes: 200,
            dirty_bytes: 11,
            refaults: 4,
            statistics: StatAge::New,
            limit_bytes: None,
            oom_kills: 3,
        }
    );
    assert_eq!(reading.working_set_bytes(), 700);
    fs::write(dir.path().join("memory.current"), "1101\n").unwrap();
    let lags = DomainReading { usage_bytes: 1101, statistics: StatAge::Stale, ..reading };
    assert_eq!(w.read_or_reopen(&mut reads).unwrap().unwrap(), lags);
    fs::write(dir.path().join("memory.stat"), "anon 1\n").unwrap();
    let error = w.read_or_reopen(&mut reads).unwrap_err().to_string();
    assert!(error.contains("`inactive_file` is missing"), "{error}");
    assert!(w.read_or_reopen(&mut reader(vec![0; 4])).is_err(), "a file cut short is not parsed");
}

#[test]
fn pressure() {
    let tree = TestTree::new(&none());
    if let Some(node) = psi(Path::new("/proc/pressure/memory")) {
        assert!(node.some_avg10 >= 0.0 && node.some_total_us >= node.full_total_us, "{node:?}");
        let unified = tree.driver.kubepods_dir().unified.unwrap();
        assert_eq!(psi(&unified.join("memory.pressure")).map(|p| p.full_total_us), Some(0));
    }
    assert_eq!(psi(Path::new("/nonexistent")), None);
}
