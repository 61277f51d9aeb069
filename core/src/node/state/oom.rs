//! OOM kills, explained: who was killed, and which limit it was about. The kernel's record comes first; counters and the
//! runtime's word cover what it cannot tell.

mod counters;

use std::fmt::Write as _;

use super::State;
use crate::clock::Mono;
use crate::oom::kill_account::Telling;
use crate::oom::limit::{self, Known, Limit, describe_limit, node_had_memory, with_limit};
use crate::pod::{PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::attribution::{Target, nearest_limit, oom_limit, told_limit};
use crate::signal::{Domain, KernelEvent, OomBegin, OomScope, OomVictim};
use crate::trace::record::{Kind, Record};

impl State {
    pub(super) fn apply_oom_kill(&mut self, event: &KernelEvent, victim: &OomVictim) {
        let begun = self.oom.begin_of(event, victim);
        let chosen = begun.map(|begun| &begun.chosen).filter(|chosen| chosen.pid == victim.pid);
        let victim = chosen.map_or(victim.clone(), |chosen| victim.clone().or(chosen));
        let target = self.target_of_victim(&victim);
        let limit = self.limit_of(&victim, target.as_ref(), begun);
        let mut message = describe_victim(&victim);
        message.push_str(&describe_limit(limit.as_ref()));
        let mut record = Record::new(event.at, Kind::OomKill, Reason::OomKilled, message)
            .number("victim_pid", victim.pid)
            .number("event_to_record_us", event.read_at.since(event.at).as_micros());
        for (name, value) in [
            ("victim_anon_rss_bytes", victim.anon_rss_bytes),
            ("victim_file_rss_bytes", victim.file_rss_bytes),
            ("victim_shmem_rss_bytes", victim.shmem_rss_bytes),
            ("victim_total_vm_bytes", victim.total_vm_bytes),
        ] {
            if let Some(value) = value {
                record = record.number(name, value);
            }
        }
        if let Some(begun) = begun {
            record = with_oom_begin(record, begun);
        }
        if let Some(limit) = &limit {
            record = with_limit(record, limit);
        }
        if let Some(target) = target {
            let telling = self.count_kill(event.at, &victim, &target);
            record = self.with_target(record, &target);
            match telling {
                Telling::New => {}
                Telling::WithTheContainer => record.kind = Kind::Signal,
                Telling::Again => return,
            }
        }
        self.record(record);
    }

    /// Notes the kill of a container's process with the pod, and whether it is news.
    fn count_kill(&mut self, at: Mono, victim: &OomVictim, target: &Target) -> Telling {
        let Target::Container(uid, container) = target else { return Telling::New };
        let Some(mut pod) = self.pods.get_mut(uid) else { return Telling::New };
        pod.note_oom_kill(container);
        drop(pod);
        let domain = Domain::Container(uid.clone(), container.clone());
        self.oom.record(&domain, victim, at)
    }

    /// By its cgroup (tier 2); below that the record has a pid only, and container init processes are known by theirs.
    fn target_of_victim(&self, victim: &OomVictim) -> Option<Target> {
        let cgroups = victim.cgroup.iter().chain(victim.levels.iter().map(|l| &l.cgroup));
        let by_cgroup = cgroups.filter_map(|id| self.attribution.lookup(*id)).find(|t| t.pod().is_some());
        by_cgroup.cloned().or_else(|| {
            let pod = self.pods.of_pid(victim.pid)?;
            let container = pod.containers.read().iter().find(|c| c.pid == Some(victim.pid))?;
            Some(Target::Container(pod.id.uid.clone(), container.name.clone()))
        })
    }

    fn limit_of(
        &self,
        victim: &OomVictim,
        target: Option<&Target>,
        begun: Option<&OomBegin>,
    ) -> Option<Limit> {
        let levels = victim.levels.as_slice();
        match begun.map(|begun| begun.scope) {
            Some(OomScope::Global) => {
                let domain = Domain::Node.kind();
                return Some(Limit { domain, usage_bytes: None, limit_bytes: None, known: Known::Told });
            }
            Some(OomScope::Memcg(memcg)) => {
                return Some(Limit::of(told_limit(memcg, levels, &self.attribution), Known::Told));
            }
            Some(OomScope::Unknown) | None => {}
        }
        if levels.is_empty() {
            return self.limit_without_levels(target?.pod()?, target?.container());
        }
        let judge = if self.signals.last_reading.as_ref().is_some_and(node_had_memory) {
            nearest_limit
        } else {
            oom_limit
        };
        Some(Limit::of(judge(levels, &self.attribution), Known::Seen))
    }

    /// From what was read and what is written in the manifest, where no program reads the kernel's own levels.
    pub(super) fn limit_without_levels(&self, uid: &PodUid, container: Option<&str>) -> Option<Limit> {
        let reading = self.signals.last_reading.as_ref()?;
        let of_container = container.map(|c| Domain::Container(uid.clone(), c.to_owned()));
        let domains = of_container.into_iter().chain([Domain::Pod(uid.clone()), Domain::Kubepods]);
        limit::reached_last(reading, domains).or_else(|| {
            let spec = self.pods.get(uid)?.pod.spec.as_ref()?;
            limit::only_limit(spec, container?, reading)
        })
    }

    /// The runtime's word is the only one: no program saw the kill, and the counter went with its cgroup.
    pub(super) fn record_kill_by_runtime(&mut self, pod: &PodRef, container: String, at: Mono) {
        let limit = self.limit_without_levels(&pod.uid, Some(&container));
        let mut message = "the runtime reports OOMKilled; no kernel record of it was seen".to_owned();
        message.push_str(&describe_limit(limit.as_ref()));
        let record = Record::new(at, Kind::OomKill, Reason::OomKilled, message);
        let record = limit.as_ref().map_or(record.clone(), |limit| with_limit(record, limit));
        self.oom.kills.told_of_pod(&pod.uid);
        self.record(record.pod(pod).container(container));
    }

    pub(super) fn with_target(&self, record: Record, target: &Target) -> Record {
        let record = match target.pod() {
            None => record,
            Some(uid) => match self.pods.get(uid) {
                Some(pod) => record.pod(&pod.id),
                None => {
                    record.pod(&PodRef { uid: uid.clone(), namespace: String::new(), name: String::new() })
                }
            },
        };
        match target.container() {
            Some(container) => record.container(container),
            None => record,
        }
    }
}

fn describe_victim(victim: &OomVictim) -> String {
    let comm = victim.comm.as_deref().unwrap_or("a process");
    let mut text = format!("the kernel's OOM killer killed {comm} (pid {})", victim.pid);
    if let Some(rss) = victim.anon_rss_bytes {
        let _ = write!(text, " with {} MiB of anonymous memory", rss >> 20);
    }
    text
}

/// The numbers that tell a global OOM from that of a memcg.
pub(super) fn with_oom_begin(record: Record, begin: &OomBegin) -> Record {
    let record = match begin.scope {
        OomScope::Global => record.number("oom_global", 1),
        OomScope::Memcg(_) => record.number("oom_global", 0),
        OomScope::Unknown => record,
    };
    record.number("oom_order", begin.order).number("oom_total_bytes", begin.total_bytes)
}
