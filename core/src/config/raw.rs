//! The file's shape, and from there to a checked [`Config`]. Core.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;
use serde_json::Value;

use super::extension::RawExtension;
use super::{API_VERSION, CgroupDriver, Config, ConfigError, ConfigWarning, KIND, keys};
use crate::duration::GoDuration;
use crate::eviction::threshold::{Thresholds, default_eviction_hard, parse_thresholds};
use crate::image::gc::GcPolicy;
use crate::quantity::{parse_bytes, parse_milli_cpu};

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
    pod_pids_limit: Option<i64>,
    pod_logs_dir: Option<PathBuf>,
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
    oomlet: Option<RawExtension>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawCrashLoopBackOff {
    max_container_restart_period: Option<GoDuration>,
}

pub(super) fn parse(text: &str, origin: &Path) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
    let document: Value = serde_saphyr::from_str(text)
        .map_err(|e| ConfigError::Syntax { path: origin.to_owned(), error: e.to_string() })?;
    check_kind(&document, origin)?;

    let mut warnings = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    let raw: Result<Raw, _> =
        serde_ignored::deserialize(tracked, |path| warnings.push(warning(&path.to_string())));
    let raw = raw.map_err(|e| ConfigError::Value {
        path: origin.to_owned(),
        key: track.path().to_string(),
        error: e.to_string(),
    })?;
    let config = checked(raw, &mut warnings).map_err(|(key, error)| ConfigError::Value {
        path: origin.to_owned(),
        key,
        error,
    })?;
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
type Wrong = (String, String);

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
    let gates = raw.feature_gates.iter().flatten().map(|(gate, _)| format!("featureGates.{gate}"));
    warnings.extend(gates.map(|key| ConfigWarning::NotHonoured { key }));
    Ok(Config {
        static_pod_path: raw.static_pod_path.filter(|p| !p.as_os_str().is_empty()),
        static_pod_url: static_pod_url(raw.static_pod_url)?,
        static_pod_url_header: raw.static_pod_url_header.unwrap_or_default(),
        http_check_frequency: time(raw.http_check_frequency, default.http_check_frequency),
        file_check_frequency: time(raw.file_check_frequency, default.file_check_frequency),
        sync_frequency: time(raw.sync_frequency, default.sync_frequency),
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
        max_pods: raw.max_pods.filter(|n| *n > 0).unwrap_or(default.max_pods),
        pod_pids_limit: pids_limit(raw.pod_pids_limit)?,
        pod_logs_dir: pod_logs_dir(raw.pod_logs_dir, default.pod_logs_dir)?,
        max_container_restart_period: restart_period(
            raw.crash_loop_back_off,
            default.max_container_restart_period,
        )?,
        oom_score_adj: {
            let adj = raw.oom_score_adj.unwrap_or(default.oom_score_adj);
            in_range("oomScoreAdj", adj, (-1000..=1000).contains(&adj), "-1000 to 1000")?
        },
        serialize_image_pulls: raw.serialize_image_pulls.unwrap_or(default.serialize_image_pulls),
        seccomp_default: raw.seccomp_default.unwrap_or(default.seccomp_default),
        single_process_oom_kill: raw.single_process_oom_kill,
        resolv_conf: raw.resolv_conf.unwrap_or(default.resolv_conf),
        cluster_dns: raw.cluster_dns.unwrap_or_default(),
        cluster_domain: raw.cluster_domain.unwrap_or_default(),
        oomlet: raw
            .oomlet
            .unwrap_or_default()
            .checked()
            .map_err(|(key, error)| (format!("oomlet.{key}"), error))?,
    })
}

fn in_range<T: std::fmt::Debug>(key: &str, value: T, fits: bool, allowed: &str) -> Result<T, Wrong> {
    if fits {
        Ok(value)
    } else {
        Err((key.to_owned(), format!("{value:?} is out of range, must be {allowed}")))
    }
}

fn restart_period(given: Option<RawCrashLoopBackOff>, default: Duration) -> Result<Duration, Wrong> {
    let Some(GoDuration(period)) = given.and_then(|c| c.max_container_restart_period) else {
        return Ok(default);
    };
    let allowed = Duration::from_secs(1)..=Duration::from_secs(300);
    in_range("crashLoopBackOff.maxContainerRestartPeriod", period, allowed.contains(&period), "1s to 300s")
}

/// As kubelet's validation has it (pkg/kubelet/apis/config/validation).
fn image_gc(raw: &Raw, default: GcPolicy) -> Result<GcPolicy, Wrong> {
    let percent = |key: &str, given: Option<i32>, default: u8| {
        let Some(percent) = given else { return Ok(default) };
        let fits = u8::try_from(percent).ok().filter(|p| *p <= 100);
        in_range(key, percent, fits.is_some(), "0 to 100").map(|_| fits.unwrap_or(default))
    };
    let (high, low) = ("imageGCHighThresholdPercent", "imageGCLowThresholdPercent");
    let high_percent = percent(high, raw.image_gc_high_threshold_percent, default.high_percent)?;
    let low_percent = percent(low, raw.image_gc_low_threshold_percent, default.low_percent)?;
    if low_percent >= high_percent {
        let error = format!("{low_percent} must be less than {high}, which is {high_percent}");
        return Err((low.to_owned(), error));
    }
    // kubelet takes a zero as not set.
    let min_age = raw.image_minimum_gc_age.map(|d| d.0).filter(|d| !d.is_zero()).unwrap_or(default.min_age);
    let max_age = raw.image_maximum_gc_age.map_or(default.max_age, |d| d.0);
    if !max_age.is_zero() && max_age <= min_age {
        let error = format!("{max_age:?} must be more than imageMinimumGCAge, which is {min_age:?}, or 0s");
        return Err(("imageMaximumGCAge".to_owned(), error));
    }
    Ok(GcPolicy { high_percent, low_percent, min_age, max_age })
}

fn eviction_thresholds(
    raw: &Raw,
    enforce_pods_allocatable: bool,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<Thresholds, Wrong> {
    let none = BTreeMap::new();
    let [soft, minimum_reclaim] =
        [&raw.eviction_soft, &raw.eviction_minimum_reclaim].map(|map| map.as_ref().unwrap_or(&none));
    let grace = raw.eviction_soft_grace_period.iter().flatten().map(|(signal, d)| (signal.clone(), d.0));
    // As for kubelet, naming one hard threshold drops the default ones unless they are asked for.
    let mut hard = match (&raw.eviction_hard, raw.merge_default_eviction_settings) {
        (None, _) | (_, Some(true)) => default_eviction_hard(),
        _ => BTreeMap::new(),
    };
    hard.extend(raw.eviction_hard.clone().unwrap_or_default());

    let thresholds =
        parse_thresholds(&hard, soft, &grace.collect(), minimum_reclaim, enforce_pods_allocatable)
            .map_err(|e| at(e.field)((e.signal, e.fault.to_string())))?;
    // Only what the file itself names: nobody asked for the built-in ones.
    let named: BTreeSet<_> = [&raw.eviction_hard, &raw.eviction_soft, &raw.eviction_minimum_reclaim]
        .into_iter()
        .flatten()
        .flat_map(BTreeMap::keys)
        .collect();
    let not_enforced = thresholds.not_enforced.iter().filter(|signal| named.contains(signal));
    warnings.extend(not_enforced.map(|signal| ConfigWarning::NotEnforced { signal: signal.clone() }));
    Ok(thresholds)
}

fn endpoint(key: &str, given: Option<String>) -> Result<Option<String>, Wrong> {
    match given.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) if text.starts_with("unix://") || text.starts_with('/') => Ok(Some(text)),
        Some(text) => Err((
            key.to_owned(),
            format!("{text:?} must be a unix socket, as unix:///run/containerd/containerd.sock"),
        )),
    }
}

fn static_pod_url(given: Option<String>) -> Result<Option<String>, Wrong> {
    let Some(url) = given.filter(|url| !url.is_empty()) else { return Ok(None) };
    let fits = ["http://", "https://"].into_iter().any(|scheme| url.starts_with(scheme));
    in_range("staticPodURL", url, fits, "an http:// or https:// URL").map(Some)
}

fn cgroup_root(given: String) -> Result<String, Wrong> {
    if given.is_empty() {
        return Ok("/".to_owned());
    }
    let escapes = given.split('/').any(|part| part == "..");
    in_range("cgroupRoot", given.clone(), given.starts_with('/') && !escapes, "an absolute path without `..`")
}

fn pod_logs_dir(given: Option<PathBuf>, default: PathBuf) -> Result<PathBuf, Wrong> {
    let dir = given.filter(|p| !p.as_os_str().is_empty()).unwrap_or(default);
    in_range("podLogsDir", dir.clone(), dir.is_absolute(), "an absolute path")
}

fn pids_limit(given: Option<i64>) -> Result<Option<i64>, Wrong> {
    match given {
        None | Some(-1) => Ok(None),
        Some(limit) => {
            in_range("podPidsLimit", limit, limit > 0, "-1 (the node's limit) or more than 0").map(Some)
        }
    }
}

fn enforce_pods(given: Option<&[String]>, warnings: &mut Vec<ConfigWarning>) -> Result<bool, Wrong> {
    let Some(given) = given else { return Ok(true) };
    for word in given {
        match word.as_str() {
            "pods" | "none" => {}
            "system-reserved"
            | "kube-reserved"
            | "system-reserved-compressible"
            | "kube-reserved-compressible" => {
                warnings.push(ConfigWarning::NotHonoured { key: format!("enforceNodeAllocatable[{word}]") });
            }
            _ => {
                let error = format!("{word:?} must be pods, system-reserved, kube-reserved or none");
                return Err(("enforceNodeAllocatable".to_owned(), error));
            }
        }
    }
    if given.len() > 1 && given.iter().any(|word| word == "none") {
        return Err(("enforceNodeAllocatable".to_owned(), "none must stand alone".to_owned()));
    }
    Ok(given.iter().any(|word| word == "pods"))
}

fn reserved(key: &str, given: Option<BTreeMap<String, Quantity>>) -> Result<BTreeMap<String, String>, Wrong> {
    let mut checked = BTreeMap::new();
    for (resource, Quantity(text)) in given.unwrap_or_default() {
        let result = match resource.as_str() {
            "cpu" => parse_milli_cpu(&text),
            "memory" | "ephemeral-storage" | "pid" => parse_bytes(&text),
            _ => {
                let error =
                    "not a reservable resource, must be cpu, memory, ephemeral-storage or pid".to_owned();
                return Err(at(key)((resource, error)));
            }
        };
        result.map_err(|e| at(key)((resource.clone(), e.to_string())))?;
        checked.insert(resource, text);
    }
    Ok(checked)
}
