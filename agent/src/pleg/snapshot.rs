//! What the runtime has at one moment, and what happened between two such moments. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::cri::convert::{ListedContainer, ListedSandbox};
use oomlet_core::clock::Mono;
use oomlet_core::node::event::{PodLifecycleEvent, PodLifecycleEventKind, RuntimePod, RuntimePods};
use oomlet_core::pod::runtime_status::ContainerState;
use oomlet_core::pod::{ContainerInstance, PodUid, containers};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub sandboxes: Vec<ListedSandbox>,
    pub containers: Vec<ListedContainer>,
}

impl Snapshot {
    /// By pod; containers newest first. `listed_at`: when the listing began.
    #[must_use]
    pub fn pods(&self, listed_at: Mono) -> RuntimePods {
        let mut pods: BTreeMap<&PodUid, RuntimePod> = BTreeMap::new();
        let empty = |pod: &oomlet_core::pod::PodRef| RuntimePod {
            pod: pod.clone(),
            containers: Vec::new(),
            sandboxes: Vec::new(),
        };
        for s in &self.sandboxes {
            let pod = pods.entry(&s.pod.uid).or_insert_with(|| empty(&s.pod));
            pod.sandboxes.push(containers::ListedSandbox { id: s.id.clone(), ready: s.ready });
        }
        let mut containers: Vec<&ListedContainer> = self.containers.iter().collect();
        containers.sort_by_key(|c| std::cmp::Reverse(c.created_at_ns));
        for c in containers {
            let pod = pods.entry(&c.pod.uid).or_insert_with(|| empty(&c.pod));
            let container = ContainerInstance { name: c.name.clone(), id: c.id.clone() };
            pod.containers.push(containers::ListedContainer { container, state: c.state });
        }
        RuntimePods { listed_at, pods: pods.into_values().collect() }
    }

    /// What happened since `old`, in kubelet's words (`generateEvents`, pkg/kubelet/pleg/generic.go): a container
    /// that started and ended between two looks has died. A created one and one of unknown state are no event.
    #[must_use]
    pub fn events_since(&self, old: &Snapshot) -> Vec<PodLifecycleEvent> {
        use PodLifecycleEventKind::{ContainerDied, ContainerRemoved, ContainerStarted, PodSandboxChanged};
        let mut events = Vec::new();
        let mut push = |pod: &PodUid, kind, id: &str| {
            events.push(PodLifecycleEvent { pod: pod.clone(), kind, id: id.to_owned() });
        };
        for (id, pod, ..) in changed(readiness(&old.sandboxes), readiness(&self.sandboxes)) {
            push(pod, PodSandboxChanged, id);
        }
        for (id, pod, was, is) in changed(states(&old.containers), states(&self.containers)) {
            match (was, is) {
                (_, Some(ContainerState::Running)) => push(pod, ContainerStarted, id),
                (_, Some(ContainerState::Exited)) => push(pod, ContainerDied, id),
                (_, Some(ContainerState::Created | ContainerState::Unknown)) => {}
                (Some(ContainerState::Running | ContainerState::Unknown), None) => {
                    push(pod, ContainerDied, id);
                    push(pod, ContainerRemoved, id);
                }
                (_, None) => push(pod, ContainerRemoved, id),
            }
        }
        events
    }
}

/// By id, of which pod, and how it is.
type States<'a, S> = BTreeMap<&'a str, (&'a PodUid, S)>;

fn states(containers: &[ListedContainer]) -> States<'_, ContainerState> {
    containers.iter().map(|c| (c.id.as_str(), (&c.pod.uid, c.state))).collect()
}

fn readiness(sandboxes: &[ListedSandbox]) -> States<'_, bool> {
    sandboxes.iter().map(|s| (s.id.as_str(), (&s.pod.uid, s.ready))).collect()
}

/// What differs, by id: its state before and now; `None`: not there.
fn changed<'a, S: Copy + PartialEq>(
    old: States<'a, S>,
    new: States<'a, S>,
) -> impl Iterator<Item = (&'a str, &'a PodUid, Option<S>, Option<S>)> {
    let ids: BTreeSet<&'a str> = old.keys().chain(new.keys()).copied().collect();
    ids.into_iter().filter_map(move |id| {
        let (was, is) = (old.get(id), new.get(id));
        let (pod, _) = is.or(was)?;
        let (was, is) = (was.map(|(_, state)| *state), is.map(|(_, state)| *state));
        (was != is).then_some((id, *pod, was, is))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContainerState::{Created, Exited, Running, Unknown};
    use PodLifecycleEventKind::{ContainerDied, ContainerRemoved, ContainerStarted, PodSandboxChanged};
    use oomlet_core::pod::PodRef;

    fn pod(uid: &str) -> PodRef {
        PodRef { uid: PodUid::from(uid), namespace: "default".into(), name: uid.into() }
    }

    fn snapshot(sandboxes: &[(&str, bool)], containers: &[(&str, ContainerState)]) -> Snapshot {
        Snapshot {
            sandboxes: sandboxes
                .iter()
                .map(|(id, ready)| ListedSandbox {
                    id: (*id).into(),
                    pod: pod("u"),
                    ready: *ready,
                    created_at_ns: 0,
                })
                .collect(),
            containers: (0..)
                .zip(containers)
                .map(|(n, (id, state))| ListedContainer {
                    id: (*id).into(),
                    pod: pod("u"),
                    name: "c".into(),
                    state: *state,
                    created_at_ns: n,
                })
                .collect(),
        }
    }

    #[test]
    fn container_events() {
        for (was, is, kinds) in [
            (None, None, vec![]),
            (None, Some(Created), vec![]),
            (None, Some(Running), vec![ContainerStarted]),
            (None, Some(Exited), vec![ContainerDied]),
            (None, Some(Unknown), vec![]),
            (Some(Created), Some(Running), vec![ContainerStarted]),
            (Some(Created), Some(Exited), vec![ContainerDied]),
            (Some(Running), Some(Running), vec![]),
            (Some(Running), Some(Exited), vec![ContainerDied]),
            (Some(Running), Some(Unknown), vec![]),
            (Some(Unknown), Some(Running), vec![ContainerStarted]),
            (Some(Running), None, vec![ContainerDied, ContainerRemoved]),
            (Some(Unknown), None, vec![ContainerDied, ContainerRemoved]),
            (Some(Exited), None, vec![ContainerRemoved]),
            (Some(Created), None, vec![ContainerRemoved]),
        ] {
            let make = |s: Option<ContainerState>| {
                snapshot(&[], &s.map(|s| ("c1", s)).into_iter().collect::<Vec<_>>())
            };
            let events = make(is).events_since(&make(was));
            assert_eq!(events.iter().map(|e| e.kind).collect::<Vec<_>>(), kinds, "{was:?} → {is:?}");
            assert!(events.iter().all(|e| e.id == "c1" && e.pod.as_str() == "u"));
        }
    }

    #[test]
    fn sandbox_events() {
        for (was, is, events) in [
            (vec![], vec![("s1", true)], 1),
            (vec![("s1", true)], vec![("s1", true)], 0),
            (vec![("s1", true)], vec![("s1", false)], 1),
            (vec![("s1", false)], vec![], 1),
            (vec![("s1", false)], vec![("s1", false), ("s2", true)], 1),
        ] {
            let found = snapshot(&is, &[]).events_since(&snapshot(&was, &[]));
            assert_eq!(found.len(), events, "{was:?} → {is:?}");
            assert!(found.iter().all(|e| e.kind == PodSandboxChanged));
        }
    }

    #[test]
    fn by_pod_newest_container_first() {
        let mut s = snapshot(&[("s1", false), ("s2", true)], &[("old", Exited), ("new", Running)]);
        s.containers.push(ListedContainer { pod: pod("other"), ..s.containers[0].clone() });
        let pods = s.pods(Mono::ZERO).pods;
        assert_eq!(pods.len(), 2);
        let u = pods.iter().find(|p| p.pod.uid.as_str() == "u").unwrap();
        assert_eq!(
            u.sandboxes.iter().map(|s| (s.id.as_str(), s.ready)).collect::<Vec<_>>(),
            [("s1", false), ("s2", true)]
        );
        assert_eq!(u.containers.iter().map(|c| c.container.id.as_str()).collect::<Vec<_>>(), ["new", "old"]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_new_is_no_event(states in proptest::collection::vec((0..9u8, 0..4usize), 0..20)) {
            let all = [Created, Running, Exited, Unknown];
            let ids: BTreeMap<String, ContainerState> = states.iter().map(|(id, s)| (format!("c{id}"), all[*s])).collect();
            let list: Vec<(&str, ContainerState)> = ids.iter().map(|(id, s)| (id.as_str(), *s)).collect();
            let s = snapshot(&[("s", true)], &list);
            proptest::prop_assert!(s.events_since(&s).is_empty());
        }
    }
}
