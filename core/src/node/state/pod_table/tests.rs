use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::node::state::pod::Outstanding;
use crate::pod::runtime_status::{ContainerState, ContainerStatus, PodRuntimeStatus};
use crate::reason::Reason;

fn pod(n: u8, milli_cpu: u64) -> PodState {
    let requests = json!({"cpu": format!("{milli_cpu}m"), "memory": "1Mi"});
    let pod = serde_json::from_value(json!({
        "metadata": {"uid": format!("u{n}"), "namespace": "ns", "name": format!("n{}", n % 4)},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]},
    }));
    PodState::new(Arc::new(pod.unwrap()), None, None, false)
}

/// What happens to a pod.
#[derive(Clone, Debug)]
enum Change {
    Put(u64),
    Take,
    Mode(u8),
    Timer(Option<u64>),
    Pid(u32),
    Manifest(u64),
}

fn changes() -> impl Strategy<Value = Vec<(u8, Change)>> {
    let change = prop_oneof![
        (1..5000u64).prop_map(Change::Put),
        Just(Change::Take),
        (0..5u8).prop_map(Change::Mode),
        proptest::option::of(1..50u64).prop_map(Change::Timer),
        (1..6u32).prop_map(Change::Pid),
        (1..5000u64).prop_map(Change::Manifest),
    ];
    proptest::collection::vec((0..6u8, change), 1..80)
}

fn carry_out(table: &mut PodTable, n: u8, change: Change) {
    let uid: PodUid = format!("u{n}").as_str().into();
    if let Change::Put(cpu) = change {
        return table.insert(pod(n, cpu));
    }
    if matches!(change, Change::Take) {
        table.remove(&uid);
        return;
    }
    let Some(mut known) = table.get_mut(&uid) else { return };
    match change {
        Change::Put(_) | Change::Take => {}
        Change::Mode(m) => {
            known.mode = match m {
                0 => Mode::Pending,
                1 | 2 => Mode::Active,
                3 => Mode::Removing { reason: Reason::PodRemoved },
                _ => Mode::Completed { succeeded: true, stopped: true },
            }
        }
        Change::Timer(at) => {
            known.outstanding = Outstanding::Nothing;
            known.next_sync = at.map(|s| (Mono::ZERO + Duration::from_secs(s), Reason::Resync));
        }
        Change::Pid(pid) => {
            let container = ContainerStatus {
                pid: Some(100 * u32::from(n) + pid),
                ..ContainerStatus::bare("id", "c", ContainerState::Running)
            };
            known
                .containers
                .set_read(PodRuntimeStatus { sandboxes: Vec::new(), containers: vec![container] });
        }
        Change::Manifest(cpu) => {
            let PodState { pod: manifest, candidate, resource_candidate, requests, .. } = pod(n, cpu);
            let known: &mut PodState = &mut known;
            (known.pod, known.candidate) = (manifest, candidate);
            (known.resource_candidate, known.requests) = (resource_candidate, requests);
        }
    }
}

proptest! {
    /// However pods come, change and go: what is kept up is what counting anew gives.
    #[test]
    fn what_is_kept_up_is_what_counting_gives(changes in changes(), now in 0..60u64) {
        let mut table = PodTable::default();
        for (n, change) in changes {
            carry_out(&mut table, n, change);
            table.planned();
        }
        let all: Vec<&PodState> = table.values().collect();
        let active: BTreeSet<&PodUid> =
            all.iter().filter(|p| p.mode == Mode::Active).map(|p| &p.id.uid).collect();
        prop_assert_eq!(table.candidates().iter().map(|c| &c.pod.uid).collect::<BTreeSet<_>>(), active.clone());
        prop_assert_eq!(table.candidates().len(), active.len());
        prop_assert_eq!(table.resource_candidates().len(), active.len());
        for candidate in table.candidates() {
            prop_assert_eq!(candidate, &table.get(&candidate.pod.uid).unwrap().candidate);
        }
        let burstable: u64 = active.iter().map(|uid| table.get(uid).unwrap().requests.milli_cpu).sum();
        prop_assert_eq!(table.burstable_milli_cpu(), burstable);
        let taken = all.iter().filter(|p| p.mode.may_hold_memory());
        let sum = taken.clone().fold(Amounts::default(), |sum, p| sum.plus(p.requests));
        prop_assert_eq!(table.admitted(&[]), (sum, taken.count()));
        let staying = all.iter().filter(|p| p.mode.may_hold_memory() && !p.mode.is_ending());
        let sum = staying.clone().fold(Amounts::default(), |sum, p| sum.plus(p.requests));
        prop_assert_eq!(table.staying(&[]), (sum, staying.count()));
        let pending = all.iter().filter(|p| p.mode == Mode::Pending).map(|p| &p.id.uid);
        prop_assert!(table.pending().map(|p| &p.id.uid).eq(pending));
        prop_assert_eq!(table.next_due(), all.iter().filter_map(|p| p.next_wakeup()).min());
        let now = Mono::ZERO + Duration::from_secs(now);
        let due = all.iter().filter(|p| p.next_wakeup().is_some_and(|at| at <= now)).map(|p| &p.id.uid);
        prop_assert!(table.due(now).map(|p| &p.id.uid).eq(due));
        for p in &all {
            prop_assert!(table.named(&p.id.namespace, &p.id.name).any(|named| named.id == p.id));
            for pid in p.running_pids() {
                prop_assert_eq!(&table.of_pid(pid).unwrap().id, &p.id);
            }
        }
        prop_assert_eq!(table.derived.by_name.values().map(BTreeSet::len).sum::<usize>(), all.len());
        prop_assert_eq!(table.derived.by_pid.len(), all.iter().flat_map(|p| p.running_pids()).count());
    }
}

#[test]
fn what_has_changed_is_planned_for_once() {
    let mut table = PodTable::default();
    table.insert(pod(1, 1));
    table.insert(pod(2, 1));
    let due = |table: &PodTable| table.due(Mono::ZERO).map(|p| p.id.uid.to_string()).collect::<Vec<_>>();
    assert_eq!(due(&table), ["u1", "u2"]);
    table.planned();
    assert_eq!(due(&table), [""; 0]);
    drop(table.get_mut(&"u2".into()));
    assert_eq!(due(&table), ["u2"]);
    assert_eq!(table.take_changed().len(), 2);
    assert_eq!(table.take_changed().len(), 0);
}
