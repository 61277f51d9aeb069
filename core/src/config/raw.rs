//! The file's shape, and from there to a checked [`Config`]. Core.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::extension::RawExtension;
use super::tracing::{self, RawTracing};
use super::{
    API_VERSION, CgroupDriver, ChangeDetection, Config, ConfigError, ConfigWarning, KIND, NumbersConfig, keys,
};
use crate::duration::GoDuration;
use crate::pod::sysctl::AllowedSysctls;
use checks::{
    cgroup_root, endpoint, enforce_pods, eviction_thresholds, image_gc, in_range, pids_limit, pod_logs_dir,
    reserved, restart_period, static_pod_url,
};

mod checks;
mod cluster;
mod container_log;
mod node_api;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    // Looked at before; here so that they are known keys.
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    static_pod_path: Option<PathBuf>,
    #[serde(rename = "staticPodURL")]
    static_pod_url: Option<String>,
    #[serde(rename = "staticPodURLHeader")]
    static_pod_url_header: Option<BTreeMap<String, Vec<String>>>,
    file_check_frequency: Option<GoDuration>,
    http_check_frequency: Option<GoDuration>,
    sync_frequency: Option<GoDuration>,
    container_runtime_endpoint: Option<String>,
    image_service_endpoint: Option<String>,
    cgroup_root: Option<String>,
    cgroup_driver: Option<CgroupDriver>,
    enforce_node_allocatable: Option<Vec<String>>,
    system_reserved: Option<BTreeMap<String, Quantity>>,
    kube_reserved: Option<BTreeMap<String, Quantity>>,
    eviction_hard: Option<BTreeMap<String, String>>,
    eviction_soft: Option<BTreeMap<String, String>>,
    eviction_soft_grace_period: Option<BTreeMap<String, GoDuration>>,
    eviction_minimum_reclaim: Option<BTreeMap<String, String>>,
    eviction_max_pod_grace_period: Option<u32>,
    eviction_pressure_transition_period: Option<GoDuration>,
    merge_default_eviction_settings: Option<bool>,
    local_storage_capacity_isolation: Option<bool>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_gc_high_threshold_percent: Option<i32>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    image_gc_low_threshold_percent: Option<i32>,
    #[serde(rename = "imageMinimumGCAge")]
    image_minimum_gc_age: Option<GoDuration>,
    #[serde(rename = "imageMaximumGCAge")]
    image_maximum_gc_age: Option<GoDuration>,
    max_pods: Option<u32>,
    allowed_unsafe_sysctls: Option<Vec<String>>,
    pod_pids_limit: Option<i64>,
    pod_logs_dir: Option<PathBuf>,
    container_log_max_size: Option<Quantity>,
    container_log_max_files: Option<i32>,
    container_log_max_workers: Option<i32>,
    container_log_monitor_interval: Option<GoDuration>,
    crash_loop_back_off: Option<RawCrashLoopBackOff>,
    oom_score_adj: Option<i32>,
    serialize_image_pulls: Option<bool>,
    seccomp_default: Option<bool>,
    #[serde(rename = "singleProcessOOMKill")]
    single_process_oom_kill: Option<bool>,
    resolv_conf: Option<String>,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Option<Vec<IpAddr>>,
    cluster_domain: Option<String>,
    feature_gates: Option<BTreeMap<String, bool>>,
    max_parallel_image_pulls: Option<i32>,
    runtime_request_timeout: Option<GoDuration>,
    fail_swap_on: Option<bool>,
    fail_cgroup_v1: Option<bool>,
    // What the API server is told and asked: `cluster`.
    node_status_update_frequency: Option<GoDuration>,
    node_status_report_frequency: Option<GoDuration>,
    node_status_max_images: Option<i32>,
    node_lease_duration_seconds: Option<i32>,
    register_node: Option<bool>,
    register_with_taints: Option<Vec<Taint>>,
    #[serde(rename = "providerID")]
    provider_id: Option<String>,
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    port: Option<i32>,
    #[serde(rename = "kubeAPIQPS")]
    kube_api_qps: Option<i32>,
    #[serde(rename = "kubeAPIBurst")]
    kube_api_burst: Option<i32>,
    #[serde(rename = "eventRecordQPS")]
    event_record_qps: Option<i32>,
    event_burst: Option<i32>,
    rotate_certificates: Option<bool>,
    #[serde(rename = "serverTLSBootstrap")]
    server_tls_bootstrap: Option<bool>,
    config_map_and_secret_change_detection_strategy: Option<ChangeDetection>,
    enable_controller_attach_detach: Option<bool>,
    // The agent speaks JSON whatever is asked for: the server takes it as well.
    #[serde(rename = "contentType")]
    _content_type: Option<String>,
    tracing: Option<RawTracing>,
    // The node's own API: `node_api`.
    enable_server: Option<bool>,
    address: Option<String>,
    read_only_port: Option<i32>,
    healthz_port: Option<i32>,
    healthz_bind_address: Option<String>,
    tls_cert_file: Option<PathBuf>,
    tls_private_key_file: Option<PathBuf>,
    tls_cipher_suites: Option<Vec<String>>,
    tls_min_version: Option<String>,
    authentication: Option<node_api::RawAuthentication>,
    authorization: Option<node_api::RawAuthorization>,
    enable_debugging_handlers: Option<bool>,
    enable_system_log_handler: Option<bool>,
    enable_system_log_query: Option<bool>,
    max_open_files: Option<i64>,
    kubelet_cgroups: Option<String>,
    system_cgroups: Option<String>,
    volume_stats_agg_period: Option<GoDuration>,
    // kubelet 1.37 has the key and does nothing with it: the runtime has a timeout of its own.
    #[serde(rename = "streamingConnectionIdleTimeout")]
    _streaming_connection_idle_timeout: Option<GoDuration>,
    oomlet: Option<RawExtension>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawCrashLoopBackOff {
    max_container_restart_period: Option<GoDuration>,
}

/// The text of a file as the document that it is.
pub(super) fn document(text: &str, origin: &Path) -> Result<Map<String, Value>, ConfigError> {
    let document: Value = serde_saphyr::from_str(text)
        .map_err(|e| ConfigError::Syntax { path: origin.to_owned(), error: e.to_string() })?;
    check_kind(&document, origin)?;
    match document {
        Value::Object(document) => Ok(document),
        _ => Ok(Map::new()),
    }
}

/// `Err`: the key, and what is wrong with its value.
pub(super) fn read(document: Value) -> Result<(Config, Vec<ConfigWarning>), Wrong> {
    let mut warnings = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    let raw: Result<Raw, _> =
        serde_ignored::deserialize(tracked, |path| warnings.push(warning(&path.to_string())));
    let raw = raw.map_err(|e| (track.path().to_string(), e.to_string()))?;
    let config = checked(raw, &mut warnings)?;
    Ok((config, warnings))
}

fn check_kind(document: &Value, origin: &Path) -> Result<(), ConfigError> {
    for (key, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let found = document.get(key);
        if found.and_then(Value::as_str) != Some(expected) {
            let found = found.map_or_else(|| "missing".to_owned(), Value::to_string);
            return Err(ConfigError::WrongKind { path: origin.to_owned(), key, found, expected });
        }
    }
    Ok(())
}

fn warning(key: &str) -> ConfigWarning {
    // serde_ignored writes a `?` for each Option that it went through.
    let key: String = key.split('.').filter(|part| *part != "?").collect::<Vec<_>>().join(".");
    if keys::NOT_HONOURED.contains(&key.as_str()) {
        ConfigWarning::NotHonoured { key }
    } else {
        ConfigWarning::Unknown { nearest: keys::nearest(&key), key }
    }
}

/// Key, and what is wrong with its value.
pub(super) type Wrong = (String, String);

fn at(key: &str) -> impl Fn(Wrong) -> Wrong {
    let key = key.to_owned();
    move |(below, error)| (format!("{key}[{below:?}]"), error)
}

fn checked(raw: Raw, warnings: &mut Vec<ConfigWarning>) -> Result<Config, Wrong> {
    let default = Config::default();
    // kubelet takes a zero as not set.
    let time = |given: Option<GoDuration>, default: Duration| {
        given.map(|d| d.0).filter(|d| !d.is_zero()).unwrap_or(default)
    };
    let enforce_pods_allocatable = enforce_pods(raw.enforce_node_allocatable.as_deref(), warnings)?;
    let eviction_thresholds = eviction_thresholds(&raw, enforce_pods_allocatable, warnings)?;
    let image_gc = image_gc(&raw, default.image_gc)?;
    let node_api = node_api::checked(&raw, warnings)?;
    let container_log = container_log::checked(&raw)?;
    let rest = cluster::checked(&raw)?;
    let gates = raw.feature_gates.iter().flatten().map(|(gate, _)| format!("featureGates.{gate}"));
    warnings.extend(gates.map(|key| ConfigWarning::NotHonoured { key }));
    Ok(Config {
        static_pod_path: raw.static_pod_path.filter(|p| !p.as_os_str().is_empty()),
        static_pod_url: static_pod_url(raw.static_pod_url)?,
        static_pod_url_header: raw.static_pod_url_header.unwrap_or_default(),
        http_check_frequency: time(raw.http_check_frequency, default.http_check_frequency),
        file_check_frequency: time(raw.file_check_frequency, default.file_check_frequency),
        sync_frequency: time(raw.sync_frequency, default.sync_frequency),
        numbers: NumbersConfig {
            kubelet_cgroups: raw.kubelet_cgroups.filter(|path| !path.is_empty()),
            system_cgroups: raw.system_cgroups.filter(|path| !path.is_empty()),
            volume_stats_agg_period: time(
                raw.volume_stats_agg_period,
                default.numbers.volume_stats_agg_period,
            ),
        },
        container_runtime_endpoint: endpoint("containerRuntimeEndpoint", raw.container_runtime_endpoint)?
            .unwrap_or(default.container_runtime_endpoint),
        image_service_endpoint: endpoint("imageServiceEndpoint", raw.image_service_endpoint)?,
        cgroup_root: cgroup_root(raw.cgroup_root.unwrap_or_default())?,
        cgroup_driver: raw.cgroup_driver.unwrap_or_default(),
        enforce_pods_allocatable,
        system_reserved: reserved("systemReserved", raw.system_reserved)?,
        kube_reserved: reserved("kubeReserved", raw.kube_reserved)?,
        eviction_thresholds,
        eviction_max_pod_grace_period: Duration::from_secs(
            raw.eviction_max_pod_grace_period.unwrap_or(0).into(),
        ),
        eviction_pressure_transition_period: time(
            raw.eviction_pressure_transition_period,
            default.eviction_pressure_transition_period,
        ),
        local_storage_capacity_isolation: raw
            .local_storage_capacity_isolation
            .unwrap_or(default.local_storage_capacity_isolation),
        image_gc,
        allowed_sysctls: AllowedSysctls::new(raw.allowed_unsafe_sysctls.as_deref().unwrap_or_default())
            .map_err(|error| ("allowedUnsafeSysctls".to_owned(), error))?,
        max_pods: raw.max_pods.filter(|n| *n > 0).unwrap_or(default.max_pods),
        pod_pids_limit: pids_limit(raw.pod_pids_limit)?,
        pod_logs_dir: pod_logs_dir(raw.pod_logs_dir, default.pod_logs_dir)?,
        container_log,
        max_container_restart_period: restart_period(
            raw.crash_loop_back_off,
            default.max_container_restart_period,
        )?,
        oom_score_adj: {
            let adj = raw.oom_score_adj.unwrap_or(default.oom_score_adj);
            in_range("oomScoreAdj", adj, (-1000..=1000).contains(&adj), "-1000 to 1000")?
        },
        seccomp_default: raw.seccomp_default.unwrap_or(default.seccomp_default),
        single_process_oom_kill: raw.single_process_oom_kill,
        resolv_conf: raw.resolv_conf.unwrap_or(default.resolv_conf),
        cluster_dns: raw.cluster_dns.unwrap_or_default(),
        cluster_domain: raw.cluster_domain.unwrap_or_default(),
        tracing: tracing::checked(raw.tracing)?,
        oomlet: raw
            .oomlet
            .unwrap_or_default()
            .checked()
            .map_err(|(key, error)| (format!("oomlet.{key}"), error))?,
        node_api,
        ..rest
    })
}
