//! The node's numbers as kubelet shows them: `/stats/summary` and the pages of metrics. Shell; what they say is made of
//! [`oomlet_core::stats`] and [`oomlet_core::metrics`].
//!
//! | module | what |
//! |---|---|
//! | [`collect`] | every ten seconds: the sampler's newest numbers and what else is read |
//! | `tracked` | cgroups whose files are open, and their CPU use of the last ten seconds |
//! | [`disks`] | what pods have written, at `volumeStatsAggPeriod` |
//! | `proc` | what `/proc` says |
//! | [`startup`] | how long pods took to start |
//! | `process` | of the agent itself |
//!
//! A page is text of what was read last: it asks nobody and reads nothing but the agent's own `/proc/self`.

pub mod collect;
pub mod disks;
pub mod proc;
mod process;
pub mod startup;
mod tracked;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;
use tokio::sync::watch;

use crate::instruments::Instruments;
use crate::pleg::PlegHandle;
use crate::pleg::snapshot::Snapshot;
use crate::trace::journal::Journal;
use oomlet_core::metrics::family::{Family, Kind, finish, label};
use oomlet_core::metrics::pods::Running;
use oomlet_core::metrics::{cadvisor, pods, resource, volumes};
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::runtime_status::ContainerState;
use oomlet_core::stats::numbers::Node;
use oomlet_core::stats::summary::{Scope, Summary};
use oomlet_core::version::{KUBERNETES_VERSION, go_arch};

/// What every page of metrics is in.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Unix time, nanoseconds.
pub(crate) fn unix_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// All that the pages are made of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pages {
    pub node_name: Arc<str>,
    /// Static pods have mirrors.
    pub in_cluster: bool,
    /// 1 or 2.
    pub cgroup_version: u8,
    pub numbers: watch::Receiver<Option<Arc<Node>>>,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub pleg: PlegHandle,
    pub instruments: Instruments,
    pub journal: Arc<Journal>,
}

impl Pages {
    /// JSON; `None`: nothing has been read yet.
    #[must_use]
    pub fn summary(&self, scope: Scope) -> Option<Vec<u8>> {
        let node = self.node()?;
        serde_json::to_vec(&Summary::of(&node, scope)).ok()
    }

    /// `/metrics`.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut families = self.instruments.gather();
        families.extend(self.journal.counts(|counts| counts.registry()).gather());
        let (snapshot, listed) =
            (Arc::clone(&self.snapshots.borrow()), Arc::clone(&self.pleg.listed().borrow()));
        families.extend(pods::families(&snapshot, &running(&listed, &snapshot), self.in_cluster));
        if let Some(node) = self.node() {
            families.extend(volumes::families(&node));
        }
        families.extend(self.constant());
        families.extend(process::families());
        text(families)
    }

    /// `/metrics/cadvisor`.
    #[must_use]
    pub fn cadvisor(&self) -> String {
        let version = concat!("oomlet-", env!("CARGO_PKG_VERSION"));
        text(cadvisor::families(self.node().as_deref(), version, unix_ns()))
    }

    /// `/metrics/resource`.
    #[must_use]
    pub fn resource(&self) -> String {
        text(resource::families(self.node().as_deref()))
    }

    /// `/metrics/probes`.
    #[must_use]
    pub fn probes(&self) -> String {
        let mut families = self.instruments.gather_probes();
        families.extend(process::start_time("[ALPHA] "));
        text(families)
    }

    /// When the agent's process did, Unix time.
    #[must_use]
    pub fn started_s() -> Option<u64> {
        process::started_s()
    }

    /// `/metrics/slis`.
    #[must_use]
    pub fn slis(&self) -> String {
        let mut families = self.instruments.gather_health();
        families.extend(process::start_time("[ALPHA] "));
        text(families)
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.numbers.borrow().clone()
    }

    fn constant(&self) -> Vec<MetricFamily> {
        let gauge = |name, help| Family::new(Kind::Gauge, name, help);
        let mut minor = KUBERNETES_VERSION.trim_start_matches('v').split('.').skip(1);
        let labels = vec![
            label("build_date", ""),
            label("compiler", "rustc"),
            label("git_commit", ""),
            label("git_tree_state", ""),
            label("git_version", format!("{KUBERNETES_VERSION}+oomlet-{}", env!("CARGO_PKG_VERSION"))),
            label("go_version", ""),
            label("major", "1"),
            label("minor", minor.next().unwrap_or_default()),
            label("platform", format!("linux/{}", go_arch())),
        ];
        finish([
            gauge("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.").with(
                vec![label("node", &*self.node_name)],
                1.0,
                None,
            ),
            gauge("kubelet_cgroup_version", "[ALPHA] cgroup version on the hosts.").with(
                Vec::new(),
                f64::from(self.cgroup_version),
                None,
            ),
            gauge(
                "kubernetes_build_info",
                "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
            )
            .with(labels, 1.0, None),
        ])
    }
}

#[cfg(test)]
impl Pages {
    /// Of a node of which nothing has been read.
    pub(crate) fn of_nothing() -> Pages {
        Pages {
            node_name: "n1".into(),
            in_cluster: false,
            cgroup_version: 2,
            numbers: watch::channel(None).1,
            snapshots: watch::channel(Arc::default()).1,
            pleg: PlegHandle::default(),
            instruments: Instruments::default(),
            journal: Journal::open(4, None).expect("without a file nothing fails").0,
        }
    }
}

fn running(listed: &Snapshot, snapshot: &NodeSnapshot) -> Running {
    let mut containers: BTreeMap<&'static str, usize> = BTreeMap::new();
    for container in &listed.containers {
        let word = match container.state {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Exited => "exited",
            ContainerState::Unknown => "unknown",
        };
        *containers.entry(word).or_default() += 1;
    }
    let ready = listed.sandboxes.iter().filter(|s| s.ready);
    let pods: std::collections::BTreeSet<_> = ready.map(|s| &s.pod.uid).collect();
    let unnamed = pods.iter().filter(|uid| !snapshot.pods.contains_key(**uid)).count();
    Running { pods: pods.len(), containers, unnamed }
}

/// By name.
fn text(mut families: Vec<MetricFamily>) -> String {
    families.retain(|family| !family.get_metric().is_empty());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
        tracing::error!(%error, "a page of metrics cannot be written, which is a defect of the agent");
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_anything_is_read_pages_are_there_and_the_summary_is_not() {
        let pages = Pages::of_nothing();
        assert_eq!(pages.summary(Scope::All), None);
        assert!(pages.cadvisor().contains("\ncontainer_scrape_error 1\n"));
        assert!(pages.resource().contains("\nresource_scrape_error 1\n"));
        for page in [pages.probes(), pages.slis()] {
            assert!(page.contains("\nprocess_start_time_seconds "), "{page}");
        }
        let metrics = pages.metrics();
        for line in [
            "kubelet_node_name{node=\"n1\"} 1",
            "kubelet_cgroup_version 2",
            "kubelet_running_pods 0",
            "kubelet_server_expiration_renew_errors 0",
            "# TYPE kubelet_pleg_relist_duration_seconds histogram",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
        }
        // Each family once.
        let mut types: Vec<&str> = metrics.lines().filter(|l| l.starts_with("# TYPE ")).collect();
        let all = types.len();
        types.dedup();
        assert_eq!(types.len(), all);
    }
}
