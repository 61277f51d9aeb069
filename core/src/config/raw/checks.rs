//! Values of the configuration held against what kubelet allows (pkg/kubelet/apis/config/validation). Core.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Raw, RawCrashLoopBackOff, Wrong, at};
use crate::config::ConfigWarning;
use crate::duration::GoDuration;
use crate::eviction::threshold::{Thresholds, default_eviction_hard, parse_thresholds};
use crate::image::gc::GcPolicy;
use crate::quantity::{parse_bytes, parse_milli_cpu};

pub(super) fn in_range<T: std::fmt::Debug>(
    key: &str,
    value: T,
    fits: bool,
    allowed: &str,
) -> Result<T, Wrong> {
    if fits {
        Ok(value)
    } else {
        Err((key.to_owned(), format!("{value:?} is out of range, must be {allowed}")))
    }
}

pub(super) fn restart_period(
    given: Option<RawCrashLoopBackOff>,
    default: Duration,
) -> Result<Duration, Wrong> {
    let Some(GoDuration(period)) = given.and_then(|c| c.max_container_restart_period) else {
        return Ok(default);
    };
    let allowed = Duration::from_secs(1)..=Duration::from_secs(300);
    in_range("crashLoopBackOff.maxContainerRestartPeriod", period, allowed.contains(&period), "1s to 300s")
}

pub(super) fn image_gc(raw: &Raw, default: GcPolicy) -> Result<GcPolicy, Wrong> {
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

pub(super) fn eviction_thresholds(
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

pub(super) fn endpoint(key: &str, given: Option<String>) -> Result<Option<String>, Wrong> {
    match given.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) if text.starts_with("unix://") || text.starts_with('/') => Ok(Some(text)),
        Some(text) => Err((
            key.to_owned(),
            format!("{text:?} must be a unix socket, as unix:///run/containerd/containerd.sock"),
        )),
    }
}

pub(super) fn static_pod_url(given: Option<String>) -> Result<Option<String>, Wrong> {
    let Some(url) = given.filter(|url| !url.is_empty()) else { return Ok(None) };
    let fits = ["http://", "https://"].into_iter().any(|scheme| url.starts_with(scheme));
    in_range("staticPodURL", url, fits, "an http:// or https:// URL").map(Some)
}

pub(super) fn cgroup_root(given: String) -> Result<String, Wrong> {
    if given.is_empty() {
        return Ok("/".to_owned());
    }
    let escapes = given.split('/').any(|part| part == "..");
    in_range("cgroupRoot", given.clone(), given.starts_with('/') && !escapes, "an absolute path without `..`")
}

pub(super) fn pod_logs_dir(given: Option<PathBuf>, default: PathBuf) -> Result<PathBuf, Wrong> {
    let dir = given.filter(|p| !p.as_os_str().is_empty()).unwrap_or(default);
    in_range("podLogsDir", dir.clone(), dir.is_absolute(), "an absolute path")
}

pub(super) fn pids_limit(given: Option<i64>) -> Result<Option<i64>, Wrong> {
    match given {
        None | Some(-1) => Ok(None),
        Some(limit) => {
            in_range("podPidsLimit", limit, limit > 0, "-1 (the node's limit) or more than 0").map(Some)
        }
    }
}

pub(super) fn enforce_pods(
    given: Option<&[String]>,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<bool, Wrong> {
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

pub(super) fn reserved(
    key: &str,
    given: Option<BTreeMap<String, Quantity>>,
) -> Result<BTreeMap<String, String>, Wrong> {
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
