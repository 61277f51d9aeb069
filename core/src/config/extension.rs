//! The section `oomlet:` of the configuration: what kubelet has no key for. Core.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;

use crate::duration::GoDuration;
use crate::eviction::psi::{PsiThreshold, PsiThresholds};
use crate::eviction::resources::MONITORING_PERIOD;
use crate::pod::memory_limit::{MemoryLimit, MemoryLimitPolicy};
use crate::quantity::parse_bytes;

/// Every key may be left out.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Extension {
    pub eviction: Eviction,
    pub kernel: Kernel,
    pub logs: Logs,
    pub trace: Trace,
    /// A directory of Secret and ConfigMap manifests, for pods of a node without an API server. None.
    pub objects: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    /// False: memory, disks and process ids are watched and traced, no pod is ever evicted for them, and no container stopped
    /// before its limit. True.
    pub enabled: bool,
    /// Act on the forecast too, not on thresholds alone. True.
    pub forecast: bool,
    /// Hold a pod that grows faster than its end takes: frozen for a moment, then on a budget. True.
    pub brake: bool,
    /// How many times the time that freeing memory takes must be left; 1.0 to 100.0. 2.0.
    pub safety: f64,
    /// Evict for memory pressure as PSI measures it. None.
    pub psi: PsiThresholds,
    /// Of pods without the annotation `oomlet.dev/memory-limit-policy`. `kernel`.
    pub memory_limit_policy: MemoryLimitPolicy,
    /// Of pods without the annotation `oomlet.dev/memory-limit-grace`; more than zero. 5 s.
    pub memory_limit_grace: Duration,
    /// How often disks and process ids are read, 100 ms to 10 min. 10 s, as kubelet.
    pub resource_interval: Duration,
}

impl Default for Eviction {
    fn default() -> Self {
        let MemoryLimit { policy: memory_limit_policy, grace: memory_limit_grace } = MemoryLimit::default();
        Eviction {
            enabled: true,
            forecast: true,
            brake: true,
            safety: 2.0,
            psi: PsiThresholds::default(),
            memory_limit_policy,
            memory_limit_grace,
            resource_interval: MONITORING_PERIOD,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// BTF of the running kernel. `/sys/kernel/btf/vmlinux`.
    pub btf_path: PathBuf,
    /// Where tracefs is mounted. None: it is found, or mounted.
    pub tracefs_path: Option<PathBuf>,
    /// The highest sensing tier to use: 0 sampler, 1 tracepoints, 2 BTF. 2.
    pub max_tier: u8,
    /// Size of the ring buffer: a power of two, 4 KiB to 64 MiB. 256 KiB.
    pub ring_bytes: u32,
    /// One event every so many page faults per CPU, 1 to 1,000,000. 64.
    pub fault_sample_period: u64,
}

impl Default for Kernel {
    fn default() -> Self {
        Kernel {
            btf_path: PathBuf::from("/sys/kernel/btf/vmlinux"),
            tracefs_path: None,
            max_tier: 2,
            ring_bytes: 256 << 10,
            fault_sample_period: 64,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Trace {
    /// Records kept in memory, 1 to 1,000,000. 4096.
    pub journal_records: usize,
    /// JSON lines are appended to this file. None.
    pub file: Option<PathBuf>,
}

impl Default for Trace {
    fn default() -> Self {
        Trace { journal_records: 4096, file: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// How long the logs of a pod that is gone are kept, up to 24 h. 5 min.
    pub keep: Duration,
}

impl Default for Logs {
    fn default() -> Self {
        Logs { keep: Duration::from_secs(300) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawLogs {
    keep: Option<GoDuration>,
}

impl RawLogs {
    fn checked(self) -> Result<Logs, (&'static str, String)> {
        let keep = self.keep.map_or(Logs::default().keep, |keep| keep.0);
        if keep > Duration::from_secs(24 * 3600) {
            return Err(("logs.keep", format!("{keep:?} is out of range, must be 0s to 24h")));
        }
        Ok(Logs { keep })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawExtension {
    eviction: Option<RawEviction>,
    kernel: Option<RawKernel>,
    logs: Option<RawLogs>,
    trace: Option<Trace>,
    objects: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEviction {
    enabled: Option<bool>,
    forecast: Option<bool>,
    brake: Option<bool>,
    safety: Option<f64>,
    memory_limit_policy: Option<MemoryLimitPolicy>,
    memory_limit_grace: Option<GoDuration>,
    resource_interval: Option<GoDuration>,
    psi: RawPsi,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPsi {
    node: Option<RawPsiThreshold>,
    pod: Option<RawPsiThreshold>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPsiThreshold {
    /// A percentage.
    full: String,
    /// 10 s.
    window: Option<GoDuration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawKernel {
    btf_path: Option<PathBuf>,
    tracefs_path: Option<PathBuf>,
    max_tier: Option<u8>,
    ring_bytes: Option<Quantity>,
    fault_sample_period: Option<u64>,
}

impl RawExtension {
    /// `Err`: the key below `oomlet` and what is wrong with its value.
    pub(super) fn checked(self) -> Result<Extension, (&'static str, String)> {
        let eviction = self.eviction.unwrap_or_default().checked()?;
        let trace = self.trace.unwrap_or_default();
        if !(1..=1_000_000).contains(&trace.journal_records) {
            let error = format!("{} is out of range, must be 1 to 1000000", trace.journal_records);
            return Err(("trace.journalRecords", error));
        }
        let objects = self.objects.filter(|dir| !dir.as_os_str().is_empty());
        if let Some(dir) = &objects
            && !dir.is_absolute()
        {
            return Err(("objects", format!("{dir:?} must be an absolute path")));
        }
        Ok(Extension {
            eviction,
            trace,
            objects,
            logs: self.logs.unwrap_or_default().checked()?,
            kernel: self.kernel.unwrap_or_default().checked()?,
        })
    }
}

impl RawEviction {
    fn checked(self) -> Result<Eviction, (&'static str, String)> {
        let default = Eviction::default();
        let safety = self.safety.unwrap_or(default.safety);
        if !(1.0..=100.0).contains(&safety) {
            return Err(("eviction.safety", format!("{safety} is out of range, must be 1.0 to 100.0")));
        }
        let memory_limit_grace = self.memory_limit_grace.map_or(default.memory_limit_grace, |grace| grace.0);
        if memory_limit_grace.is_zero() {
            return Err(("eviction.memoryLimitGrace", "0s must be more than 0".to_owned()));
        }
        let resource_interval =
            self.resource_interval.map_or(default.resource_interval, |interval| interval.0);
        let allowed = Duration::from_millis(100)..=Duration::from_secs(600);
        if !allowed.contains(&resource_interval) {
            let error = format!("{resource_interval:?} is out of range, must be 100ms to 10m");
            return Err(("eviction.resourceInterval", error));
        }
        let threshold = |raw: Option<RawPsiThreshold>, key| raw.map(|raw| raw.checked(key)).transpose();
        Ok(Eviction {
            enabled: self.enabled.unwrap_or(default.enabled),
            forecast: self.forecast.unwrap_or(default.forecast),
            brake: self.brake.unwrap_or(default.brake),
            safety,
            memory_limit_policy: self.memory_limit_policy.unwrap_or(default.memory_limit_policy),
            memory_limit_grace,
            resource_interval,
            psi: PsiThresholds {
                node: threshold(self.psi.node, "eviction.psi.node")?,
                pod: threshold(self.psi.pod, "eviction.psi.pod")?,
            },
        })
    }
}

impl RawPsiThreshold {
    /// The shortest window is what a few readings still fill; the longest is systemd-oomd's bound of patience.
    fn checked(self, key: &'static str) -> Result<PsiThreshold, (&'static str, String)> {
        let window = self.window.map_or(Duration::from_secs(10), |w| w.0);
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&window) {
            return Err((key, format!("the window {window:?} is out of range, must be 1s to 10m")));
        }
        let per_cent = self.full.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
        let share = per_cent.map(|p| p / 100.0).filter(|share| *share > 0.0 && *share <= 1.0);
        let share = share.ok_or_else(|| {
            (
                key,
                format!("full: {:?} must be a percentage above 0 and up to 100, such as \"40%\"", self.full),
            )
        })?;
        Ok(PsiThreshold { share, window })
    }
}

impl RawKernel {
    fn checked(self) -> Result<Kernel, (&'static str, String)> {
        let default = Kernel::default();
        let max_tier = self.max_tier.unwrap_or(default.max_tier);
        if max_tier > 2 {
            return Err(("kernel.maxTier", format!("{max_tier} is out of range, must be 0, 1 or 2")));
        }
        let fault_sample_period = self.fault_sample_period.unwrap_or(default.fault_sample_period);
        if !(1..=1_000_000).contains(&fault_sample_period) {
            let error = format!("{fault_sample_period} is out of range, must be 1 to 1000000");
            return Err(("kernel.faultSamplePeriod", error));
        }
        let ring_bytes = match self.ring_bytes {
            None => default.ring_bytes,
            Some(Quantity(text)) => {
                let bytes = parse_bytes(&text).map_err(|e| ("kernel.ringBytes", e.to_string()))?;
                u32::try_from(bytes)
                    .ok()
                    .filter(|b| b.is_power_of_two() && (4 << 10..=64 << 20).contains(b))
                    .ok_or_else(|| {
                        ("kernel.ringBytes", format!("{text} must be a power of two from 4Ki to 64Mi"))
                    })?
            }
        };
        Ok(Kernel {
            btf_path: self.btf_path.unwrap_or(default.btf_path),
            tracefs_path: self.tracefs_path,
            max_tier,
            ring_bytes,
            fault_sample_period,
        })
    }
}
