//! Whatever happens in whatever order: the loop comes to rest, and plans nothing twice.

use proptest::prelude::*;

use super::*;
use crate::pod::probe::{ProbeKind, ProbeMessage, ProbeReport};

/// Any order of events, sensible or not.
fn any_event() -> impl Strategy<Value = Event> {
    let uid = prop_oneof![Just("1"), Just("2"), Just("3")];
    let pods = proptest::collection::btree_set(0usize..3, 0..3);
    let pick = |set: BTreeSet<usize>| -> Vec<(&'static str, &'static str)> {
        set.into_iter().map(|i| [("a", "1"), ("a", "2"), ("b", "3")][i]).collect()
    };
    let outcome = prop_oneof![
        Just(done()),
        Just(WorkerOutcome::Completed { succeeded: true }),
        Just(WorkerOutcome::Failed {
            reason: Reason::FailedMount,
            error: "e".into(),
            retry_in: Duration::from_secs(10),
            waiting: Vec::new()
        }),
        Just(WorkerOutcome::Stopped { took: Duration::from_millis(5), killed: true }),
        Just(WorkerOutcome::Signalled),
        Just(WorkerOutcome::CleanedUp),
        Just(WorkerOutcome::Removed),
    ];
    prop_oneof![
        pods.clone().prop_map(move |set| source(&pick(set))),
        pods.clone().prop_map(move |set| relist(&pick(set))),
        (pods, uid.clone()).prop_map(move |(set, gone)| {
            let Event::Pods(PodUpdate { source, mut pods, .. }) = source(&pick(set)) else { unreachable!() };
            pods.retain(|named| named.pod.metadata.uid.as_deref() != Some(gone));
            Event::PodsChanged(PodChanges { source, named: pods, gone: vec![gone.into()] })
        }),
        (uid.clone(), outcome, any::<Option<bool>>()).prop_map(|(uid, outcome, read)| {
            let runtime = read.map(|runs| if runs { running(uid, 42) } else { PodRuntimeStatus::default() });
            Event::Worker(WorkerReport { pod: uid.into(), at: Mono::from_millis(1), outcome, runtime })
        }),
        (uid.clone(), 0usize..3, any::<Option<bool>>()).prop_map(|(uid, kind, verdict)| {
            Event::Probe(ProbeReport {
                pod: uid.into(),
                container: ContainerInstance { name: "c".into(), id: format!("{uid}-c") },
                kind: ProbeKind::ALL[kind],
                verdict,
                message: Some(ProbeMessage::Unhealthy("no".into())),
            })
        }),
        Just(Event::Tick),
        Just(Event::ObjectsChanged(vec!["1".into(), "2".into()])),
        Just(Event::BrakeFailed { held: Held::pod(&"1".into()), error: "no freezer".into() }),
        (0u64..200, 0u64..50).prop_map(|(a, b)| resources::disk(a, &[("1", b), ("2", 2 * b)])),
        Just(Event::Resources(ResourceAnswer::Reclaimed(Default::default()))),
        Just(Event::Runtime(Err("down".into()))),
        Just(Event::Runtime(Ok(()))),
        (0u64..60_000, 100u64..300).prop_map(|(ms, usage)| {
            reading(Mono::from_millis(1000 + ms), Reason::SampleDue, usage * MIB, &[("1", usage * MIB / 2)])
        }),
    ]
}

proptest! {
    /// [`Node::step`] asserts that planning over a noted plan plans nothing.
    #[test]
    fn any_events_come_to_rest(events in proptest::collection::vec(any_event(), 1..60)) {
        let mut node = Node::new(config());
        for event in events {
            node.step(event);
            node.now = node.now + Duration::from_millis(700);
            // No two pods of one name run at a time.
            let active = node.state.pods().filter(|p| p.mode == Mode::Active && p.id.name == "a").count();
            prop_assert!(active <= 1);
        }
    }
}
