//! The way from the kernel to the reader: how fast it is, what happens when it is full, what the programs say themselves.

use std::fs;
use std::time::Duration;

use oomlet::kernel::{Kernel, Options};
use oomlet_core::signal::{Hierarchy, KernelEvent, KernelEventKind};

use crate::cgroup::TestCgroup;
use crate::hog::Hog;
use crate::log::Log;
use crate::{LIMIT_BYTES, PATIENCE, any, collect, print_latency, runtime};

#[test]
fn a_full_ring_buffer_loses_records_and_says_how_many() {
    runtime().block_on(async {
        let mut kernel = Kernel::load(&Options { ring_bytes: 4096, ..Options::default() });
        let mut ring = kernel.ring().expect("programs are loaded");
        // Each of these is two records of more than 400 bytes, and nobody reads.
        for n in 0..12 {
            TestCgroup::make(&format!("full-{n}")).remove();
        }
        let lost = kernel.lost_records();
        assert!(lost > 0, "24 records do not fit into 4096 bytes");
        let mut events = Vec::new();
        let reported = |events: &[KernelEvent]| any(events, |k| matches!(k, KernelEventKind::Lost { .. }));
        collect(&mut ring, &mut events, reported).await;
        assert!(any(&events, |k| matches!(k, KernelEventKind::Lost { records } if *records >= lost)));

        // And it works again once it is read.
        let cgroup = TestCgroup::make("after");
        let id = cgroup.unified_id();
        collect(&mut ring, &mut events, |events| {
            any(events, |k| matches!(k, KernelEventKind::CgroupMade { cgroup, .. } if *cgroup == id))
        })
        .await;
    });
}

#[test]
fn log_lines_of_the_programs_reach_tracing() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    runtime().block_on(async {
        let mut kernel = Kernel::load(&Options { ring_bytes: 4096, ..Options::default() });
        kernel.attach_logger();
        for n in 0..12 {
            TestCgroup::make(&format!("log-{n}")).remove();
        }
        let cgroup = TestCgroup::make("log-hog");
        cgroup.limit(LIMIT_BYTES);
        // The first victim's record may just fit into what is left; the second's does not.
        for _ in 0..2 {
            let mut hog = Hog::ready();
            cgroup.enter(hog.pid());
            hog.go();
            let _ = hog.0.wait();
        }
        let line = async {
            while !log.text().contains("a victim goes unreported") {
                tokio::task::yield_now().await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, line).await;
        assert!(came.is_ok(), "no line in: {}", log.text());
        assert!(log.text().contains("oomlet::ebpf"), "{}", log.text());
    });
}

/// The reader runs as it does in the agent: on a thread of its own with a runtime of its own.
#[test]
fn a_record_reaches_its_reader_at_once() {
    const ROUNDS: usize = 200;
    let mut kernel = Kernel::load(&Options::default());
    let mut ring = kernel.ring().expect("programs are loaded");
    let cgroup = TestCgroup::make("latency");
    let made = |k: &KernelEventKind, path: &str| matches!(k, KernelEventKind::CgroupMade { cgroup, path: p } if cgroup.hierarchy == Hierarchy::Unified && p.starts_with(path));
    let prefix = format!("{}/", cgroup.path);
    let reader = std::thread::spawn(move || {
        if let Err(error) = oomlet::kernel::scheduling::run_at_realtime_priority() {
            println!("no real-time priority: {error}");
        }
        runtime().block_on(async {
            let mut events = Vec::new();
            let all =
                |events: &[KernelEvent]| events.iter().filter(|e| made(&e.kind, &prefix)).count() >= ROUNDS;
            collect(&mut ring, &mut events, all).await;
            events.retain(|e| made(&e.kind, &prefix));
            events
        })
    });
    for n in 0..ROUNDS {
        let dir = cgroup.unified.join(n.to_string());
        fs::create_dir(&dir).expect("make a cgroup");
        fs::remove_dir(&dir).expect("remove it");
        // Records that come one by one, as they do on a quiet node: the reader sleeps in between.
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let events = reader.join().expect("the reader ends");
    print_latency(&events);
    let mut latencies: Vec<Duration> = events.iter().map(|e| e.read_at.since(e.at)).collect();
    latencies.sort_unstable();
    // A generous bound: this machine may be busy. The lab says where the CPU is emulated. The bench has the figures.
    let emulated = std::env::var("OOMLET_TEST_SLOWDOWN").is_ok_and(|slowdown| slowdown != "1");
    let bound = Duration::from_millis(if emulated { 50 } else { 5 });
    assert!(latencies[latencies.len() / 2] < bound, "{latencies:?}");
}
