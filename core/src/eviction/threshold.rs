//! kubelet's eviction thresholds. Owns the signals and the syntax of `evictionHard`, `evictionSoft`,
//! `evictionSoftGracePeriod` and `evictionMinimumReclaim`; reads the maps of the configuration, emits
//! [`Thresholds`]. The rules are those of kubelet's `ParseThresholdConfig` (pkg/kubelet/eviction/helpers.go).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::resources::ResourceSignal;
use crate::quantity::{self, QuantityError};

/// The signals of memory. The others are [`ResourceSignal`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Capacity of the node − working set of the node.
    MemoryAvailable,
    /// Limit of the `kubepods` cgroup − its working set.
    AllocatableMemoryAvailable,
}

impl Signal {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory.available",
            Signal::AllocatableMemoryAvailable => "allocatableMemory.available",
        }
    }

    fn parse(name: &str) -> Option<Signal> {
        [Signal::MemoryAvailable, Signal::AllocatableMemoryAvailable].into_iter().find(|s| s.as_str() == name)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Valid names of kubelet's that nothing is enforced for: writable layers on a file system of their own are CRI-O's
/// alone.
pub const NOT_ENFORCED: &[&str] = &["containerfs.available", "containerfs.inodesFree"];

/// `100Mi` (or, of inodes and process ids, a number), or a share of the capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ThresholdValue {
    Bytes(u64),
    /// 0 to 1.
    Share(f64),
}

impl ThresholdValue {
    /// In the signal's unit, given the capacity that it is measured against.
    #[must_use]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            ThresholdValue::Bytes(bytes) => bytes,
            ThresholdValue::Share(share) => (capacity as f64 * share) as u64,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Threshold<S = Signal> {
    pub signal: S,
    pub value: ThresholdValue,
    /// How long a soft threshold has to be met before it counts. Zero: a hard threshold.
    pub grace_period: Duration,
    /// Once met, the threshold stays met until this much more than its value is available.
    pub min_reclaim: Option<ThresholdValue>,
}

impl<S> Threshold<S> {
    #[must_use]
    pub const fn is_hard(&self) -> bool {
        self.grace_period.is_zero()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Of memory.
    pub enforced: Vec<Threshold>,
    /// Of disks and process ids.
    pub resources: Vec<Threshold<ResourceSignal>>,
    /// Signals that have a threshold which nothing enforces yet; sorted, each once. Not those switched off.
    pub not_enforced: Vec<String>,
}

/// One entry of one of the four maps is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}[{signal:?}]: {fault}")]
pub struct ThresholdError {
    /// The map's key in the KubeletConfiguration.
    pub field: &'static str,
    pub signal: String,
    pub fault: Fault,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Fault {
    #[error("not an eviction signal, must be one of {}", signal_names())]
    UnknownSignal,
    #[error("{0}; a percentage such as \"10%\" is allowed too")]
    Quantity(#[from] QuantityError),
    #[error("{0:?} is not a percentage from 0% to 100%")]
    Percentage(String),
    #[error("{0:?} must be more than 0 (0% switches a threshold off)")]
    Zero(String),
    #[error("needs a grace period: add the signal to evictionSoftGracePeriod, for example \"1m\"")]
    NoGracePeriod,
}

const HARD: &str = "evictionHard";
const SOFT: &str = "evictionSoft";
const SOFT_GRACE_PERIOD: &str = "evictionSoftGracePeriod";
const MINIMUM_RECLAIM: &str = "evictionMinimumReclaim";

fn signal_names() -> String {
    let memory = [Signal::MemoryAvailable, Signal::AllocatableMemoryAvailable].map(Signal::as_str);
    let resources = ResourceSignal::ALL.map(ResourceSignal::as_str);
    memory.iter().chain(&resources).chain(NOT_ENFORCED).copied().collect::<Vec<_>>().join(", ")
}

/// kubelet's `evictionHard` where the configuration has none: `DefaultEvictionHard`
/// (pkg/kubelet/apis/config/v1beta1/defaults_linux.go).
#[must_use]
pub fn default_eviction_hard() -> BTreeMap<String, String> {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .map(|(signal, value)| (signal.to_owned(), value.to_owned()))
    .into()
}

impl Thresholds {
    /// What holds where the configuration says nothing. `pods_enforced`: as for [`parse_thresholds`].
    #[must_use]
    pub fn kubelet_defaults(pods_enforced: bool) -> Thresholds {
        let none = BTreeMap::new();
        parse_thresholds(&default_eviction_hard(), &none, &BTreeMap::new(), &none, pods_enforced)
            .expect("the built-in thresholds are constants in the syntax read here")
    }
}

/// Reads the four maps of a KubeletConfiguration. `pods_enforced`: `enforceNodeAllocatable` contains `pods`, so that
/// the hard `memory.available` threshold holds for the `kubepods` cgroup too, unless it has one of its own.
///
/// # Errors
/// A signal or value that kubelet would refuse as well, or a soft threshold without its grace period.
pub fn parse_thresholds(
    hard: &BTreeMap<String, String>,
    soft: &BTreeMap<String, String>,
    soft_grace_period: &BTreeMap<String, Duration>,
    minimum_reclaim: &BTreeMap<String, String>,
    pods_enforced: bool,
) -> Result<Thresholds, ThresholdError> {
    let reclaims = parse_values(MINIMUM_RECLAIM, minimum_reclaim)?;
    check_signals(SOFT_GRACE_PERIOD, soft_grace_period.keys())?;

    let mut out = Thresholds::default();
    let mut add = |name: String, value, grace_period| {
        let min_reclaim = reclaims.get(&name).copied();
        if let Some(signal) = Signal::parse(&name) {
            out.enforced.push(Threshold { signal, value, grace_period, min_reclaim });
        } else if let Some(signal) = ResourceSignal::parse(&name) {
            out.resources.push(Threshold { signal, value, grace_period, min_reclaim });
        } else {
            out.not_enforced.push(name);
        }
    };
    for (name, value) in parse_values(HARD, hard)? {
        add(name, value, Duration::ZERO);
    }
    for (name, value) in parse_values(SOFT, soft)? {
        match soft_grace_period.get(&name) {
            Some(grace) => add(name, value, *grace),
            None => return Err(ThresholdError { field: SOFT, signal: name, fault: Fault::NoGracePeriod }),
        }
    }
    out.not_enforced.sort_unstable();
    out.not_enforced.dedup();
    if pods_enforced {
        copy_to_allocatable(&mut out.enforced);
    }
    Ok(out)
}

fn copy_to_allocatable(thresholds: &mut Vec<Threshold>) {
    let hard = |t: &&Threshold, signal| t.signal == signal && t.is_hard();
    if thresholds.iter().any(|t| hard(&t, Signal::AllocatableMemoryAvailable)) {
        return;
    }
    if let Some(node) = thresholds.iter().find(|t| hard(t, Signal::MemoryAvailable)).cloned() {
        thresholds.push(Threshold { signal: Signal::AllocatableMemoryAvailable, ..node });
    }
}

fn check_signals<'a>(
    field: &'static str,
    signals: impl IntoIterator<Item = &'a String>,
) -> Result<(), ThresholdError> {
    let known = |name: &str| {
        Signal::parse(name).is_some() || ResourceSignal::parse(name).is_some() || NOT_ENFORCED.contains(&name)
    };
    match signals.into_iter().find(|name| !known(name)) {
        Some(signal) => Err(ThresholdError { field, signal: signal.clone(), fault: Fault::UnknownSignal }),
        None => Ok(()),
    }
}

/// Checks every entry and leaves out what is switched off.
fn parse_values(
    field: &'static str,
    map: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, ThresholdValue>, ThresholdError> {
    check_signals(field, map.keys())?;
    let mut out = BTreeMap::new();
    for (signal, text) in map {
        let value = parse_value(text, field == MINIMUM_RECLAIM).map_err(|fault| ThresholdError {
            field,
            signal: signal.clone(),
            fault,
        })?;
        out.extend(value.map(|value| (signal.clone(), value)));
    }
    Ok(out)
}

/// `Ok(None)`: "0%" and "100%", with which kubelet switches a threshold off.
fn parse_value(text: &str, zero_allowed: bool) -> Result<Option<ThresholdValue>, Fault> {
    if let Some(number) = text.strip_suffix('%') {
        return match number.parse::<f64>() {
            Ok(0.0 | 100.0) => Ok(None),
            Ok(percent) if (0.0..100.0).contains(&percent) => {
                Ok(Some(ThresholdValue::Share(percent / 100.0)))
            }
            _ => Err(Fault::Percentage(text.to_owned())),
        };
    }
    match quantity::parse_bytes(text)? {
        0 if !zero_allowed => Err(Fault::Zero(text.to_owned())),
        bytes => Ok(Some(ThresholdValue::Bytes(bytes))),
    }
}

#[cfg(test)]
mod tests;
