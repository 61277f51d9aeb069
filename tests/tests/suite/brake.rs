//! A pod that would use up the memory before its SIGTERM handler is done is held meanwhile, with any number of threads;
//! and nothing stays held when the agent goes.

use std::fs;
use std::path::{Path, PathBuf};

use oomlet_tests::capped::CappedNode;
use oomlet_tests::node::{Node, pod_name};
use oomlet_tests::{cgroup, newest, oldest, pod, speed};
use serde_json::json;
use xtask::node::manifest::{pod as workload, with_memory};
use xtask::node::trace::TraceRecord;

fn brake_node(label: &str, brake: bool) -> CappedNode {
    CappedNode::start(label, newest(), "100Mi", |config| {
        config["oomlet"]["eviction"] = json!({ "brake": brake });
    })
}

/// Takes what is left in an eighth of the time that its handler needs, by threads that do not listen to SIGTERM.
fn parallel_hog(capped: &CappedNode, handler_ms: &str) {
    let handler = ["--leak-after-sigterm", "--sigterm-ms", handler_ms];
    capped.hog(1000, &[&["--threads", "2", "--max-mib", "2000"][..], &handler].concat());
}

fn parallel_leak(label: &str, brake: bool) -> CappedNode {
    let capped = brake_node(label, brake);
    parallel_hog(&capped, "800");
    capped
}

#[test]
fn a_parallel_leak_is_held_until_its_handler_is_done() {
    let capped = parallel_leak("brake", true);
    capped.expect_eviction();
    let name = pod_name("hog");
    let let_go = capped.node.wait_record("it is let go", |r| {
        r.kind == "Brake" && r.pod_name() == name && r.message.contains("let go")
    });
    assert!(let_go.number("freezes") >= Some(1) && let_go.number("frozen_us") > Some(0), "{let_go:?}");
}

/// What the test above would see if nothing held the pod: killed by the kernel, or by the agent before that.
#[test]
fn without_the_brake_its_handler_is_not_done() {
    if speed::is_emulated() {
        eprintln!("an emulated CPU, busy with looking, touches less in a second than there is left");
        return;
    }
    let capped = parallel_leak("no-brake", false);
    expect_no_brake_and_no_time(&capped);
}

/// The hog has ended, its handler was not done, and nobody was held.
fn expect_no_brake_and_no_time(capped: &CappedNode) {
    let node = &capped.node;
    node.wait_pod("hog", "ended", |pod| pod::phase(pod) == "Failed");
    node.wait("the hog is gone", |node| node.running_of("hog").is_empty());
    assert!(!capped.mark().contains("sigterm handled"), "{}", capped.mark());
    assert!(node.records("Brake").is_empty());
}

/// One pod holds a third of the memory and needs half a second to end; another one takes the rest in a tenth of that, and keeps
/// to its request.
fn pushed_out(label: &str, brake: bool) -> CappedNode {
    let capped = CappedNode::start(label, newest(), "60Mi", |config| {
        config["oomlet"]["eviction"] = json!({ "brake": brake, "forecast": false });
    });
    capped.besteffort_hog(50, &["--start-mib", "100", "--max-mib", "100"]);
    capped.node.wait_up(&["hog"]);
    let uid = pod::uid(&capped.node.pod("hog").unwrap()).to_owned();
    let dir = cgroup::dir(capped.node.scratch(), "memory", &format!("besteffort/pod{uid}"));
    capped.node.wait("it holds its memory", |_| cgroup::memory_usage(&dir) >= 100 << 20);
    let rate = speed::rate_mib_s(1000);
    let grower = workload("grower", "hog", &["--rate-mib-s", &rate, "--max-mib", "170", "--threads", "2"]);
    capped.node.put(&with_memory(grower, "180Mi", ""));
    capped
}

#[test]
fn one_that_grows_within_its_request_is_held_while_another_ends() {
    let capped = pushed_out("brake-beside", true);
    let node = &capped.node;
    capped.expect_eviction();
    let name = pod_name("grower");
    let told = |text: &'static str| {
        let of_it = |r: &TraceRecord| r.kind == "Brake" && r.pod_name() == name && r.message.contains(text);
        node.wait_record(text, of_it)
    };
    if speed::is_emulated() && !node.records("Brake").iter().any(|r| r.pod_name() == name) {
        eprintln!("an emulated CPU that others use as well touches less in a second than there is left");
    } else {
        let held = told("while default/hog");
        assert_eq!(held.reason, "GrowthOutrunsOthersGrace");
        let let_go = told("let go");
        let stood_us = let_go.number("frozen_us").unwrap();
        assert!(stood_us < 1_000_000, "less than the shortest timeout of a probe: {let_go:?}");
        assert!(speed::is_emulated() || (stood_us > 0 && let_go.number("freezes") >= Some(1)), "{let_go:?}");
    }
    // It lives on, and has what it wanted.
    let before = node.the_container_of("grower");
    let uid = pod::uid(&node.pod("grower").unwrap()).to_owned();
    assert!(cgroup::named(node.scratch(), &format!("pod{uid}")).iter().all(|dir| is_free(dir)));
    let dir = cgroup::dir(node.scratch(), "memory", &format!("burstable/pod{uid}"));
    node.wait("it grows on", |_| cgroup::memory_usage(&dir) >= 170 << 20);
    capped.expect_no_kill();
    assert_eq!(node.the_container_of("grower"), before);
}

#[test]
fn without_the_brake_that_one_leaves_no_time() {
    if speed::is_emulated() {
        eprintln!("an emulated CPU touches less in half a second than there is left");
        return;
    }
    let capped = pushed_out("no-brake-beside", false);
    expect_no_brake_and_no_time(&capped);
}

/// Where an agent can be killed in the course of an eviction that holds its victim: the pod's UID, its cgroups.
type Reached = fn(&CappedNode, &str, &[PathBuf]) -> bool;
const STEPS: [(&str, Reached); 4] = [
    ("it stands still", |_, _, dirs| !dirs.iter().all(|dir| is_free(dir))),
    ("it runs on its budget", |capped, uid, _| {
        let brakes = capped.node.records("Brake");
        brakes
            .iter()
            .any(|r| r.pod.as_ref().is_some_and(|p| p.uid == uid) && r.message.contains("on a budget"))
    }),
    ("its handler works", |capped, _, _| capped.mark().contains("sigterm received")),
    ("its busy threads come last", |_, _, dirs| dirs.iter().any(|dir| !nobody_comes_last(dir))),
];

#[test]
fn killed_in_the_middle_of_an_eviction_the_agent_leaves_nothing_held() {
    let mut capped = brake_node("brake-cut-off", true);
    // An emulated CPU may be through with the handler before all threads were looked at twice.
    let steps = if speed::is_emulated() { &STEPS[..3] } else { &STEPS[..] };
    for (step, reached) in steps {
        // Long enough for a second run on its budget.
        parallel_hog(&capped, "8000");
        // It counts as Failed from the decision on, which may come before the first look.
        let known = capped.node.wait_pod("hog", "known", |_| true);
        let uid = pod::uid(&known).to_owned();
        let dir_name = format!("pod{uid}");
        capped.node.wait(step, |node| reached(&capped, &uid, &cgroup::named(node.scratch(), &dir_name)));
        capped.node.kill_agent().unwrap();
        let dirs = cgroup::named(capped.node.scratch(), &dir_name);
        assert!(!dirs.is_empty(), "{step}: a killed agent removes no cgroups");
        capped.node.wait("let go", |_| dirs.iter().all(|dir| is_free(dir) && nobody_comes_last(dir)));
        // The next one ends what was begun.
        capped.node.start();
        capped.node.wait_pod("hog", "ended", |pod| pod::phase(pod) == "Failed");
        capped.node.remove_manifest("hog").unwrap();
        capped.node.wait("nothing is left of it", |node| {
            node.pod("hog").is_none() && cgroup::named(node.scratch(), &dir_name).is_empty()
        });
        let _ = fs::remove_file(capped.marks.join("mark"));
    }
}

/// By its guard at once, by its next start, and by the command that the unit runs after the service.
#[test]
fn nothing_stays_held_when_the_agent_is_gone() {
    let mut node = Node::new("brake-killed", oldest());
    node.put(&workload("held", "idle", &[]));
    node.start();
    node.wait_up(&["held"]);
    let before = node.the_container_of("held");
    let dirs = cgroup::named(node.scratch(), &format!("pod{}", pod::uid(&node.pod("held").unwrap())));

    hold(&dirs);
    node.kill_agent().unwrap();
    node.wait("its guard has let go", |_| dirs.iter().all(|dir| is_free(dir)));
    wait_guard_gone(&node);
    hold(&dirs);
    node.start();
    assert!(dirs.iter().all(|dir| is_free(dir)), "before it says that it has started");
    node.kill_agent().unwrap();
    wait_guard_gone(&node);
    hold(&dirs);
    node.wait("let go by hand", |node| {
        let mut command =
            node.oomlet(&["release-brakes", "--cgroup-root", node.scratch().cgroup_root()]).unwrap();
        assert!(command.status().unwrap().success());
        dirs.iter().all(|dir| is_free(dir))
    });
    node.start();
    node.wait_up(&["held"]);
    assert_eq!(node.the_container_of("held"), before);
}

/// It ends with its agent, and lets go once more at its end.
fn wait_guard_gone(node: &Node) {
    let root = node.scratch().cgroup_root();
    let is_guard = |entry: fs::DirEntry| {
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        line.split('\0').any(|word| word == "--guard") && line.split('\0').any(|word| word == root)
    };
    node.wait("the guard has ended", |_| !fs::read_dir("/proc").unwrap().flatten().any(is_guard));
}

/// What the brake writes, by the files of v1 and v2.
const FILES: [(&str, &str, &str); 3] =
    [("freezer.state", "FROZEN", "THAWED"), ("cgroup.freeze", "1", "0"), ("memory.high", "67108864", "max")];

/// As an agent leaves it that is killed while it holds the pod: with v1's freezer where there is one.
fn hold(dirs: &[PathBuf]) {
    let has = |name: &str| dirs.iter().any(|dir| dir.join(name).exists());
    let used = if has("freezer.state") { &FILES[..1] } else { &FILES[1..] };
    let mut held = 0;
    for dir in dirs {
        for (name, on, _) in used.iter().filter(|(name, ..)| dir.join(name).exists()) {
            fs::write(dir.join(name), on).unwrap();
            held += 1;
        }
    }
    assert!(held > 0, "this machine has a freezer");
    assert!(!dirs.iter().all(|dir| is_free(dir)));
}

/// No thread in it or below is in SCHED_IDLE, which in proc_pid_stat(5) is the 41st number: the 39th behind the name.
fn nobody_comes_last(dir: &Path) -> bool {
    const SCHED_IDLE: &str = "5";
    let comes_last = |task: &fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(38)) == Some(SCHED_IDLE)
    };
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let tasks = |pid: &str| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let below = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    !pids.lines().flat_map(tasks).any(|task| comes_last(&task))
        && below.filter(|path| path.is_dir()).all(|path| nobody_comes_last(&path))
}

fn is_free(dir: &Path) -> bool {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    FILES.iter().all(|(name, _, off)| read(name).is_none_or(|text| text.trim() == *off))
}
