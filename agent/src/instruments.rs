//! What is counted and timed as it happens, under kubelet's names. Each part is a set of handles that is cheap to clone; who is
//! given one counts with it, and whoever was given none counts for nobody. Imports nothing of the agent.
//!
//! - [`runtime`]: calls to the container runtime. - [`pleg`]: relists. - [`workers`]: pod workers and cgroups.
//! - [`probes`]: runs of probes. - [`http`]: requests to the node's own API. - [`images`]: pulled and removed.
//! - [`node_startup`]: from boot to Ready. - [`requests`]: requests to the API server. - [`storage`]: volumes made and removed.
//! - [`health`]: health checks. - [`certificates`]: the node's own. - [`turns`]: the SyncLoop and the channels that lead to it.
//! - [`registered`]: how a family is made and registered.

pub mod certificates;
pub mod health;
pub mod http;
pub mod images;
pub mod node_startup;
pub mod pleg;
pub mod probes;
pub mod registered;
pub mod requests;
pub mod runtime;
pub mod storage;
pub mod turns;
pub mod workers;

use prometheus::Registry;
use prometheus::proto::MetricFamily;

use certificates::Certificates;
use health::HealthChecks;
use http::HttpRequests;
use node_startup::NodeStartup;
use pleg::PlegTimes;
use probes::ProbeResults;
use registered::Registered;
use requests::Requests;
use runtime::RuntimeOperations;
use storage::StorageOperations;
use turns::Turns;
use workers::WorkerTimes;

/// All of them, registered for `/metrics`; those of probes have a page of their own.
#[derive(Clone, Debug)]
pub struct Instruments {
    registry: Registry,
    probe_registry: Registry,
    health_registry: Registry,
    pub health: HealthChecks,
    pub runtime: RuntimeOperations,
    pub pleg: PlegTimes,
    pub workers: WorkerTimes,
    pub probes: ProbeResults,
    pub requests: Requests,
    pub storage: StorageOperations,
    pub certificates: Certificates,
    pub turns: Turns,
    pub http: HttpRequests,
    pub node_startup: NodeStartup,
}

impl Default for Instruments {
    fn default() -> Instruments {
        let (registry, probe_registry, health_registry) = (Registry::new(), Registry::new(), Registry::new());
        let on = Registered::on(&registry);
        Instruments {
            runtime: RuntimeOperations::new(&on),
            pleg: PlegTimes::new(&on),
            workers: WorkerTimes::new(&on),
            probes: ProbeResults::new(&Registered::on(&probe_registry)),
            requests: Requests::new(&on),
            storage: StorageOperations::new(&on),
            certificates: Certificates::new(&on),
            turns: Turns::new(&on),
            http: HttpRequests::new(&on),
            node_startup: NodeStartup::new(&on),
            health: HealthChecks::new(&Registered::on(&health_registry)),
            registry,
            probe_registry,
            health_registry,
        }
    }
}

impl Instruments {
    /// As they stand now, by name.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.certificates.look_at_the_clock();
        self.registry.gather()
    }

    #[must_use]
    pub fn gather_health(&self) -> Vec<MetricFamily> {
        self.health_registry.gather()
    }

    #[must_use]
    pub fn gather_probes(&self) -> Vec<MetricFamily> {
        self.probe_registry.gather()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_counted_is_gathered_under_kubelets_names() {
        let instruments = Instruments::default();
        let names = |instruments: &Instruments| -> Vec<String> {
            instruments.gather().iter().map(|f| f.name().to_owned()).collect()
        };
        assert!(!names(&instruments).contains(&"kubelet_runtime_operations_total".to_owned()));
        // By a clone, as its owners have it.
        instruments.clone().runtime.ended("ListContainers", Duration::from_millis(3), true);
        let families = instruments.gather();
        let family = families.iter().find(|f| f.name() == "kubelet_runtime_operations_total").unwrap();
        assert!(family.help().starts_with("[ALPHA] "), "{}", family.help());
        let label = &family.get_metric()[0].get_label()[0];
        assert_eq!((label.name(), label.value()), ("operation_type", "list_containers"));
        let sorted = names(&instruments);
        assert!(sorted.is_sorted(), "{sorted:?}");
    }
}
