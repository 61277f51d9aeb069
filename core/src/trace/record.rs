//! One record of the trace.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Mono;
use crate::pod::PodRef;
use crate::reason::Reason;

/// What kind of thing a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The agent or a part of it started, stopped, degraded.
    Agent,
    /// A kernel event or a reading that says something about pressure.
    Signal,
    /// A domain's forecast changed its verdict.
    Forecast,
    /// The eviction manager decided.
    Decision,
    /// A step of an eviction: order given, SIGTERM, exit, memory back.
    Eviction,
    /// A pod's growth is held while it ends.
    Brake,
    /// The kernel's OOM killer acted.
    OomKill,
    /// A pod was added, started, restarted, ended.
    Pod,
    /// Something the user should mend: a manifest, an image, the runtime.
    Warning,
    /// A node condition changed.
    Node,
}

impl Kind {
    pub const ALL: &'static [Kind] = &[
        Kind::Agent,
        Kind::Signal,
        Kind::Forecast,
        Kind::Decision,
        Kind::Eviction,
        Kind::Brake,
        Kind::OomKill,
        Kind::Pod,
        Kind::Warning,
        Kind::Node,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Agent => "Agent",
            Kind::Signal => "Signal",
            Kind::Forecast => "Forecast",
            Kind::Decision => "Decision",
            Kind::Eviction => "Eviction",
            Kind::Brake => "Brake",
            Kind::OomKill => "OomKill",
            Kind::Pod => "Pod",
            Kind::Warning => "Warning",
            Kind::Node => "Node",
        }
    }
}

/// Flat on purpose: a reader needs no schema beyond this to filter and print, and numbers name their own unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts from 1 without gaps; the journal sets it.
    #[serde(default)]
    pub seq: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic_ns: u64,
    /// Milliseconds since the epoch; the journal sets it.
    #[serde(default)]
    pub unix_ms: u64,
    pub kind: Kind,
    pub reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<RecordPod>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `node`, `kubepods`, `pod` or `container`: the memory domain that this is said of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What kind of kernel event a signal is, by the name of its variant; of a decision kubelet's eviction signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// For people; never needed to understand the record by machine.
    pub message: String,
    /// `usage_bytes`, `limit_bytes`, `lead_ms`, `signal_to_decision_us` … unit last in each name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Record {
    #[must_use]
    pub fn new(at: Mono, kind: Kind, reason: Reason, message: impl Into<String>) -> Record {
        Record {
            seq: 0,
            monotonic_ns: at.0,
            unix_ms: 0,
            kind,
            reason,
            pod: None,
            container: None,
            domain: None,
            signal: None,
            message: message.into(),
            numbers: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn pod(mut self, pod: &PodRef) -> Record {
        self.pod = Some(RecordPod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.to_string(),
        });
        self
    }

    #[must_use]
    pub fn container(mut self, name: impl Into<String>) -> Record {
        self.container = Some(name.into());
        self
    }

    #[must_use]
    pub fn domain(mut self, name: impl Into<String>) -> Record {
        self.domain = Some(name.into());
        self
    }

    #[must_use]
    pub fn signal(mut self, name: impl Into<String>) -> Record {
        self.signal = Some(name.into());
        self
    }

    /// Values beyond `i64` are cut to its bounds.
    #[must_use]
    pub fn number(mut self, name: &str, value: impl TryInto<i64>) -> Record {
        self.numbers.insert(name.to_owned(), value.try_into().unwrap_or(i64::MAX));
        self
    }
}
