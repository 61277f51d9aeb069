//! What the agent begins with: pods of its last run, and the kernel's side.

use std::path::Path;

use super::{NodeAgentError, facts};
use crate::clock;
use crate::kernel::{self, Kernel, ProgramState};
use crate::pod_store;
use crate::trace::journal::Journal;
use oomlet_core::config::Config;
use oomlet_core::node::published::SavedPod;
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::{Kind, Record};

pub(super) fn load_saved(root_dir: &Path) -> Result<Vec<SavedPod>, NodeAgentError> {
    let (saved, unreadable) = pod_store::load(&pod_store::dir(root_dir))?;
    for line in unreadable {
        tracing::warn!("{line}");
    }
    Ok(saved)
}

pub(super) fn load_kernel(config: &Config) -> Kernel {
    let given = &config.oomlet.kernel;
    let mut kernel = Kernel::load(&kernel::Options {
        btf_path: given.btf_path.clone(),
        tracefs: given.tracefs_path.clone(),
        max_tier: given.max_tier,
        ring_bytes: given.ring_bytes,
        fault_sample_period: given.fault_sample_period,
        ..kernel::Options::default()
    });
    kernel.attach_logger();
    kernel
}

/// Returns it as one line.
pub(super) fn tell_start(journal: &Journal, kernel: &Kernel, node: &facts::Node) -> String {
    let unavailable = kernel.programs().iter().filter(|p| p.state != ProgramState::Loaded).count();
    let loaded = kernel.programs().len() - unavailable;
    let message = format!("sensing tier {}: {loaded} eBPF programs loaded, {unavailable} not", kernel.tier());
    tracing::info!(node = node.facts.name, "{message}");
    let record = Record::new(clock::now(), Kind::Agent, Reason::AgentStarted, message.clone())
        .number("tier", kernel.tier())
        .number("programs_loaded", loaded)
        .number("capacity_bytes", node.memory_capacity_bytes)
        .number("allocatable_bytes", node.facts.allocatable.memory_bytes);
    journal.publish(record);
    message
}
