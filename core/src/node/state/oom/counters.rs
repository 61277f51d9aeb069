//! OOM kills of which only a cgroup's `oom_kill` counter tells: the container's own, or, where that went with its cgroup
//! before it was read (systemd removes a scope at once), the pod's, which on cgroup v2 counts what happens below it.

use super::super::State;
use super::super::pod::PodState;
use crate::clock::Mono;
use crate::oom::limit::{describe_limit, with_limit};
use crate::pod::PodUid;
use crate::pod::runtime_status::{ContainerState, ContainerStatus};
use crate::reason::Reason;
use crate::signal::{Domain, DomainReading, MemoryReading};
use crate::trace::record::{Kind, Record};

/// 128 + SIGKILL.
const KILLED: i32 = 137;

impl State {
    /// With the kernel's own record this is the cross-check, and says nothing new. The pod's status has the kill at
    /// once, the trace when no record follows.
    pub(in super::super) fn compare_oom_counters(&mut self, reading: &MemoryReading, now: Mono) {
        for domain in &reading.domains {
            self.compare_container(domain, now);
        }
        for domain in &reading.domains {
            let Domain::Pod(uid) = &domain.domain else { continue };
            if self.pods.contains_key(uid) && self.oom.kills.pod_counter(uid, domain.oom_kills, now) {
                self.find_the_killed(&uid.clone(), now);
            }
        }
    }

    fn compare_container(&mut self, reading: &DomainReading, now: Mono) {
        let Domain::Container(uid, container) = &reading.domain else { return };
        // A reading may be of a moment before the pod was forgotten.
        if !self.pods.contains_key(uid) {
            return;
        }
        if !self.oom.kills.counter(&reading.domain, reading.oom_kills, now) {
            return;
        }
        if let Some(mut pod) = self.pods.get_mut(uid) {
            pod.note_oom_kill(container);
        }
        self.keep_what_is_known(&reading.domain, now);
    }

    /// The pod's counter has a kill that nobody told of. A container that SIGKILL ended is the one.
    pub(in super::super) fn find_the_killed(&mut self, uid: &PodUid, now: Mono) {
        if !self.oom.kills.is_unattributed(uid, now) {
            return;
        }
        let Some(pod) = self.pods.get(uid) else { return };
        let Some((id, name)) = ended_by_sigkill(pod).map(|c| (c.id.clone(), c.name.clone())).next() else {
            return;
        };
        if let Some(mut pod) = self.pods.get_mut(uid) {
            pod.oom_killed.insert(id);
            pod.unsaved = true;
        }
        let domain = Domain::Container(uid.clone(), name);
        self.oom.kills.attribute(uid, &domain, now);
        self.keep_what_is_known(&domain, now);
    }

    /// A container has been ended by SIGKILL, and whether the OOM killer sent it is to be read before the pod's cgroup
    /// goes as well.
    pub(in super::super) fn ask_for_counters(&mut self, uid: &PodUid) {
        self.oom.counters_wanted |=
            self.pods.get(uid).is_some_and(|pod| ended_by_sigkill(pod).next().is_some());
    }

    /// Made now: in a second nobody knows any more what was at its limit.
    fn keep_what_is_known(&mut self, domain: &Domain, now: Mono) {
        if let Domain::Container(uid, container) = domain
            && !self.oom.has_kept(domain)
        {
            let record = self.counted_kill(uid, container, now);
            self.oom.keep(domain, record);
        }
    }

    pub(in super::super) fn tell_unexplained_kills(&mut self, now: Mono) {
        for (domain, kills) in self.oom.kills.take_unexplained(now) {
            self.record_kill_by_counter(&domain, kills, now);
        }
    }

    pub(in super::super) fn record_kill_by_counter(&mut self, domain: &Domain, kills: u64, now: Mono) {
        let Domain::Container(uid, container) = domain else { return };
        let Some(id) = self.pods.get(uid).map(|pod| pod.id.clone()) else { return };
        let record = self.oom.take_kept(domain);
        let record = record.unwrap_or_else(|| self.counted_kill(uid, container, now));
        self.record(record.number("kills", kills).pod(&id).container(container.clone()));
    }

    fn counted_kill(&self, uid: &PodUid, container: &str, now: Mono) -> Record {
        let limit = self.limit_without_levels(uid, Some(container));
        let mut message =
            "the oom_kill counter rose: the kernel killed a process of the container".to_owned();
        message.push_str(&describe_limit(limit.as_ref()));
        let record = Record::new(now, Kind::OomKill, Reason::OomKilled, message);
        limit.as_ref().map_or(record.clone(), |limit| with_limit(record, limit))
    }
}

/// Of which no OOM kill is known, neither from the runtime nor from the kernel.
fn ended_by_sigkill(pod: &PodState) -> impl Iterator<Item = &ContainerStatus> {
    let containers = pod.containers.read().iter().filter(|c| c.state == ContainerState::Exited);
    let killed = containers.filter(|c| c.exit_code == KILLED && c.reason != "OOMKilled");
    killed.filter(|c| !pod.oom_killed.contains(&c.id))
}
