//! OOM kills, explained: who was killed, and which limit it was about. The kernel's record comes first; counters and the
//! runtime's word cover what it cannot tell.

mod counters;

use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;

use super::State;
use super::kill_account::{Telling, Victim};
use crate::clock::Mono;
use crate::pod::spec::all_containers;
use crate::pod::{PodRef, PodUid, qos};
use crate::reason::Reason;
use crate::signal::attribution::{OomVerdict, Target, nearest_limit, oom_limit, told_limit};
use crate::signal::{Domain, KernelEvent, MemoryReading, OomBegin, OomScope, OomVictim};
use crate::trace::record::{Kind, Record};

/// The limit that was reached, as far as it is known.
struct Limit {
    /// `container`, `pod`, `qos`, `kubepods`, `node` or `other`.
    domain: &'static str,
    usage_bytes: Option<u64>,
    limit_bytes: Option<u64>,
    known: Known,
}

/// How the limit is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The kernel said so when it began the kill (`oom_kill_process`).
    Told,
    /// It was seen to be reached.
    Seen,
    /// Not seen to be reached, but nothing else can have been.
    Deduced,
}

impl Limit {
    fn of(verdict: OomVerdict, known: Known) -> Limit {
        Limit {
            domain: verdict.limit.as_str(),
            usage_bytes: verdict.level.map(|l| l.usage_bytes),
            limit_bytes: verdict.level.and_then(|l| l.limit_bytes),
            known,
        }
    }
}

/// From the beginning of a kill to its victim: the kernel writes a report to the console in between, and a serial one
/// takes seconds for it.
const BEGIN_TO_VICTIM: Duration = Duration::from_secs(30);

impl State {
    pub(super) fn apply_oom_kill(&mut self, event: &KernelEvent, victim: &OomVictim) {
        let begun = self.begin_of(event, victim);
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
        let Some(pod) = self.pods.get_mut(uid) else { return Telling::New };
        pod.note_oom_kill(container);
        let domain = Domain::Container(uid.clone(), container.clone());
        self.counted_kills.remove(&domain);
        let cgroup = victim.cgroup.or_else(|| victim.levels.first().map(|level| level.cgroup));
        self.kills.record(&domain, Victim { pid: victim.pid, cgroup }, at)
    }

    /// What the kernel said when it began this kill: of its victim, or, where a whole memcg is killed (`oom.group`), of
    /// that memcg. The OOM killer works on one kill at a time.
    fn begin_of(&self, event: &KernelEvent, victim: &OomVictim) -> Option<&OomBegin> {
        let (at, begin) = self.oom_begun.as_ref()?;
        let of_group = match begin.scope {
            OomScope::Memcg(memcg) => victim.levels.iter().any(|level| level.cgroup == memcg.cgroup),
            OomScope::Global | OomScope::Unknown => false,
        };
        let same = begin.chosen.pid == victim.pid || of_group;
        (same && *at <= event.at && event.at.since(*at) < BEGIN_TO_VICTIM).then_some(begin)
    }

    /// By its cgroup (tier 2); below that the record has a pid only, and container init processes are known by theirs.
    fn target_of_victim(&self, victim: &OomVictim) -> Option<Target> {
        let cgroups = victim.cgroup.iter().chain(victim.levels.iter().map(|l| &l.cgroup));
        let by_cgroup = cgroups.filter_map(|id| self.attribution.lookup(*id)).find(|t| t.pod().is_some());
        by_cgroup.cloned().or_else(|| {
            self.pods.values().find_map(|pod| {
                let container = pod.containers.read().iter().find(|c| c.pid == Some(victim.pid))?;
                Some(Target::Container(pod.id.uid.clone(), container.name.clone()))
            })
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
        let judge =
            if self.last_reading.as_ref().is_some_and(node_had_memory) { nearest_limit } else { oom_limit };
        Some(Limit::of(judge(levels, &self.attribution), Known::Seen))
    }

    /// From what was read and what is written in the manifest, where no program reads the kernel's own levels.
    fn limit_without_levels(&self, uid: &PodUid, container: Option<&str>) -> Option<Limit> {
        self.limit_reached_last(uid, container).or_else(|| {
            let spec = self.pods.get(uid)?.pod.spec.as_ref()?;
            only_limit(spec, container?, self.last_reading.as_ref()?)
        })
    }

    /// Without the kernel's own levels: the smallest domain that was at its limit when last read.
    fn limit_reached_last(&self, uid: &PodUid, container: Option<&str>) -> Option<Limit> {
        let reading = self.last_reading.as_ref()?;
        let container = container.map(|c| Domain::Container(uid.clone(), c.to_owned()));
        let domains = container.into_iter().chain([Domain::Pod(uid.clone()), Domain::Kubepods]);
        domains.filter_map(|d| reading.of(&d)).find_map(|r| {
            // 3 %: what a hog may take between the last sample and the kill.
            let limit = r.limit_bytes.filter(|limit| r.usage_bytes >= limit - limit / 32)?;
            Some(Limit {
                domain: r.domain.kind(),
                usage_bytes: Some(r.usage_bytes),
                limit_bytes: Some(limit),
                known: Known::Seen,
            })
        })
    }

    /// The runtime's word is the only one: no program saw the kill, and the counter went with its cgroup.
    pub(super) fn record_kill_by_runtime(&mut self, pod: &PodRef, container: String, at: Mono) {
        let limit = self.limit_without_levels(&pod.uid, Some(&container));
        let mut message = "the runtime reports OOMKilled; no kernel record of it was seen".to_owned();
        message.push_str(&describe_limit(limit.as_ref()));
        let record = Record::new(at, Kind::OomKill, Reason::OomKilled, message);
        let record = limit.as_ref().map_or(record.clone(), |limit| with_limit(record, limit));
        self.kills.told_of_pod(&pod.uid);
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

/// The machine as a whole was far from running out: it had a sixteenth of its memory left.
fn node_had_memory(reading: &MemoryReading) -> bool {
    let capacity = reading.of(&Domain::Node).and_then(|node| node.limit_bytes);
    capacity.is_some_and(|bytes| reading.mem_available_bytes > bytes / 16)
}

/// The container's own limit, when kubepods and the machine had room for all of it.
fn only_limit(spec: &PodSpec, container: &str, reading: &MemoryReading) -> Option<Limit> {
    // One of the pod as a whole may be lower than its containers' together.
    if spec.resources.as_ref().is_some_and(|r| r.limits.is_some()) {
        return None;
    }
    let mut containers = all_containers(spec);
    let container = containers.find(|c| c.name == container)?;
    let limit_bytes = Some(qos::container_resources(container).memory_limit_bytes?);
    let kubepods = reading.of(&Domain::Kubepods)?;
    let room = kubepods.limit_bytes.map(|limit| limit.saturating_sub(kubepods.usage_bytes));
    let only = room.is_none_or(|room| Some(room) > limit_bytes) && node_had_memory(reading);
    only.then_some(Limit { domain: "container", usage_bytes: None, limit_bytes, known: Known::Deduced })
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

fn with_limit(record: Record, limit: &Limit) -> Record {
    let numbers = [("usage_bytes", limit.usage_bytes), ("limit_bytes", limit.limit_bytes)];
    let known = numbers.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.fold(record.domain(limit.domain), |record, (name, value)| record.number(name, value))
}

fn describe_victim(victim: &OomVictim) -> String {
    let comm = victim.comm.as_deref().unwrap_or("a process");
    let mut text = format!("the kernel's OOM killer killed {comm} (pid {})", victim.pid);
    if let Some(rss) = victim.anon_rss_bytes {
        let _ = write!(text, " with {} MiB of anonymous memory", rss >> 20);
    }
    text
}

fn describe_limit(limit: Option<&Limit>) -> String {
    match limit {
        None => "; which limit was reached cannot be told without BTF (tier 2)".to_owned(),
        Some(Limit { domain: "node", known: Known::Told, .. }) => {
            ": the node itself was out of memory (no cgroup limit)".to_owned()
        }
        Some(Limit { domain: "node", .. }) => ": the node was out of memory".to_owned(),
        Some(Limit { domain, limit_bytes: Some(bytes), known: Known::Deduced, .. }) => {
            let (domain, mib) = (in_words(domain), bytes >> 20);
            format!(
                "; it must have been the memory limit of {domain}, {mib} MiB: kubepods and the node had room"
            )
        }
        Some(Limit { domain, limit_bytes: Some(bytes), .. }) => {
            format!(": the memory limit of {}, {} MiB, was reached", in_words(domain), bytes >> 20)
        }
        Some(Limit { domain, .. }) => format!(": {} was out of memory", in_words(domain)),
    }
}

fn in_words(domain: &str) -> String {
    match domain {
        "kubepods" => "kubepods".to_owned(),
        "qos" => "the QoS class".to_owned(),
        "other" => "a cgroup outside kubepods".to_owned(),
        domain => format!("the {domain}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{DomainReading, StatAge};

    #[test]
    fn limits_in_words() {
        let limit =
            |domain, limit_bytes| Limit { domain, usage_bytes: None, limit_bytes, known: Known::Seen };
        let cases = [
            (
                Some(limit("container", Some(64 << 20))),
                ": the memory limit of the container, 64 MiB, was reached",
            ),
            (
                Some(limit("kubepods", Some(300 << 20))),
                ": the memory limit of kubepods, 300 MiB, was reached",
            ),
            (
                Some(limit("other", Some(64 << 20))),
                ": the memory limit of a cgroup outside kubepods, 64 MiB, was reached",
            ),
            (
                Some(Limit { known: Known::Deduced, ..limit("container", Some(64 << 20)) }),
                "; it must have been the memory limit of the container, 64 MiB: kubepods and the node had room",
            ),
            (Some(limit("node", None)), ": the node was out of memory"),
            (
                Some(Limit { known: Known::Told, ..limit("node", None) }),
                ": the node itself was out of memory (no cgroup limit)",
            ),
            (None, "; which limit was reached cannot be told without BTF (tier 2)"),
        ];
        for (limit, expected) in cases {
            assert_eq!(describe_limit(limit.as_ref()), expected);
        }
    }

    #[test]
    fn a_limit_is_deduced_only_when_it_is_the_only_one() {
        const MIB: u64 = 1 << 20;
        let domain = |domain, usage: u64, limit: u64| DomainReading {
            domain,
            usage_bytes: usage * MIB,
            inactive_file_bytes: 0,
            active_file_bytes: 0,
            dirty_bytes: 0,
            refaults: 0,
            statistics: StatAge::New,
            limit_bytes: Some(limit * MIB),
            oom_kills: 0,
        };
        let reading = |kubepods_usage, available: u64| MemoryReading {
            at: Mono::ZERO,
            done_at: Mono::ZERO,
            why: Reason::SampleDue,
            caused_by: None,
            mem_available_bytes: available * MIB,
            domains: vec![domain(Domain::Node, 1000, 4096), domain(Domain::Kubepods, kubepods_usage, 300)],
            stalled: Vec::new(),
        };
        let limits = serde_json::json!({ "limits": { "memory": "64Mi" } });
        let limited = serde_json::json!({ "containers": [{ "name": "c", "resources": limits }] });
        let unlimited = serde_json::json!({ "containers": [{ "name": "c" }] });
        let both =
            serde_json::json!({ "containers": [{ "name": "c", "resources": limits }], "resources": limits });
        for (what, spec, reading, expected) in [
            ("room everywhere", &limited, reading(100, 3000), Some(64 * MIB)),
            ("kubepods is nearly full", &limited, reading(250, 3000), None),
            ("the node is nearly full", &limited, reading(100, 200), None),
            ("no limit", &unlimited, reading(100, 3000), None),
            ("the pod has one, too", &both, reading(100, 3000), None),
        ] {
            let spec: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            let got = only_limit(&spec, "c", &reading).and_then(|limit| limit.limit_bytes);
            assert_eq!(got, expected, "{what}");
        }
    }
}
