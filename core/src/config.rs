//! The node agent's configuration: kubelet's KubeletConfiguration v1beta1 (`--config`) with our own section
//! `oomlet:` in the same file. Reads text, emits [`Config`] and what to warn of.
//!
//! - A key that kubelet knows and this agent does not act on yet, or that nobody knows: a warning.
//! - A value of the wrong type or out of range, a wrong `kind` or `apiVersion`: refused, naming key and value.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

use crate::container_log::LogPolicy;
use crate::eviction::threshold::Thresholds;
use crate::image::gc::GcPolicy;
use crate::pod::qos::Amounts;
use crate::pod::sysctl::AllowedSysctls;
use crate::quantity;

pub mod extension;
pub mod flags;
mod keys;
mod layers;
pub mod node_api;
pub mod node_flags;
mod raw;
pub mod tracing;

pub use extension::Extension;
pub use layers::{Layers, Loaded, Source};
pub use node_api::NodeApiConfig;
pub use tracing::Tracing;

pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
pub const KIND: &str = "KubeletConfiguration";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    #[default]
    Cgroupfs,
    Systemd,
}

/// `configMapAndSecretChangeDetectionStrategy`: how a node follows the ConfigMaps and Secrets of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
pub enum ChangeDetection {
    Get,
    Cache,
    #[default]
    Watch,
}

/// Defaults are kubelet's (pkg/kubelet/apis/config/v1beta1/defaults.go) unless said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Directory or file; `None`: no static pods from files.
    pub static_pod_path: Option<PathBuf>,
    /// `None`: no static pods from a server.
    pub static_pod_url: Option<String>,
    /// Headers of the request, each with its values.
    pub static_pod_url_header: BTreeMap<String, Vec<String>>,
    /// 20 s.
    pub http_check_frequency: Duration,
    /// 20 s. Besides inotify.
    pub file_check_frequency: Duration,
    /// 1 min.
    pub sync_frequency: Duration,
    pub numbers: NumbersConfig,
    /// `unix:///run/containerd/containerd.sock`.
    pub container_runtime_endpoint: String,
    /// `None`: the runtime's.
    pub image_service_endpoint: Option<String>,
    /// `/`.
    pub cgroup_root: String,
    pub cgroup_driver: CgroupDriver,
    /// Whether `pods` is among `enforceNodeAllocatable`: the kubepods cgroup is capped. True.
    pub enforce_pods_allocatable: bool,
    /// By resource name; the quantities parse.
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    /// `evictionHard`, `evictionSoft`, `evictionSoftGracePeriod` and `evictionMinimumReclaim` together. The hard
    /// `memory.available` counts for the kubepods cgroup too where `enforce_pods_allocatable` is set.
    pub eviction_thresholds: Thresholds,
    /// 0.
    pub eviction_max_pod_grace_period: Duration,
    /// 5 min.
    pub eviction_pressure_transition_period: Duration,
    /// Pods are held to their own limits of local storage. True.
    pub local_storage_capacity_isolation: bool,
    /// `imageGCHighThresholdPercent` and what goes with it.
    pub image_gc: GcPolicy,
    /// 110.
    pub max_pods: u32,
    /// `allowedUnsafeSysctls`, and what is safe.
    pub allowed_sysctls: AllowedSysctls,
    /// `None` (kubelet's −1): the node's limit.
    pub pod_pids_limit: Option<i64>,
    /// `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// Rotation of the logs there.
    pub container_log: LogPolicy,
    /// `crashLoopBackOff.maxContainerRestartPeriod`, 1 s to 300 s; 300 s.
    pub max_container_restart_period: Duration,
    /// −999.
    pub oom_score_adj: i32,
    /// True, unless `maxParallelImagePulls` is above 1.
    pub serialize_image_pulls: bool,
    /// Without `serialize_image_pulls`; `None`: kubelet has no bound.
    pub max_parallel_image_pulls: Option<u32>,
    /// 2 min. Of every call to the runtime but those that may last.
    pub runtime_request_timeout: Duration,
    /// Only `Some(true)` keeps the agent from a node with swap; kubelet's default is true.
    pub fail_swap_on: Option<bool>,
    /// Only `Some(true)` keeps the agent from a node with cgroup v1; kubelet's default is true.
    pub fail_cgroup_v1: Option<bool>,
    /// A container without a seccomp profile gets the runtime's. False.
    pub seccomp_default: bool,
    /// The OOM killer takes one process of a container instead of all. `None`: all where cgroup v2 can (kubelet's
    /// default); `Some(false)` is refused at start where it cannot.
    pub single_process_oom_kill: Option<bool>,
    /// `/etc/resolv.conf`; empty: none.
    pub resolv_conf: String,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// 10 s.
    pub node_status_update_frequency: Duration,
    /// 5 min; where only `nodeStatusUpdateFrequency` is set, as that.
    pub node_status_report_frequency: Duration,
    /// `None`: all. 50.
    pub node_status_max_images: Option<u32>,
    /// 40.
    pub node_lease_duration_seconds: u32,
    /// True.
    pub register_node: bool,
    pub register_with_taints: Vec<Taint>,
    pub provider_id: Option<String>,
    /// Of a node without an API server; with one the Node says it.
    pub pod_cidr: Option<String>,
    /// Of the node's own API. 10250.
    pub port: u16,
    /// 50, in bursts of 100.
    pub kube_api_qps: u32,
    pub kube_api_burst: u32,
    /// 50, in bursts of 100; 0 events a second is no bound.
    pub event_record_qps: u32,
    pub event_burst: u32,
    /// The client certificate. False.
    pub rotate_certificates: bool,
    /// The serving certificate comes from the cluster too. False.
    pub server_tls_bootstrap: bool,
    /// `Watch`.
    pub change_detection: ChangeDetection,
    /// True: the controller manager attaches volumes.
    pub enable_controller_attach_detach: bool,
    /// Spans of what is done for pods. None.
    pub tracing: Option<Tracing>,
    /// What the node's own API listens on, and whom it answers.
    pub node_api: NodeApiConfig,
    pub oomlet: Extension,
}

/// What is shown of the node's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumbersConfig {
    /// The Summary's system container `kubelet`. `None`: the agent's own cgroup.
    pub kubelet_cgroups: Option<String>,
    /// Its system container `misc`.
    pub system_cgroups: Option<String>,
    /// 1 min.
    pub volume_stats_agg_period: Duration,
}

impl Default for NumbersConfig {
    fn default() -> NumbersConfig {
        NumbersConfig {
            kubelet_cgroups: None,
            system_cgroups: None,
            volume_stats_agg_period: Duration::from_secs(60),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            static_pod_path: None,
            static_pod_url: None,
            static_pod_url_header: BTreeMap::new(),
            http_check_frequency: Duration::from_secs(20),
            file_check_frequency: Duration::from_secs(20),
            sync_frequency: Duration::from_secs(60),
            numbers: NumbersConfig::default(),
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            image_service_endpoint: None,
            cgroup_root: "/".to_owned(),
            cgroup_driver: CgroupDriver::default(),
            enforce_pods_allocatable: true,
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            eviction_thresholds: Thresholds::kubelet_defaults(true),
            eviction_max_pod_grace_period: Duration::ZERO,
            eviction_pressure_transition_period: Duration::from_secs(300),
            local_storage_capacity_isolation: true,
            image_gc: GcPolicy::default(),
            max_pods: 110,
            allowed_sysctls: AllowedSysctls::default(),
            pod_pids_limit: None,
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            container_log: LogPolicy::default(),
            max_container_restart_period: Duration::from_secs(300),
            oom_score_adj: -999,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            runtime_request_timeout: Duration::from_secs(120),
            fail_swap_on: None,
            fail_cgroup_v1: None,
            seccomp_default: false,
            single_process_oom_kill: None,
            resolv_conf: "/etc/resolv.conf".to_owned(),
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
            node_status_max_images: Some(50),
            node_lease_duration_seconds: 40,
            register_node: true,
            register_with_taints: Vec::new(),
            provider_id: None,
            pod_cidr: None,
            port: 10250,
            kube_api_qps: 50,
            kube_api_burst: 100,
            event_record_qps: 50,
            event_burst: 100,
            rotate_certificates: false,
            server_tls_bootstrap: false,
            change_detection: ChangeDetection::Watch,
            enable_controller_attach_detach: true,
            tracing: None,
            node_api: NodeApiConfig::default(),
            oomlet: Extension::default(),
        }
    }
}

impl Config {
    /// Reads the text of a configuration file, YAML or JSON. `origin` names it in errors.
    ///
    /// # Errors
    /// Not YAML, not a KubeletConfiguration, or a value that is not allowed.
    pub fn parse(text: &str, origin: &Path) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
        let mut layers = Layers::default();
        layers.file(text, origin)?;
        layers.load().map(|loaded| (loaded.config, loaded.warnings))
    }

    /// `systemReserved` and `kubeReserved` together: what pods may not have.
    #[must_use]
    pub fn reserved(&self) -> Amounts {
        [&self.system_reserved, &self.kube_reserved].into_iter().fold(Amounts::default(), |sum, list| {
            // The quantities were checked when the file was read; what is not listed is 0.
            let of = |key: &str, parse: fn(&str) -> Result<u64, quantity::QuantityError>| {
                list.get(key).and_then(|text| parse(text).ok()).unwrap_or(0)
            };
            sum.plus(Amounts {
                milli_cpu: of("cpu", quantity::parse_milli_cpu),
                memory_bytes: of("memory", quantity::parse_bytes),
            })
        })
    }
}

/// Something in the file has no effect. To be logged once, at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigWarning {
    /// kubelet acts on the key; this agent does not yet.
    NotHonoured { key: String },
    /// The same of a flag.
    FlagNotHonoured { flag: &'static str },
    /// The file names an eviction signal of kubelet's and gives it a threshold; nothing enforces it yet.
    NotEnforced { signal: String },
    /// kubelet's TLS has the cipher suite, this agent's does not: it is left out.
    CipherSuite { name: String },
    /// TLS 1.0 or 1.1 is asked for, and is not spoken.
    TlsVersion { name: String },
    /// Neither kubelet nor this agent knows the key; `nearest` is the known key that looks like it.
    Unknown { key: String, nearest: Option<String> },
}

impl std::fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConfigWarning::NotHonoured { key } => {
                write!(f, "{key} is not honoured by this agent yet and has no effect")
            }
            ConfigWarning::FlagNotHonoured { flag } => {
                write!(f, "--{flag} is not honoured by this agent yet and has no effect")
            }
            ConfigWarning::NotEnforced { signal } => {
                write!(f, "the eviction threshold for {signal} is not enforced by this agent yet")
            }
            ConfigWarning::CipherSuite { name } => {
                write!(
                    f,
                    "tlsCipherSuites: {name} is not among what this agent's TLS speaks (ECDHE with AES-GCM or ChaCha20) and is left out"
                )
            }
            ConfigWarning::TlsVersion { name } => {
                write!(f, "tlsMinVersion: {name} is not spoken by this agent; TLS 1.2 is the least")
            }
            ConfigWarning::Unknown { key, nearest: None } => {
                write!(f, "{key} is not a known key and has no effect")
            }
            ConfigWarning::Unknown { key, nearest: Some(nearest) } => {
                write!(f, "{key} is not a known key and has no effect; did you mean {nearest}?")
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration {path}: {source}; check --config and the file's permissions")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration {path} is not valid YAML or JSON: {error}")]
    Syntax { path: PathBuf, error: String },
    #[error("configuration {path}: {key} is {found}, must be {expected:?}")]
    WrongKind { path: PathBuf, key: &'static str, found: String, expected: &'static str },
    #[error("cannot read the drop-in directory {path}: {source}; check --config-dir and its permissions")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("{source}: {key}: {error}", source = .origin)]
    Value { origin: Source, key: String, error: String },
    #[error(transparent)]
    Flag(#[from] flags::FlagError),
}

#[cfg(test)]
mod tests;
