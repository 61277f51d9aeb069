//! Which limit an OOM kill was about, and how that is known.

use k8s_openapi::api::core::v1::PodSpec;

use crate::pod::qos;
use crate::pod::spec::all_containers;
use crate::signal::attribution::OomVerdict;
use crate::signal::{Domain, MemoryReading};
use crate::trace::record::Record;

/// The limit that was reached, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `container`, `pod`, `qos`, `kubepods`, `node` or `other`.
    pub domain: &'static str,
    pub usage_bytes: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub known: Known,
}

/// How the limit is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The kernel said so when it began the kill (`oom_kill_process`).
    Told,
    /// It was seen to be reached.
    Seen,
    /// Not seen to be reached, but nothing else can have been.
    Deduced,
}

impl Limit {
    #[must_use]
    pub fn of(verdict: OomVerdict, known: Known) -> Limit {
        Limit {
            domain: verdict.limit.as_str(),
            usage_bytes: verdict.level.map(|l| l.usage_bytes),
            limit_bytes: verdict.level.and_then(|l| l.limit_bytes),
            known,
        }
    }
}

/// Without the kernel's own levels: the smallest of these domains that was at its limit when last read.
#[must_use]
pub fn reached_last(reading: &MemoryReading, domains: impl IntoIterator<Item = Domain>) -> Option<Limit> {
    domains.into_iter().filter_map(|d| reading.of(&d)).find_map(|r| {
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

/// The machine as a whole was far from running out: it had a sixteenth of its memory left.
pub fn node_had_memory(reading: &MemoryReading) -> bool {
    let capacity = reading.of(&Domain::Node).and_then(|node| node.limit_bytes);
    capacity.is_some_and(|bytes| reading.mem_available_bytes > bytes / 16)
}

/// The container's own limit, when kubepods and the machine had room for all of it.
pub fn only_limit(spec: &PodSpec, container: &str, reading: &MemoryReading) -> Option<Limit> {
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

pub fn with_limit(record: Record, limit: &Limit) -> Record {
    let numbers = [("usage_bytes", limit.usage_bytes), ("limit_bytes", limit.limit_bytes)];
    let known = numbers.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.fold(record.domain(limit.domain), |record, (name, value)| record.number(name, value))
}

pub fn describe_limit(limit: Option<&Limit>) -> String {
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
    use crate::clock::Mono;
    use crate::reason::Reason;
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
