//! From the configuration and the facts of the node to what the SyncLoop's core must know of both.

use crate::kernel::Kernel;
use oomlet_core::eviction::EvictionConfig;
use oomlet_core::eviction::resources::ResourceConfig;
use oomlet_core::forecast::{MAX_RATE_BYTES_PER_S, max_rate_with_growth_events_bytes_per_s};
use oomlet_core::node::published::SavedPod;
use oomlet_core::node::state::StateConfig;
use oomlet_core::pod::memory_limit::MemoryLimit;

use super::{Setup, facts, sources};

pub(super) fn of(
    setup: &Setup,
    node: &facts::Node,
    kernel: &Kernel,
    saved: Vec<SavedPod>,
    (runtime_name, recursive_read_only): (&str, bool),
    oom_kill_group: bool,
) -> StateConfig {
    let config = &setup.config;
    StateConfig {
        node: node.facts.clone(),
        eviction: EvictionConfig {
            enabled: config.oomlet.eviction.enabled,
            thresholds: config.eviction_thresholds.enforced.clone(),
            transition_period: config.eviction_pressure_transition_period,
            max_pod_grace: config.eviction_max_pod_grace_period,
            forecast: config.oomlet.eviction.forecast,
            safety: config.oomlet.eviction.safety,
            brake: config.oomlet.eviction.brake,
            psi: config.oomlet.eviction.psi,
            memory_limit: MemoryLimit {
                policy: config.oomlet.eviction.memory_limit_policy,
                grace: config.oomlet.eviction.memory_limit_grace,
            },
            assumed_max_rate_bytes_per_s: if kernel.tells_growth() {
                max_rate_with_growth_events_bytes_per_s(facts::cpus())
            } else {
                MAX_RATE_BYTES_PER_S
            },
            ..EvictionConfig::default()
        },
        resources: ResourceConfig {
            enabled: config.oomlet.eviction.enabled,
            thresholds: config.eviction_thresholds.resources.clone(),
            transition_period: config.eviction_pressure_transition_period,
            max_pod_grace: config.eviction_max_pod_grace_period,
            local_limits: config.local_storage_capacity_isolation,
            interval: config.oomlet.eviction.resource_interval,
        },
        sync_frequency: config.sync_frequency,
        sources: sources::configured(setup),
        // As kubelet has it. Standalone every pod is static, and none could be evicted.
        static_pods_critical: setup.cluster.kubeconfig.is_some(),
        saved,
        host_ips: node.host_ips.clone(),
        oom_kill_group,
        runtime_name: runtime_name.to_owned(),
        recursive_read_only,
        unix_offset_ns: facts::unix_offset_ns(),
    }
}
