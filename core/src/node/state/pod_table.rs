//! The pods of the node, and what follows from all of them together: who may be evicted, what is requested, whose time has
//! come. Each change of one pod corrects these by that pod's part, so that no event costs more where there are more pods.
//!
//! A pod is changed through [`PodTable::get_mut`] alone: what it hands out notes the pod's part before, and corrects the
//! rest by what has become of it when it is dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::pod::{Mode, PodState};
use crate::clock::Mono;
use crate::eviction::Candidate;
use crate::eviction::resources::ResourceCandidate;
use crate::node::published::PublishedPod;
use crate::pod::qos::{Amounts, QosClass};
use crate::pod::{Pod, PodUid};

#[derive(Debug, Default)]
pub struct PodTable {
    pods: BTreeMap<PodUid, PodState>,
    derived: Derived,
}

impl PodTable {
    #[must_use]
    pub fn get(&self, uid: &PodUid) -> Option<&PodState> {
        self.pods.get(uid)
    }

    #[must_use]
    pub fn contains_key(&self, uid: &PodUid) -> bool {
        self.pods.contains_key(uid)
    }

    /// All of them, in order of UID.
    pub fn values(&self) -> impl Iterator<Item = &PodState> {
        self.pods.values()
    }

    /// The pod, to be changed. It is planned for again, whatever is done with it.
    pub fn get_mut(&mut self, uid: &PodUid) -> Option<PodMut<'_>> {
        let pod = self.pods.get_mut(uid)?;
        let before = Part::of(pod);
        Some(PodMut { pod, derived: &mut self.derived, before })
    }

    /// What everybody outside sees of the pod is known again; `Some` where it differs from before. Nothing else follows.
    pub fn published(&mut self, uid: &PodUid, differs: Option<Arc<PublishedPod>>) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.unsaved = false;
            if let Some(published) = differs {
                pod.status = Some(Arc::clone(&published.status));
                pod.published = Some(published);
            }
        }
    }

    /// For what concerns every pod, such as the runtime's return: costs with their number.
    pub fn for_each_mut(&mut self, mut change: impl FnMut(&mut PodState)) {
        for pod in self.pods.values_mut() {
            let before = Part::of(pod);
            change(pod);
            self.derived.correct(pod, &before, &Part::of(pod));
        }
    }

    pub fn insert(&mut self, pod: PodState) {
        let uid = pod.id.uid.clone();
        self.remove(&uid);
        self.derived.by_name.entry(name_of(&pod)).or_default().insert(uid.clone());
        self.derived.correct(&pod, &Part::default(), &Part::of(&pod));
        self.pods.insert(uid, pod);
    }

    pub fn remove(&mut self, uid: &PodUid) -> Option<PodState> {
        let pod = self.pods.remove(uid)?;
        self.derived.correct(&pod, &Part::of(&pod), &Part::default());
        self.derived.touched.remove(uid);
        self.derived.changed.remove(uid);
        let name = name_of(&pod);
        if let Some(uids) = self.derived.by_name.get_mut(&name) {
            uids.remove(uid);
            if uids.is_empty() {
                self.derived.by_name.remove(&name);
            }
        }
        Some(pod)
    }

    /// Pods of this namespace and name: more than one where an edited manifest's old pod is still ending.
    pub fn named<'a>(&'a self, namespace: &str, name: &str) -> impl Iterator<Item = &'a PodState> {
        let uids = self.derived.by_name.get(&(namespace.to_owned(), name.to_owned()));
        uids.into_iter().flatten().filter_map(|uid| self.pods.get(uid))
    }

    /// The pod of a container's first process.
    #[must_use]
    pub fn of_pid(&self, pid: u32) -> Option<&PodState> {
        self.derived.by_pid.get(&pid).and_then(|uid| self.pods.get(uid))
    }

    /// Not admitted yet.
    pub fn pending(&self) -> impl Iterator<Item = &PodState> {
        self.derived.pending.iter().filter_map(|uid| self.pods.get(uid))
    }

    /// Those that the plan may have something to do for: changed since the last plan, or their time has come.
    pub fn due(&self, now: Mono) -> impl Iterator<Item = &PodState> {
        let timers = self.derived.timers.iter().take_while(move |(at, _)| *at <= now).map(|(_, uid)| uid);
        let due: BTreeSet<&PodUid> = self.derived.touched.iter().chain(timers).collect();
        due.into_iter().filter_map(|uid| self.pods.get(uid))
    }

    /// Those whose time has come.
    pub fn timed(&self, now: Mono) -> impl Iterator<Item = &PodState> {
        let timers = self.derived.timers.iter().take_while(move |(at, _)| *at <= now);
        timers.filter_map(|(_, uid)| self.pods.get(uid))
    }

    /// The plan has looked at all that had changed.
    pub fn planned(&mut self) {
        self.derived.touched.clear();
    }

    /// Those that have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<PodUid> {
        std::mem::take(&mut self.derived.changed)
    }

    #[must_use]
    pub fn next_due(&self) -> Option<Mono> {
        self.derived.timers.first().map(|(at, _)| *at)
    }

    /// Active pods, as the eviction manager ranks them; in no order that means anything.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.derived.candidates.items
    }

    /// The same pods, as far as disks and process ids are concerned.
    #[must_use]
    pub fn resource_candidates(&self) -> &[Arc<ResourceCandidate>] {
        &self.derived.resource_candidates.items
    }

    /// What the active pods of the class Burstable request, in thousandths of a CPU.
    #[must_use]
    pub fn burstable_milli_cpu(&self) -> u64 {
        u64::try_from(self.derived.burstable_milli_cpu).unwrap_or(u64::MAX)
    }

    /// Refused, for now or for good.
    #[must_use]
    pub fn rejected(&self) -> Vec<PodUid> {
        self.derived.rejected.iter().cloned().collect()
    }

    /// What the pods that the node has taken and that have not ended request, all but `without`; and how many they are.
    #[must_use]
    pub fn admitted(&self, without: &[PodUid]) -> (Amounts, usize) {
        self.sums(without, |part| part.admitted, self.derived.admitted)
    }

    /// The same of those that are not about to end.
    #[must_use]
    pub fn staying(&self, without: &[PodUid]) -> (Amounts, usize) {
        self.sums(without, |part| part.staying, self.derived.staying)
    }

    fn sums(&self, without: &[PodUid], of: impl Fn(&Part) -> Sums, all: Sums) -> (Amounts, usize) {
        let parts = without.iter().filter_map(|uid| self.pods.get(uid)).map(Part::of);
        let sums = parts.fold(all, |sums, part| sums.less(of(&part)));
        let amounts = Amounts {
            milli_cpu: u64::try_from(sums.milli_cpu).unwrap_or(u64::MAX),
            memory_bytes: u64::try_from(sums.memory_bytes).unwrap_or(u64::MAX),
        };
        (amounts, sums.pods)
    }
}

fn name_of(pod: &PodState) -> (String, String) {
    (pod.id.namespace.clone(), pod.id.name.clone())
}

/// A pod that is being changed.
#[derive(Debug)]
pub struct PodMut<'a> {
    pod: &'a mut PodState,
    derived: &'a mut Derived,
    before: Part,
}

impl Deref for PodMut<'_> {
    type Target = PodState;
    fn deref(&self) -> &PodState {
        self.pod
    }
}

impl DerefMut for PodMut<'_> {
    fn deref_mut(&mut self) -> &mut PodState {
        self.pod
    }
}

impl Drop for PodMut<'_> {
    fn drop(&mut self) {
        self.derived.correct(self.pod, &self.before, &Part::of(self.pod));
    }
}

/// What one pod adds to [`Derived`].
#[derive(Clone, Debug, Default)]
struct Part {
    /// When the plan has something to do for it with nothing else happening.
    next: Option<Mono>,
    pending: bool,
    rejected: bool,
    /// The manifest that is active, to tell another from it.
    active: Option<Arc<Pod>>,
    burstable_milli_cpu: u64,
    admitted: Sums,
    staying: Sums,
    pids: Vec<u32>,
}

impl Part {
    fn of(pod: &PodState) -> Part {
        let active = pod.mode == Mode::Active;
        let Amounts { milli_cpu, memory_bytes } = pod.requests;
        let (milli_cpu, memory_bytes) = (u128::from(milli_cpu), u128::from(memory_bytes));
        let sums = |counts: bool| {
            if counts { Sums { milli_cpu, memory_bytes, pods: 1 } } else { Sums::default() }
        };
        let admitted = pod.mode.may_hold_memory() && !pod.orphan;
        Part {
            next: pod.next_wakeup(),
            pending: pod.mode == Mode::Pending,
            rejected: matches!(pod.mode, Mode::Rejected(_)),
            active: active.then(|| Arc::clone(&pod.pod)),
            burstable_milli_cpu: if active && pod.candidate.qos == QosClass::Burstable {
                pod.requests.milli_cpu
            } else {
                0
            },
            admitted: sums(admitted),
            staying: sums(admitted && !pod.mode.is_ending()),
            pids: pod.running_pids().collect(),
        }
    }
}

/// Wide enough for the sum of any requests that a pod can be written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    milli_cpu: u128,
    memory_bytes: u128,
    pods: usize,
}

impl Sums {
    fn plus(self, other: Sums) -> Sums {
        Sums {
            milli_cpu: self.milli_cpu + other.milli_cpu,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            pods: self.pods + other.pods,
        }
    }

    fn less(self, other: Sums) -> Sums {
        Sums {
            milli_cpu: self.milli_cpu - other.milli_cpu,
            memory_bytes: self.memory_bytes - other.memory_bytes,
            pods: self.pods - other.pods,
        }
    }
}

#[derive(Debug, Default)]
struct Derived {
    by_name: BTreeMap<(String, String), BTreeSet<PodUid>>,
    by_pid: HashMap<u32, PodUid>,
    pending: BTreeSet<PodUid>,
    rejected: BTreeSet<PodUid>,
    timers: BTreeSet<(Mono, PodUid)>,
    /// Changed since the last plan.
    touched: BTreeSet<PodUid>,
    /// Changed since what follows from a pod alone was last worked out.
    changed: BTreeSet<PodUid>,
    candidates: Listed<Candidate>,
    resource_candidates: Listed<Arc<ResourceCandidate>>,
    burstable_milli_cpu: u128,
    admitted: Sums,
    staying: Sums,
}

impl Derived {
    fn correct(&mut self, pod: &PodState, before: &Part, after: &Part) {
        let uid = &pod.id.uid;
        self.touched.insert(uid.clone());
        self.changed.insert(uid.clone());
        if before.next != after.next {
            if let Some(at) = before.next {
                self.timers.remove(&(at, uid.clone()));
            }
            self.timers.extend(after.next.map(|at| (at, uid.clone())));
        }
        if after.pending {
            self.pending.insert(uid.clone());
        } else if before.pending {
            self.pending.remove(uid);
        }
        if after.rejected {
            self.rejected.insert(uid.clone());
        } else if before.rejected {
            self.rejected.remove(uid);
        }
        match (&before.active, &after.active) {
            (Some(was), Some(is)) if Arc::ptr_eq(was, is) => {}
            (_, Some(_)) => {
                self.candidates.put(uid, pod.candidate.clone());
                self.resource_candidates.put(uid, Arc::clone(&pod.resource_candidate));
            }
            (Some(_), None) => {
                self.candidates.take(uid);
                self.resource_candidates.take(uid);
            }
            (None, None) => {}
        }
        self.burstable_milli_cpu += u128::from(after.burstable_milli_cpu);
        self.burstable_milli_cpu -= u128::from(before.burstable_milli_cpu);
        self.admitted = self.admitted.plus(after.admitted).less(before.admitted);
        self.staying = self.staying.plus(after.staying).less(before.staying);
        if before.pids != after.pids {
            for pid in &before.pids {
                if self.by_pid.get(pid) == Some(uid) {
                    self.by_pid.remove(pid);
                }
            }
            self.by_pid.extend(after.pids.iter().map(|pid| (*pid, uid.clone())));
        }
    }
}

/// A list from which each pod's item is found and taken out at once.
#[derive(Debug)]
struct Listed<T> {
    items: Vec<T>,
    uids: Vec<PodUid>,
    place: HashMap<PodUid, usize>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed { items: Vec::new(), uids: Vec::new(), place: HashMap::new() }
    }
}

impl<T> Listed<T> {
    fn put(&mut self, uid: &PodUid, item: T) {
        match self.place.get(uid) {
            Some(place) => self.items[*place] = item,
            None => {
                self.place.insert(uid.clone(), self.items.len());
                self.items.push(item);
                self.uids.push(uid.clone());
            }
        }
    }

    /// The last one takes its place.
    fn take(&mut self, uid: &PodUid) {
        let Some(place) = self.place.remove(uid) else { return };
        self.items.swap_remove(place);
        self.uids.swap_remove(place);
        if let Some(moved) = self.uids.get(place) {
            self.place.insert(moved.clone(), place);
        }
    }
}

#[cfg(test)]
mod tests;
