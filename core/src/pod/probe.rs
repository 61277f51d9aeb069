//! Health checks of containers: what is asked of one, when, and what its answers come to (kubelet: pkg/kubelet/prober,
//! pkg/probe). Core.
//!
//! - [`spec`]: from the manifest to a check with all its numbers.
//! - [`state`]: one probe's state machine: when it is due, and what its results come to.
//! - [`results`]: the verdicts on a pod's containers, by container id; what status and lifecycle go by.
//!
//! Which probes there are on a node is [`crate::node::prober`]'s.

pub mod results;
pub mod spec;
pub mod state;

use std::fmt;

pub use results::ProbeResults;
pub use spec::{Check, ProbeSpec};

use super::{ContainerInstance, PodUid};

/// In this order where several are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Holds the other two until it has succeeded once.
    Startup,
    /// Its failure restarts the container.
    Liveness,
    /// The pod is Ready while it succeeds.
    Readiness,
}

impl ProbeKind {
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

    /// As messages of kubelet begin.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    /// A container that fails it is ended.
    #[must_use]
    pub const fn ends_the_container(self) -> bool {
        !matches!(self, ProbeKind::Readiness)
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What came of one run of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    Success,
    /// A success, of which somebody should know something.
    Warning(String),
    Failure(String),
    /// It could not be run: says nothing of the container.
    Error(String),
}

/// What people are told of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeMessage {
    /// kubelet's Event `Unhealthy`.
    Unhealthy(String),
    /// kubelet's Event `ProbeWarning`.
    Warning(String),
}

/// News of a probe: a verdict that is another than before, a message, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    pub pod: PodUid,
    pub container: ContainerInstance,
    pub kind: ProbeKind,
    pub verdict: Option<bool>,
    pub message: Option<ProbeMessage>,
}
