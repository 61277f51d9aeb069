//! The memory limit of all pods together, where pods use more than the configuration leaves them. Shell; how far it may be
//! lowered is decided in [`oomlet_core::cgroup::kubepods_limit`].
//!
//! Reads usage and limit of `kubepods` each minute and when a pod has gone, writes the limit, emits trace records.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::driver::CgroupDriver;
use super::{CgroupError, parse};
use crate::clock;
use crate::trace::journal::Journal;
use oomlet_core::cgroup::kubepods_limit::{KubepodsMemory, WantedLimit};
use oomlet_core::pod::qos::CgroupResources;
use oomlet_core::reason::Reason;
use oomlet_core::signal::Hierarchy;
use oomlet_core::trace::record::{Kind, Record};

/// As kubelet tries it again.
const PERIOD: Duration = Duration::from_secs(60);

/// Tells the task that a pod has gone. Never waits.
#[derive(Clone, Debug, Default)]
pub struct KubepodsLimitHandle(Arc<Notify>);

impl KubepodsLimitHandle {
    pub fn a_pod_has_gone(&self) {
        self.0.notify_one();
    }
}

/// `kubepods` has another limit than the configuration says.
#[derive(Debug)]
pub struct KubepodsLimit {
    cgroups: Arc<CgroupDriver>,
    resources: CgroupResources,
    wanted: WantedLimit,
    /// As it was when the agent started.
    at_start: KubepodsMemory,
}

impl KubepodsLimit {
    /// Makes the `kubepods` tree with these resources. `Some`: all but the memory limit, which stays as it is for now.
    ///
    /// # Errors
    /// When a directory or file cannot be read or written.
    pub fn set(
        cgroups: &Arc<CgroupDriver>,
        resources: CgroupResources,
        hard_threshold_bytes: u64,
    ) -> Result<Option<KubepodsLimit>, CgroupError> {
        let present = read(cgroups)?;
        let (Some(bytes), Some(at_start)) = (resources.memory_limit_bytes, present) else {
            return cgroups.ensure_kubepods(&resources).map(|()| None);
        };
        let wanted = WantedLimit { bytes, hard_threshold_bytes };
        if wanted.fits(at_start) {
            match cgroups.ensure_kubepods(&resources) {
                // What is in use has grown, or is not to be reclaimed.
                Err(CgroupError::LimitBelowUsage { .. }) => {}
                result => return result.map(|()| None),
            }
        }
        let kept = CgroupResources { memory_limit_bytes: at_start.limit_bytes, ..resources };
        cgroups.ensure_kubepods(&kept)?;
        Ok(Some(KubepodsLimit { cgroups: Arc::clone(cgroups), resources, wanted, at_start }))
    }

    /// Until the limit is what the configuration says, or `cancel`.
    pub async fn run(self, handle: KubepodsLimitHandle, journal: Arc<Journal>, cancel: CancellationToken) {
        let message = self.describe();
        tracing::warn!("{message}");
        let record = |kind, reason, message: String, limit: u64, usage: u64| {
            let record = Record::new(clock::now(), kind, reason, message).domain("kubepods");
            record.number("limit_bytes", limit).number("usage_bytes", usage)
        };
        let reason = Reason::FailedNodeAllocatableEnforcement;
        let usage = self.at_start.usage_bytes;
        journal.publish(record(Kind::Warning, reason, message, self.wanted.bytes, usage));
        let this = Arc::new(self);
        loop {
            // Cancel-safe: a pod that goes meanwhile is in the next reading.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = handle.0.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
            let step = Arc::clone(&this);
            match tokio::task::spawn_blocking(move || step.lower()).await {
                Ok(Ok(now)) if now.limit_bytes == Some(this.wanted.bytes) => {
                    let message = format!(
                        "all pods together may have {} MiB now, as the configuration says",
                        this.wanted.bytes >> 20
                    );
                    tracing::info!("{message}");
                    let reason = Reason::NodeAllocatableEnforced;
                    journal.publish(record(Kind::Node, reason, message, this.wanted.bytes, now.usage_bytes));
                    return;
                }
                Ok(Ok(now)) => tracing::info!(
                    limit_bytes = now.limit_bytes,
                    usage_bytes = now.usage_bytes,
                    wanted_bytes = this.wanted.bytes,
                    "the memory limit of all pods follows what they use"
                ),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the memory limit of all pods stays as it is for now");
                }
                Err(error) => {
                    tracing::error!(%error, "the memory limit of all pods is not looked after any more");
                    return;
                }
            }
        }
    }

    /// One step down, if there is room for one. What is in force now.
    fn lower(&self) -> Result<KubepodsMemory, CgroupError> {
        let Some(now) = read(&self.cgroups)? else {
            self.cgroups.ensure_kubepods(&self.resources)?;
            let limit_bytes = Some(self.wanted.bytes);
            return Ok(KubepodsMemory { limit_bytes, usage_bytes: 0, working_set_bytes: 0 });
        };
        let next = self.wanted.next(now);
        if now.limit_bytes != Some(next) {
            let limit = CgroupResources { memory_limit_bytes: Some(next), ..self.resources };
            self.cgroups.limit_kubepods(&limit)?;
        }
        Ok(KubepodsMemory { limit_bytes: Some(next), ..now })
    }

    fn describe(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let kept = self.at_start.limit_bytes.map_or_else(
            || "there stays no limit".to_owned(),
            |limit| format!("the limit in force, {} MiB, stays", mib(limit)),
        );
        format!(
            "the configuration leaves all pods together {} MiB (enforceNodeAllocatable), they use {} MiB, and {} MiB of it \
             cannot be dropped at once: {kept} for now, pods are admitted by the new one, and as usage falls the limit is \
             lowered, once a minute and when a pod has gone, never to less than usage and the eviction threshold of {} MiB",
            mib(self.wanted.bytes),
            mib(self.at_start.usage_bytes),
            mib(self.at_start.working_set_bytes),
            mib(self.wanted.hard_threshold_bytes),
        )
    }
}

/// `None`: there is no `kubepods` yet.
fn read(cgroups: &CgroupDriver) -> Result<Option<KubepodsMemory>, CgroupError> {
    let dir = cgroups.kubepods_dir().memory;
    if !dir.is_dir() {
        return Ok(None);
    }
    let (usage, limit, stat): (_, _, fn(&[u8]) -> Result<_, _>) = match cgroups.memory_hierarchy() {
        Hierarchy::MemoryV1 => ("memory.usage_in_bytes", "memory.limit_in_bytes", parse::memory_stat_v1),
        Hierarchy::Unified => ("memory.current", "memory.max", parse::memory_stat_v2),
    };
    let usage_bytes = parsed(&dir.join(usage), |text| parse::single(text, usage))?;
    let limit_bytes = parsed(&dir.join(limit), |text| parse::limit(text, limit))?;
    let inactive_file = parsed(&dir.join("memory.stat"), stat)?.inactive_file_bytes;
    let working_set_bytes = usage_bytes.saturating_sub(inactive_file);
    Ok(Some(KubepodsMemory { limit_bytes, usage_bytes, working_set_bytes }))
}

fn parsed<T>(
    file: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, parse::ParseError>,
) -> Result<T, CgroupError> {
    let text = fs::read(file).map_err(|e| CgroupError::io("read", file, e))?;
    parse(&text).map_err(|source| CgroupError::Malformed { path: file.into(), source })
}
