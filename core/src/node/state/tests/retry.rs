//! Static pods that are refused or evicted, and how they come to run (again).

use super::resources::disk;
use super::sources::{asks, gone, has_stopped, list, mode};
use super::*;
use PodSource::{Api, File};

fn cleaned_up(uid: &str) -> Event {
    report(uid, WorkerOutcome::CleanedUp, PodRuntimeStatus::default())
}

/// Memory and disks have been read and nothing is short.
fn at_ease(node: &mut Node) {
    memory(node, 20);
    node.step(disk(900, &[]));
}

fn memory(node: &mut Node, usage: u64) -> Vec<String> {
    let now = node.now + Duration::from_millis(1);
    node.step(reading(now, Reason::SampleDue, usage * MIB, &[("1", usage * MIB)]))
}

fn transition() -> Duration {
    EvictionConfig::default().transition_period
}

/// The transition period passes with memory to spare.
fn pressure_ends(node: &mut Node) -> Vec<String> {
    node.now = node.now + transition();
    let mut done = memory(node, 20);
    node.now = node.now + transition();
    done.extend(memory(node, 20));
    assert!(!node.state.under_memory_pressure());
    done
}

/// One active pod, which memory runs short for.
fn evicted_node(source: PodSource) -> Node {
    let mut node = Node::new(StateConfig { sources: [source].into(), ..config() });
    node.step(relist(&[]));
    node.step(list(source, &[pod("hog", "1")]));
    node.step(synced("1"));
    at_ease(&mut node);
    let evicted = |node: &mut Node| [200, 220, 245, 245].map(|usage| memory(node, usage)).concat();
    assert!(evicted(&mut node).contains(&"evict 1".to_owned()));
    node.step(has_stopped("1"));
    node.step(cleaned_up("1"));
    node
}

fn status(node: &Node, uid: &str) -> k8s_openapi::api::core::v1::PodStatus {
    node.state.pod(&uid.into()).unwrap().published().unwrap().to_saved().pod.status.unwrap()
}

#[test]
fn an_evicted_static_pod_comes_back_as_a_new_run_when_the_pressure_is_over() {
    let mut node = evicted_node(File);
    let started = status(&node, "1").start_time;
    node.now = node.now + Duration::from_secs(11);
    assert_eq!(node.step(Event::Tick), [""; 0], "the pressure holds");
    assert!(node.state.next_wakeup() > node.now, "and the loop sleeps");
    let done = pressure_ends(&mut node);
    assert_eq!(done, ["remove 1 grace 5"]);
    assert!(node.records().iter().any(|(_, r, _)| *r == Reason::RetryAfterEviction));
    let pod = node.state.pod(&"1".into()).unwrap();
    let failure = pod.published().unwrap().to_saved().failure.unwrap();
    assert_eq!(failure.reason, Reason::Evicted, "an agent that dies now must not forget it");
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 1"]);
    let now = status(&node, "1");
    assert_eq!((now.phase.as_deref(), now.reason), (Some("Pending"), None));
    assert_ne!(now.start_time, started);
}

#[test]
fn an_evicted_pod_of_the_api_server_stays_failed() {
    let mut node = evicted_node(Api);
    assert_eq!(pressure_ends(&mut node), [""; 0]);
    node.now = node.now + Duration::from_secs(3600);
    assert_eq!(node.step(Event::Tick), [""; 0]);
    let status = status(&node, "1");
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}

#[test]
fn a_pod_that_is_evicted_each_time_is_brought_back_more_and_more_slowly() {
    let mut node = resources::node();
    at_ease(&mut node);
    let mut waits = Vec::new();
    for ran_s in [1, 1, 1, 1, 1, 1, 1, 601, 1] {
        node.now = node.now + Duration::from_secs(ran_s);
        assert_eq!(node.step(disk(900, &[("1", 101)])), ["evict 1 for disk"]);
        node.step(has_stopped("1"));
        node.step(cleaned_up("1"));
        let ended = node.now;
        let due = node.state.retries.next_due().unwrap();
        node.now = due - Duration::from_millis(2);
        // The other pod is synced meanwhile.
        let mut tick = || node.step(Event::Tick).into_iter().filter(|a| a != "sync 2").collect::<Vec<_>>();
        assert_eq!(tick(), [""; 0]);
        assert_eq!(tick(), ["remove 1 grace 5"]);
        waits.push(node.now.since(ended).as_millis().div_ceil(1000));
        node.step(gone("1"));
        node.step(synced("1"));
        node.step(disk(900, &[]));
    }
    assert_eq!(waits, [10, 59, 59, 80, 160, 300, 300, 10, 59], "seconds after its end");
}

#[test]
fn an_agent_that_starts_tries_again_once_it_knows_that_no_pressure_holds() {
    let failure =
        |disruption| Some(Failure { reason: Reason::Evicted, message: "low on memory".into(), disruption });
    // Evicted.
    let saved_pod = saved("a", "1", failure(true));
    let mut node = Node::new(StateConfig { saved: vec![saved_pod], ..config() });
    node.step(relist(&[]));
    assert_eq!(node.step(source(&[("a", "1")])), ["stop 1 grace 0"]);
    node.step(has_stopped("1"));
    node.now = node.now + Duration::from_secs(11);
    assert_eq!(node.step(Event::Tick), [""; 0], "nothing has been read");
    memory(&mut node, 20);
    assert_eq!(node.step(disk(900, &[])), ["remove 1 grace 5"]);
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 1"]);

    // Refused under pressure; what it is now is not known yet, then it holds still, then it is over.
    let saved_pod = saved("a", "1", failure(false));
    let mut node = Node::new(StateConfig { saved: vec![saved_pod], ..config() });
    node.step(relist(&[]));
    assert_eq!(node.step(source(&[("a", "1")])), [""; 0]);
    assert_eq!(mode(&node, "1"), Mode::Pending);
    memory(&mut node, 250);
    assert_eq!(node.step(disk(900, &[])), [""; 0]);
    assert!(matches!(mode(&node, "1"), Mode::Rejected(_)));
    assert_eq!(pressure_ends(&mut node), ["sync 1"]);
}

#[test]
fn what_is_refused_under_pressure_runs_when_it_is_over() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[]));
    at_ease(&mut node);
    memory(&mut node, 245);
    assert!(node.state.under_memory_pressure());
    assert_eq!(node.step(source(&[("a", "1")])), [""; 0]);
    let refused = status(&node, "1");
    assert_eq!((refused.phase.as_deref(), refused.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(pressure_ends(&mut node), ["sync 1"]);
    assert_eq!(status(&node, "1").phase.as_deref(), Some("Pending"));
    let told = node.records().into_iter().filter(|(_, r, _)| *r == Reason::Evicted).count();
    assert_eq!(told, 1);
}

#[test]
fn an_edit_under_pressure_leaves_the_old_pod_running_until_it_is_over() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(source(&[("a", "1"), ("hog", "2")]));
    node.step(synced("1"));
    node.step(synced("2"));
    at_ease(&mut node);
    for usage in [200, 220, 245, 245] {
        let now = node.now + Duration::from_millis(1);
        node.step(reading(now, Reason::SampleDue, usage * MIB, &[("2", usage * MIB)]));
    }
    assert!(matches!(mode(&node, "2"), Mode::Evicted { .. }));
    node.step(has_stopped("2"));
    node.step(cleaned_up("2"));
    node.records();
    for _ in 0..2 {
        assert_eq!(node.step(source(&[("a", "3"), ("hog", "2")])), [""; 0]);
    }
    assert_eq!((mode(&node, "1"), mode(&node, "3")), (Mode::Active, Mode::Pending));
    let told: Vec<_> = node.records().into_iter().filter(|(k, ..)| *k == Kind::Warning).collect();
    assert!(told.len() == 1 && told[0].2.contains("[MemoryPressure]"), "{told:?}");
    assert_eq!(pressure_ends(&mut node), ["remove 1 grace 5", "remove 2 grace 5"]);
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 3"]);
}

#[test]
fn room_that_a_pod_leaves_is_for_those_that_were_refused() {
    // 300 MiB in all.
    let mut node = Node::new(config());
    node.step(relist(&[]));
    let files = |pods: &[(&str, &str, u64)]| {
        list(File, &pods.iter().map(|(name, uid, mib)| asks(name, uid, *mib)).collect::<Vec<_>>())
    };
    let all = [("a", "1", 200), ("b", "2", 150), ("c", "3", 120), ("absurd", "4", 400)];
    assert_eq!(node.step(files(&all)), ["sync 1"]);
    node.step(synced("1"));
    let refused =
        |node: &Node, uid| matches!(mode(node, uid), Mode::Rejected(f) if f.reason == Reason::OutOfmemory);
    assert!(["2", "3", "4"].iter().all(|uid| refused(&node, uid)));
    node.records();
    // Done by itself.
    assert_eq!(
        node.step(report("1", WorkerOutcome::Completed { succeeded: true }, running("1", 42))),
        ["stop 1 grace 5", "sync 2", "sync 3"]
    );
    assert!(refused(&node, "4"));
    let again = node.records().into_iter().filter(|(_, r, _)| *r == Reason::OutOfmemory).count();
    assert_eq!(again, 0, "told once");
}

#[test]
fn a_pod_that_is_ending_delays_one_that_fits_afterwards_and_refuses_none() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(list(File, &[asks("a", "1", 200)]));
    node.step(synced("1"));
    assert_eq!(node.step(list(File, &[asks("b", "2", 200)])), ["remove 1 grace 5"]);
    assert_eq!(mode(&node, "2"), Mode::Pending);
    assert_eq!(node.step(has_stopped("1")), [""; 0], "its memory may not be free yet");
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 2"]);
    let told: Vec<_> = node.records().into_iter().filter(|(_, _, m)| m.starts_with("it waits")).collect();
    assert_eq!(told.len(), 1);
}

/// Refused while the other one ran, it is Pending as soon as it only waits for that one's end, and so is an edit of it.
#[test]
fn a_refused_pod_that_waits_is_not_shown_as_failed() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(list(File, &[asks("a", "1", 200)]));
    node.step(synced("1"));
    node.step(list(File, &[asks("a", "1", 200), asks("b", "2", 200)]));
    assert_eq!(status(&node, "2").phase.as_deref(), Some("Failed"));
    node.step(list(File, &[asks("b", "2", 200)]));
    node.step(has_stopped("1"));
    let waits = status(&node, "2");
    assert_eq!((waits.phase.as_deref(), waits.reason.as_deref()), (Some("Pending"), None));
    node.step(Event::Tick);
    node.step(relist(&[]));
    assert_eq!(status(&node, "2").start_time, waits.start_time, "not looked at as if it were new each time");

    node.step(gone("1"));
    node.step(list(File, &[asks("b", "2", 200), asks("c", "3", 400)]));
    assert_eq!(status(&node, "3").phase.as_deref(), Some("Failed"));
    node.step(list(File, &[asks("b", "2", 200), asks("c", "3", 50)]));
    assert_eq!(status(&node, "3").phase.as_deref(), Some("Pending"));
}

#[test]
fn an_edit_that_does_not_fit_leaves_the_old_pod_running_until_it_does() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    let files = |mib, other: &[Arc<Pod>]| {
        list(File, &[&[asks("a", if mib == 100 { "1" } else { "2" }, mib)], other].concat())
    };
    let other = [asks("b", "9", 150)];
    node.step(files(100, &other));
    node.step(synced("1"));
    node.step(synced("9"));
    node.records();
    for _ in 0..3 {
        assert_eq!(node.step(files(200, &other)), [""; 0]);
    }
    let told: Vec<_> = node.records().into_iter().filter(|(k, ..)| *k == Kind::Warning).collect();
    assert!(told.len() == 1 && told[0].1 == Reason::OutOfmemory, "{told:?}");
    assert!(told[0].2.contains("the manifest of default/a changed"), "{}", told[0].2);
    assert_eq!((mode(&node, "1"), mode(&node, "2")), (Mode::Active, Mode::Pending));
    // Back to what it was: nothing happens to it.
    assert_eq!(node.step(files(100, &other)), ["remove 2 grace 5"]);
    node.step(gone("2"));
    node.step(files(200, &other));
    // The other one goes: now it fits, and the old one ends.
    assert_eq!(node.step(files(200, &[])), ["remove 9 grace 5"]);
    assert_eq!(node.step(gone("9")), ["remove 1 grace 5", "forget 9"]);
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 2"]);
}

#[test]
fn an_edit_made_while_no_agent_ran_does_not_end_the_old_pod_before_its_time_either() {
    let old = SavedPod { pod: (*asks("a", "1", 100)).clone(), ..saved("a", "1", None) };
    let mut node = Node::new(StateConfig { saved: vec![old], ..config() });
    node.step(relist(&[("a", "1")]));
    let done = node.step(list(File, &[asks("a", "2", 301)]));
    assert_eq!(done, ["sync 1", "map 1"], "it would not fit: the old one is taken over");
    assert_eq!(node.step(list(File, &[asks("a", "3", 300)])), ["remove 2 grace 5"]);
    assert_eq!(node.step(gone("2")), ["remove 1 grace 5", "forget 2"]);
    assert_eq!(node.step(gone("1")), ["forget 1", "sync 3"]);
}

#[test]
fn a_predecessor_that_is_evicted_gives_way() {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(list(File, &[asks("a", "1", 100)]));
    node.step(synced("1"));
    node.step(list(File, &[asks("a", "2", 400)]));
    assert_eq!(mode(&node, "1"), Mode::Active);
    let failure = Failure { reason: Reason::Evicted, message: "low".into(), disruption: true };
    node.state.pods.get_mut(&"1".into()).unwrap().mode =
        Mode::Evicted { failure, grace: Duration::ZERO, stopped: false };
    assert_eq!(node.step(has_stopped("1")), ["remove 1 grace 5"], "nothing runs that could be kept");
    assert_eq!(node.step(gone("1")), ["forget 1"]);
    assert!(matches!(mode(&node, "2"), Mode::Rejected(_)));
}

/// Whatever room there is at the next start, and whether or not the runtime still has something of it.
#[test]
fn a_pod_that_has_succeeded_stays_so() {
    for left in [true, false] {
        let mut done = asks("a", "1", 400).as_ref().clone();
        done.status = Some(serde_json::from_value(serde_json::json!({ "phase": "Succeeded" })).unwrap());
        let saved = SavedPod { pod: done, ..saved("a", "1", None) };
        let mut node = Node::new(StateConfig { saved: vec![saved], ..config() });
        let Event::Relisted(mut listed) = relist(&[("a", "1")]) else { unreachable!() };
        listed.pods[0].containers[0].state = ContainerState::Exited;
        node.step(if left { Event::Relisted(listed) } else { relist(&[]) });
        node.step(list(File, &[asks("a", "1", 400), asks("b", "2", 300)]));
        assert!(
            matches!(mode(&node, "1"), Mode::Completed { succeeded: true, .. }),
            "{:?}",
            mode(&node, "1")
        );
        assert_eq!(mode(&node, "2"), Mode::Active, "what is done asks for nothing");
        assert_eq!(status(&node, "1").phase.as_deref(), Some("Succeeded"));
    }
}

#[test]
fn a_new_agent_looks_again_at_what_was_refused_and_only_at_static_pods() {
    for (source, runs) in [(File, true), (Api, false)] {
        let failure = Failure { reason: Reason::UnsupportedFeature, message: "no".into(), disruption: false };
        let saved = SavedPod { source: Some(source), ..saved("a", "1", Some(failure)) };
        let mut node = Node::new(StateConfig { saved: vec![saved], sources: [source].into(), ..config() });
        node.step(relist(&[]));
        let done = node.step(list(source, &[pod("a", "1")]));
        assert_eq!(done == ["sync 1"], runs, "{source:?}: {done:?}");
    }
}

#[test]
fn an_absurd_request_is_counted_for_nobody_and_told_in_numbers_that_are_right() {
    let mut absurd = serde_json::to_value(&*asks("absurd", "1", 1)).unwrap();
    absurd["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1000000000000".into();
    let absurd: Arc<Pod> = Arc::new(serde_json::from_value(absurd).unwrap());
    let mut node = Node::new(config());
    node.step(relist(&[]));
    assert_eq!(node.step(list(File, &[absurd, asks("small", "2", 1)])), ["sync 2"]);
    let refused = status(&node, "1");
    assert_eq!(refused.reason.as_deref(), Some("OutOfcpu"));
    let message = refused.message.unwrap();
    assert!(message.contains("requested: 1000000000000000, used: 0, capacity: 2000"), "{message}");
}
