//! Which OOM kills of containers have been told of. The kernel's records and the `oom_kill` counters speak of the same
//! kills, in either order: the counter rises a moment before the record is written.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Mono;
use crate::pod::PodUid;
use crate::signal::{CgroupId, Domain};

/// How long a risen counter waits for the kernel's own record, which says more. Both come within microseconds of each
/// other; a busy loop takes them out late.
const RECORD_FOLLOWS: Duration = Duration::from_secs(1);

/// A whole container dies at once: its processes are marked one after the other, without a report in between.
const SAME_KILL: Duration = Duration::from_secs(1);

/// How long a risen pod counter waits for a container's exit: three of PLEG's relists, should one be lost.
const EXIT_FOLLOWS: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct KillAccount {
    /// The OOM killer takes all processes of a container (`memory.oom.group`).
    whole: bool,
    /// Cumulative, as read last, to tell a new kill from an old one.
    counters: BTreeMap<Domain, u64>,
    /// Kernel records whose counter has not been read yet.
    told: BTreeMap<Domain, u64>,
    /// Counted kills of which there is no kernel record, and since when.
    unexplained: BTreeMap<Domain, (u64, Mono)>,
    last: BTreeMap<Domain, LastKill>,
    pods: BTreeMap<PodUid, PodCounter>,
}

/// On cgroup v2 a pod's counter has its containers' kills as well, and outlives their cgroups.
#[derive(Clone, Copy, Debug, Default)]
struct PodCounter {
    /// As read last; `None` before the first time.
    count: Option<u64>,
    /// A kill in it was told of since.
    told: bool,
    /// It rose and nobody has told why, since then.
    unattributed: Option<Mono>,
}

#[derive(Clone, Copy, Debug)]
struct LastKill {
    at: Mono,
    victim: Victim,
}

/// Of a container's processes, who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    pub pid: u32,
    /// Where the kernel told: a container that is started again has another.
    pub cgroup: Option<CgroupId>,
}

/// What a kernel record of a kill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    New,
    /// One more process of a container that is killed as a whole.
    WithTheContainer,
    /// The same process: the kernel marks it for each of its threads that still holds the memory.
    Again,
}

impl KillAccount {
    #[must_use]
    pub fn new(whole: bool) -> KillAccount {
        KillAccount { whole, ..KillAccount::default() }
    }

    pub fn record(&mut self, container: &Domain, victim: Victim, at: Mono) -> Telling {
        match self.unexplained.get_mut(container) {
            Some((count, _)) if *count > 1 && !self.whole => *count -= 1,
            Some(_) => drop(self.unexplained.remove(container)),
            None => *self.told.entry(container.clone()).or_default() += 1,
        }
        if let Domain::Container(pod, _) = container {
            self.told_of_pod(pod);
        }
        let before = self.last.insert(container.clone(), LastKill { at, victim });
        let same_container = |last: &LastKill| match (last.victim.cgroup, victim.cgroup) {
            (Some(before), Some(now)) => before == now,
            _ => true,
        };
        match before.filter(|last| at.since(last.at) < SAME_KILL).filter(same_container) {
            Some(last) if last.victim.pid == victim.pid => Telling::Again,
            Some(_) if self.whole => Telling::WithTheContainer,
            _ => Telling::New,
        }
    }

    /// A counter was read. Whether it has counted what no record told.
    pub fn counter(&mut self, container: &Domain, count: u64, now: Mono) -> bool {
        let Some(before) = self.counters.insert(container.clone(), count) else { return false };
        let told = self.told.remove(container).unwrap_or(0);
        let mut new = count.saturating_sub(before).saturating_sub(told);
        // The kernel counts every process, and the first one twice; of those that it has marked it writes no record. A busy
        // machine may read the counter long after the record.
        let of_last = || self.last.get(container).is_some_and(|last| now.since(last.at) < SAME_KILL);
        if self.whole && (told > 0 || of_last()) {
            new = 0;
        }
        if new > 0 {
            self.unexplained.entry(container.clone()).or_insert((0, now)).0 += new;
            if let Domain::Container(pod, _) = container {
                self.told_of_pod(pod);
            }
        }
        new > 0
    }

    /// A pod's counter was read, after those of its containers. Whether it has counted what nobody has told.
    pub fn pod_counter(&mut self, pod: &PodUid, count: u64, now: Mono) -> bool {
        let counter = self.pods.entry(pod.clone()).or_default();
        let rose = counter.count.replace(count).is_some_and(|before| count > before);
        // The kernel counts before it writes its record: what was told before this reading is in it.
        let told = std::mem::take(&mut counter.told);
        if rose && !told {
            counter.unattributed = Some(now);
        }
        rose && !told
    }

    /// Whether the pod's counter has a kill of which it is not known whom it took.
    pub fn is_unattributed(&self, pod: &PodUid, now: Mono) -> bool {
        let since = self.pods.get(pod).and_then(|counter| counter.unattributed);
        since.is_some_and(|since| now.since(since) < EXIT_FOLLOWS)
    }

    /// What the pod's counter has counted was this container.
    pub fn attribute(&mut self, pod: &PodUid, container: &Domain, now: Mono) {
        if let Some(counter) = self.pods.get_mut(pod) {
            counter.unattributed = None;
        }
        self.unexplained.entry(container.clone()).or_insert((0, now)).0 += 1;
    }

    /// A kill in the pod was told of, whoever told.
    pub fn told_of_pod(&mut self, pod: &PodUid) {
        let counter = self.pods.entry(pod.clone()).or_default();
        // Read already, or not yet.
        counter.told |= counter.unattributed.take().is_none();
    }

    /// Kills that only the counter will ever tell of, and how many; each is told once.
    pub fn take_unexplained(&mut self, now: Mono) -> Vec<(Domain, u64)> {
        let due = |since: Mono| now.since(since) >= RECORD_FOLLOWS;
        let taken = self.unexplained.iter().filter(|(_, (_, since))| due(*since));
        let taken: Vec<_> = taken.map(|(domain, (count, _))| (domain.clone(), *count)).collect();
        self.unexplained.retain(|_, (_, since)| !due(*since));
        taken
    }

    /// When [`KillAccount::take_unexplained`] has something next.
    pub fn next_due(&self) -> Option<Mono> {
        self.unexplained.values().map(|(_, since)| *since + RECORD_FOLLOWS).min()
    }

    /// The pod is forgotten. What is left to be told of it.
    pub fn forget(&mut self, pod: &PodUid) -> Vec<(Domain, u64)> {
        let left = self.unexplained.iter().filter(|(domain, _)| domain.is_of(pod));
        let left = left.map(|(domain, (count, _))| (domain.clone(), *count)).collect();
        self.counters.retain(|domain, _| !domain.is_of(pod));
        self.told.retain(|domain, _| !domain.is_of(pod));
        self.unexplained.retain(|domain, _| !domain.is_of(pod));
        self.last.retain(|domain, _| !domain.is_of(pod));
        self.pods.remove(pod);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Hierarchy;

    enum Said {
        Record(u32),
        Counter(u64),
    }
    use Said::{Counter, Record};

    fn container() -> Domain {
        Domain::Container("u".into(), "c".into())
    }

    /// What comes at which millisecond → kills told of by records, and by the counter alone.
    #[test]
    fn each_kill_is_told_once() {
        for (what, whole, said, expected) in [
            ("record, then counter", false, vec![(0, Counter(0)), (9, Record(1)), (10, Counter(1))], (1, 0)),
            ("counter, then record", false, vec![(0, Counter(0)), (9, Counter(1)), (10, Record(1))], (1, 0)),
            ("counter alone", false, vec![(0, Counter(0)), (9, Counter(1)), (10, Counter(1))], (0, 1)),
            ("two, one told", false, vec![(0, Counter(0)), (9, Record(1)), (10, Counter(2))], (1, 1)),
            ("two, told late", false, vec![(0, Counter(0)), (9, Counter(2)), (10, Record(1))], (1, 1)),
            ("a container as a whole", true, vec![(0, Counter(0)), (9, Record(1)), (9, Record(2))], (1, 0)),
            ("process by process", false, vec![(0, Counter(0)), (9, Record(1)), (9, Record(2))], (2, 0)),
            (
                "marked twice",
                false,
                vec![(0, Counter(0)), (9, Record(1)), (9, Record(1)), (9, Counter(2))],
                (1, 0),
            ),
            (
                "as a whole, counted once more",
                true,
                vec![(0, Counter(0)), (9, Record(1)), (10, Counter(2))],
                (1, 0),
            ),
            (
                "as a whole, counted long after",
                true,
                vec![(0, Counter(0)), (9, Record(1)), (1423, Counter(2)), (1424, Counter(2))],
                (1, 0),
            ),
            (
                "as a whole, counted first",
                true,
                vec![(0, Counter(0)), (9, Counter(3)), (10, Record(1))],
                (1, 0),
            ),
            ("as a whole, never told", true, vec![(0, Counter(0)), (9, Counter(3))], (0, 3)),
            ("killed again later", true, vec![(0, Counter(0)), (9, Record(1)), (5000, Record(2))], (2, 0)),
            ("from before the agent", false, vec![(0, Counter(7)), (9, Counter(7))], (0, 0)),
            ("a new cgroup", false, vec![(0, Counter(7)), (9, Counter(0)), (10, Counter(1))], (0, 1)),
        ] {
            let mut account = KillAccount::new(whole);
            let (mut by_record, mut by_counter) = (0, 0);
            for (ms, said) in said {
                let at = Mono::from_millis(1000 + ms);
                match said {
                    Record(pid) => {
                        let victim = Victim { pid, cgroup: None };
                        by_record += u64::from(account.record(&container(), victim, at) == Telling::New);
                    }
                    Counter(count) => drop(account.counter(&container(), count, at)),
                }
            }
            let wait = account.next_due();
            if let Some(due) = wait {
                assert!(due > Mono::from_millis(1500));
                assert!(account.take_unexplained(Mono::from_millis(1500)).is_empty(), "{what}");
                by_counter += account.take_unexplained(due).iter().map(|(_, count)| count).sum::<u64>();
            }
            assert!(account.next_due().is_none(), "{what}");
            assert_eq!((by_record, by_counter), expected, "{what}");
        }
    }

    /// The same name, another cgroup: the container was started again and has run into its limit at once.
    #[test]
    fn a_container_that_was_started_again_is_another() {
        let victim = |pid, id| Victim { pid, cgroup: Some(CgroupId { hierarchy: Hierarchy::Unified, id }) };
        let mut account = KillAccount::new(true);
        assert_eq!(account.record(&container(), victim(1, 7), Mono::ZERO), Telling::New);
        assert_eq!(account.record(&container(), victim(2, 7), Mono::ZERO), Telling::WithTheContainer);
        assert_eq!(account.record(&container(), victim(3, 8), Mono::from_millis(300)), Telling::New);
    }

    #[test]
    fn what_is_left_is_told_when_the_pod_is_forgotten() {
        let mut account = KillAccount::default();
        account.counter(&container(), 0, Mono::ZERO);
        account.counter(&container(), 2, Mono::ZERO);
        assert_eq!(account.forget(&"other".into()), []);
        assert_eq!(account.forget(&"u".into()), [(container(), 2)]);
        assert_eq!(account.forget(&"u".into()), []);
    }
}
