//! A container is stopped before it reaches its own memory limit: what the loop orders, and what is told of it.

use super::*;
use crate::pod::ContainerInstance;
use crate::pod::memory_limit::POLICY;

fn graceful(name: &str, uid: &str) -> Event {
    let Event::Pods(mut update) = source(&[(name, uid)]) else { unreachable!() };
    let annotations = BTreeMap::from([(POLICY.to_owned(), "graceful".to_owned())]);
    Arc::make_mut(&mut update.pods[0].pod).metadata.annotations = Some(annotations);
    Event::Pods(update)
}

fn with_a_pod(event: Event) -> Node {
    let mut node = Node::new(config());
    node.step(relist(&[]));
    node.step(event);
    node.step(synced("1"));
    node
}

/// Twenty milliseconds later its only container uses this much of 256 MiB.
fn use_of(node: &mut Node, usage_mib: u64) -> Vec<String> {
    node.now = node.now + Duration::from_millis(19);
    let now = node.now + Duration::from_millis(1);
    let usage = usage_mib * MIB;
    let Event::Reading(mut r) = reading(now, Reason::SampleDue, usage, &[("1", usage)]) else {
        unreachable!()
    };
    r.domains[1].limit_bytes = Some(64_000 * MIB);
    let domain = Domain::Container("1".into(), "c".into());
    r.domains.push(DomainReading { domain, limit_bytes: Some(256 * MIB), ..r.domains[2].clone() });
    node.step(Event::Reading(r))
}

/// At 100 MiB/s, until something is to be stopped or all is used.
fn leak(node: &mut Node) -> Vec<String> {
    for usage_mib in (50..250).step_by(2) {
        let stops: Vec<_> = use_of(node, usage_mib).into_iter().filter(|s| s.starts_with("stop")).collect();
        if !stops.is_empty() {
            return stops;
        }
    }
    Vec::new()
}

fn instance() -> ContainerInstance {
    ContainerInstance { name: "c".into(), id: "1-c".into() }
}

fn signalled() -> Event {
    report("1", WorkerOutcome::ContainerSignalled { container: instance() }, PodRuntimeStatus::default())
}

fn ended() -> Event {
    let took = Duration::from_millis(600);
    let outcome = WorkerOutcome::ContainerStopped { container: instance(), took, killed: false };
    report("1", outcome, PodRuntimeStatus::default())
}

/// The run that was stopped has ended with 0, and another one runs.
fn restarted() -> Event {
    let mut runtime = running("1", 43);
    runtime.containers[0].id = "1-c-again".into();
    runtime.containers[0].restart_count = 1;
    let ended =
        ContainerStatus { finished_at_ns: 2, ..ContainerStatus::bare("1-c", "c", ContainerState::Exited) };
    runtime.containers.push(ended);
    report("1", done(), runtime)
}

fn last_state(node: &Node) -> (String, String, i32) {
    let saved = node.state.pod(&"1".into()).unwrap().published().unwrap().to_saved();
    let status = saved.pod.status.unwrap().container_statuses.unwrap().remove(0);
    let ended = status.last_state.unwrap().terminated.unwrap();
    (ended.reason.unwrap(), ended.message.unwrap_or_default(), ended.exit_code)
}

#[test]
fn a_container_near_its_limit_is_held_and_stopped_and_its_pod_lives_on() {
    let mut node = with_a_pod(graceful("a", "1"));
    assert_eq!(leak(&mut node), ["stop 1-c of 1 grace 5"]);
    assert!(node.state.eviction().holds_any());
    let told: Vec<_> = node.state.take_records();
    let decision = told.iter().find(|r| r.kind == Kind::Decision).unwrap();
    assert_eq!((decision.reason, decision.container.as_deref()), (Reason::MemoryLimitForestalled, Some("c")));
    assert_eq!((decision.domain.as_deref(), decision.numbers["limit_bytes"]), (Some("container"), 256 << 20));
    assert!(decision.numbers["usage_bytes"] < 256 << 20 && decision.numbers["grace_ms"] == 5000);
    assert!(
        decision.numbers.contains_key("lead_ms") && decision.numbers.contains_key("signal_to_decision_us")
    );
    assert!(told.iter().any(|r| r.kind == Kind::Brake && r.container.as_deref() == Some("c")), "{told:?}");
    // What the next start would find.
    let pod = node.state.pod(&"1".into()).unwrap();
    assert_eq!(pod.published().unwrap().to_saved().forestalled["1-c"], decision.message);
    assert_eq!((&pod.mode, node.state.under_memory_pressure()), (&Mode::Active, false));

    assert_eq!(node.step(signalled()), ["throttled c of 1"]);
    assert_eq!(node.step(ended()), ["free c of 1", "sync 1"]);
    assert!(!node.state.eviction().holds_any());
    assert_eq!(node.step(restarted()), ["map 1", "watch [43]"]);
    let (reason, message, exit_code) = last_state(&node);
    assert_eq!((reason.as_str(), exit_code), ("MemoryLimitForestalled", 0));
    assert_eq!(message, decision.message);
    // The next run is another one.
    node.now = node.now + Duration::from_secs(10);
    assert_eq!(leak(&mut node), ["stop 1-c-again of 1 grace 5"]);
}

#[test]
fn without_the_annotation_the_kernel_is_left_to_kill() {
    let mut node = with_a_pod(source(&[("a", "1")]));
    assert_eq!(leak(&mut node), [""; 0]);
    // The node may ask for it; a pod may still refuse.
    let mut cfg = config();
    cfg.eviction.memory_limit.policy = crate::pod::memory_limit::MemoryLimitPolicy::Graceful;
    cfg.eviction.memory_limit.grace = Duration::from_secs(9);
    let mut node = Node::new(cfg);
    node.step(relist(&[]));
    node.step(source(&[("a", "1")]));
    node.step(synced("1"));
    assert_eq!(leak(&mut node), ["stop 1-c of 1 grace 9"]);
    // With eviction off nothing is ever ended for memory's sake.
    let mut cfg = config();
    cfg.eviction.enabled = false;
    let mut node = Node::new(cfg);
    node.step(relist(&[]));
    node.step(graceful("a", "1"));
    node.step(synced("1"));
    assert_eq!(leak(&mut node), [""; 0]);
}

#[test]
fn its_grace_is_cut_where_it_would_reach_the_limit_all_the_same() {
    let mut node = with_a_pod(graceful("a", "1"));
    leak(&mut node);
    node.step(signalled());
    node.records();
    let steps: Vec<_> = (244..256).step_by(3).flat_map(|usage_mib| use_of(&mut node, usage_mib)).collect();
    let cuts: Vec<_> = steps.iter().filter(|step| step.starts_with("stop")).collect();
    assert_eq!(cuts, ["stop 1-c of 1 grace 0"], "{steps:?}");
    let told = node.records();
    assert!(told.iter().any(|(kind, reason, _)| (*kind, *reason) == (Kind::Decision, Reason::GraceCutShort)));
}

#[test]
fn what_the_last_agent_began_is_carried_on_and_told_as_it_was() {
    let mut known = saved("a", "1", None);
    known.forestalled.insert("1-c".into(), "stopped by the last agent".into());
    let mut node = Node::new(StateConfig { saved: vec![known], ..config() });
    node.step(relist(&[("a", "1")]));
    node.step(graceful("a", "1"));
    node.step(synced("1"));
    let steps = use_of(&mut node, 50);
    assert!(steps.contains(&"stop 1-c of 1 grace 5".to_owned()), "{steps:?}");
    node.step(restarted());
    assert_eq!(last_state(&node), ("MemoryLimitForestalled".into(), "stopped by the last agent".into(), 0));
}

#[test]
fn a_container_that_cannot_be_held_is_told_of_once() {
    let mut node = with_a_pod(graceful("a", "1"));
    leak(&mut node);
    node.records();
    for _ in 0..2 {
        let held = Held::container(&"1".into(), &instance());
        node.step(Event::BrakeFailed { held, error: "no freezer".into() });
    }
    node.now = node.now + Duration::from_millis(10);
    assert_eq!(node.step(Event::Tick), ["free c of 1"]);
    let told: Vec<_> = node.records().into_iter().filter(|(kind, ..)| *kind == Kind::Warning).collect();
    assert_eq!(told, [(Kind::Warning, Reason::BrakeFailed, "no freezer".to_owned())]);
}
