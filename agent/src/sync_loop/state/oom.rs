//! OOM kills, explained: who was killed, and which limit it was about. The kernel's record comes first; counters and the
//! runtime's word cover what it cannot tell.

use std::fmt::Write as _;

use super::State;
use crate::clock::Mono;
use crate::pod::{PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::attribution::{Target, nearest_limit, oom_limit};
use crate::signal::{Domain, DomainReading, KernelEvent, MemoryReading, OomVictim};
use crate::trace::record::{Kind, Record};

/// The limit that was reached, as far as it is known.
struct Limit {
    /// `container`, `pod`, `qos`, `kubepods`, `node` or `other`.
    domain: &'static str,
    usage_bytes: Option<u64>,
    limit_bytes: Option<u64>,
}

impl State {
    pub(super) fn apply_oom_kill(&mut self, event: &KernelEvent, victim: &OomVictim) {
        let target = self.target_of_victim(victim);
        let limit = self.limit_of(victim, target.as_ref());
        let mut message = describe_victim(victim);
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
        if let Some(limit) = &limit {
            record = with_limit(record, limit);
        }
        if let Some(target) = target {
            if let Target::Container(uid, container) = &target
                && let Some(pod) = self.pods.get_mut(uid)
            {
                let domain = Domain::Container(uid.clone(), container.clone());
                *self.told_kills.entry(domain).or_default() += 1;
                pod.note_oom_kill(container);
            }
            record = self.with_target(record, &target);
        }
        self.record(record);
    }

    /// By its cgroup (tier 2); below that the record has a pid only, and container init processes are known by theirs.
    fn target_of_victim(&self, victim: &OomVictim) -> Option<Target> {
        let cgroups = victim.cgroup.iter().chain(victim.levels.iter().map(|l| &l.cgroup));
        let by_cgroup = cgroups.filter_map(|id| self.attribution.lookup(*id)).find(|t| t.pod().is_some());
        by_cgroup.cloned().or_else(|| {
            self.pods.values().find_map(|pod| {
                let container = pod.runtime.containers.iter().find(|c| c.pid == Some(victim.pid))?;
                Some(Target::Container(pod.id.uid.clone(), container.name.clone()))
            })
        })
    }

    fn limit_of(&self, victim: &OomVictim, target: Option<&Target>) -> Option<Limit> {
        if victim.levels.is_empty() {
            return self.limit_reached_last(target?.pod()?, target?.container());
        }
        let judge = if self.node_had_memory() { nearest_limit } else { oom_limit };
        let verdict = judge(&victim.levels, &self.attribution);
        Some(Limit {
            domain: verdict.limit.as_str(),
            usage_bytes: verdict.level.map(|l| l.usage_bytes),
            limit_bytes: verdict.level.and_then(|l| l.limit_bytes),
        })
    }

    /// The machine as a whole was far from running out when last looked at: it had a sixteenth of its memory left.
    fn node_had_memory(&self) -> bool {
        let capacity = |r: &MemoryReading| r.of(&Domain::Node).and_then(|node| node.limit_bytes);
        self.last_reading
            .as_ref()
            .is_some_and(|r| capacity(r).is_some_and(|bytes| r.mem_available_bytes > bytes / 16))
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
            })
        })
    }

    /// Tier 0 learns of a kill from the container's `oom_kill` counter; with the kernel's own record this is the
    /// cross-check, and says nothing new.
    pub(super) fn compare_oom_counter(&mut self, reading: &DomainReading, now: Mono) {
        let Domain::Container(uid, container) = &reading.domain else { return };
        // A reading may be of a moment before the pod was forgotten.
        if !self.pods.contains_key(uid) {
            return;
        }
        let Some(before) = self.oom_kills.insert(reading.domain.clone(), reading.oom_kills) else { return };
        let told = self.told_kills.remove(&reading.domain).unwrap_or(0);
        let new = reading.oom_kills.saturating_sub(before).saturating_sub(told);
        let Some(pod) = self.pods.get_mut(uid).filter(|_| new > 0) else { return };
        pod.note_oom_kill(container);
        let id = pod.id.clone();
        let limit = self.limit_reached_last(uid, Some(container));
        let mut message =
            "the container's oom_kill counter rose: the kernel killed a process of it".to_owned();
        message.push_str(&describe_limit(limit.as_ref()));
        let record = Record::new(now, Kind::OomKill, Reason::OomKilled, message).number("kills", new);
        let record = limit.as_ref().map_or(record.clone(), |limit| with_limit(record, limit));
        self.record(record.pod(&id).container(container.clone()));
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
        Some(Limit { domain: "node", .. }) => ": the node was out of memory".to_owned(),
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

    #[test]
    fn limits_in_words() {
        let limit = |domain, limit_bytes| Limit { domain, usage_bytes: None, limit_bytes };
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
            (Some(limit("node", None)), ": the node was out of memory"),
            (None, "; which limit was reached cannot be told without BTF (tier 2)"),
        ];
        for (limit, expected) in cases {
            assert_eq!(describe_limit(limit.as_ref()), expected);
        }
    }
}
