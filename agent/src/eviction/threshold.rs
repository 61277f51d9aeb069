//! kubelet's eviction thresholds. Owns the signals and the syntax of `evictionHard`, `evictionSoft`,
//! `evictionSoftGracePeriod` and `evictionMinimumReclaim`; reads the maps of the configuration, emits
//! [`Thresholds`]. The rules are those of kubelet's `ParseThresholdConfig` (pkg/kubelet/eviction/helpers.go).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kube_quantity::ParsedQuantity;

/// The signals that are acted on.
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

/// Valid names of kubelet's that nothing is enforced for yet.
pub const NOT_ENFORCED: &[&str] = &[
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
];

/// `100Mi`, or a share of the capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ThresholdValue {
    Bytes(u64),
    /// 0 to 1.
    Share(f64),
}

impl ThresholdValue {
    /// In bytes, given the capacity that the signal is measured against.
    #[must_use]
    pub fn of(self, capacity_bytes: u64) -> u64 {
        match self {
            ThresholdValue::Bytes(bytes) => bytes,
            ThresholdValue::Share(share) => (capacity_bytes as f64 * share) as u64,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub value: ThresholdValue,
    /// How long a soft threshold has to be met before it counts. Zero: a hard threshold.
    pub grace_period: Duration,
    /// Once met, the threshold stays met until this much more than its value is available.
    pub min_reclaim: Option<ThresholdValue>,
}

impl Threshold {
    #[must_use]
    pub const fn is_hard(&self) -> bool {
        self.grace_period.is_zero()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    pub enforced: Vec<Threshold>,
    /// Names of valid signals that the configuration gives and nothing is enforced for yet. The caller warns.
    pub not_enforced: Vec<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ThresholdError {
    #[error("{field}: there is no eviction signal {signal:?}; use one of {}", signal_names())]
    UnknownSignal { field: &'static str, signal: String },
    #[error(
        "{field}: {signal}: cannot read {value:?}: {why}; write an amount such as \"100Mi\" or a percentage such as \"5%\""
    )]
    Value { field: &'static str, signal: String, value: String, why: &'static str },
    #[error("evictionSoftGracePeriod: {signal}: cannot read {value:?}; write a time such as \"1m30s\"")]
    GracePeriod { signal: String, value: String },
    #[error(
        "evictionSoft: {signal} has no grace period; add {signal} to evictionSoftGracePeriod, for example \"30s\""
    )]
    NoGracePeriod { signal: String },
}

fn signal_names() -> String {
    let ours = [Signal::MemoryAvailable, Signal::AllocatableMemoryAvailable].map(Signal::as_str);
    ours.iter().chain(NOT_ENFORCED).copied().collect::<Vec<_>>().join(", ")
}

/// kubelet's `evictionHard` where the configuration has none.
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

/// Reads the four maps of a KubeletConfiguration. `pods_enforced`: `enforceNodeAllocatable` contains `pods`, so that
/// the hard `memory.available` threshold holds for the `kubepods` cgroup too, unless it has one of its own.
///
/// # Errors
/// A signal, value or grace period that kubelet would refuse as well.
pub fn parse_thresholds(
    hard: &BTreeMap<String, String>,
    soft: &BTreeMap<String, String>,
    soft_grace_period: &BTreeMap<String, String>,
    minimum_reclaim: &BTreeMap<String, String>,
    pods_enforced: bool,
) -> Result<Thresholds, ThresholdError> {
    let mut out = Thresholds::default();
    let reclaims = parse_values("evictionMinimumReclaim", minimum_reclaim, &mut Vec::new())?;
    let graces = parse_grace_periods(soft_grace_period)?;

    let add = |out: &mut Thresholds, name: &str, value, grace_period| {
        if let Some(signal) = Signal::parse(name) {
            let min_reclaim = reclaims.get(name).copied();
            out.enforced.push(Threshold { signal, value, grace_period, min_reclaim });
        }
    };
    for (name, value) in parse_values("evictionHard", hard, &mut out.not_enforced)? {
        add(&mut out, &name, value, Duration::ZERO);
    }
    for (name, value) in parse_values("evictionSoft", soft, &mut out.not_enforced)? {
        let Some(grace) = graces.get(&name) else {
            return Err(ThresholdError::NoGracePeriod { signal: name });
        };
        add(&mut out, &name, value, *grace);
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

/// Checks every entry and leaves out what is switched off. Names of valid but not enforced signals go to `others`.
fn parse_values(
    field: &'static str,
    map: &BTreeMap<String, String>,
    others: &mut Vec<String>,
) -> Result<BTreeMap<String, ThresholdValue>, ThresholdError> {
    let mut out = BTreeMap::new();
    for (signal, value) in map {
        if Signal::parse(signal).is_none() {
            if !NOT_ENFORCED.contains(&signal.as_str()) {
                return Err(ThresholdError::UnknownSignal { field, signal: signal.clone() });
            }
            others.push(signal.clone());
        }
        let zero_allowed = field == "evictionMinimumReclaim";
        match parse_value(value, zero_allowed) {
            Ok(Some(parsed)) => drop(out.insert(signal.clone(), parsed)),
            Ok(None) => {}
            Err(why) => {
                return Err(ThresholdError::Value {
                    field,
                    signal: signal.clone(),
                    value: value.clone(),
                    why,
                });
            }
        }
    }
    Ok(out)
}

/// `Ok(None)`: "0%" and "100%", with which kubelet switches a threshold off.
fn parse_value(text: &str, zero_allowed: bool) -> Result<Option<ThresholdValue>, &'static str> {
    if let Some(number) = text.strip_suffix('%') {
        let percent = number.parse().ok().filter(|p: &f64| p.is_finite()).ok_or("not a number")?;
        return match percent {
            p if p == 0.0 || p == 100.0 => Ok(None),
            p if p < 0.0 => Err("it is negative"),
            p if p < 100.0 => Ok(Some(ThresholdValue::Share(p / 100.0))),
            _ => Err("it is more than 100 %"),
        };
    }
    match parse_bytes(text)? {
        0 if !zero_allowed => Err("it is not more than zero"),
        bytes => Ok(Some(ThresholdValue::Bytes(bytes))),
    }
}

/// A Kubernetes quantity in whole bytes, a fraction rounded up as `Quantity.Value` does.
fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    if text.starts_with('-') {
        return Err("it is negative");
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err("not an amount");
    }
    let parsed = ParsedQuantity::try_from(text).map_err(|_| "not an amount")?;
    let bytes = parsed.to_bytes_f64().ok_or("not an amount")?.ceil();
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err("it is too large") }
}

fn parse_grace_periods(map: &BTreeMap<String, String>) -> Result<BTreeMap<String, Duration>, ThresholdError> {
    let field = "evictionSoftGracePeriod";
    let mut out = BTreeMap::new();
    for (signal, value) in map {
        if Signal::parse(signal).is_none() && !NOT_ENFORCED.contains(&signal.as_str()) {
            return Err(ThresholdError::UnknownSignal { field, signal: signal.clone() });
        }
        let period = parse_go_duration(value)
            .ok_or_else(|| ThresholdError::GracePeriod { signal: signal.clone(), value: value.clone() })?;
        out.insert(signal.clone(), period);
    }
    Ok(out)
}

/// Go's `time.ParseDuration` without signs: `1h2m3.5s`, `100ms`, `0`.
fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..unit_at].parse().ok()?;
        let unit_end = rest[unit_at..].find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, next) = rest[unit_at..].split_at(unit_end.unwrap_or(rest.len() - unit_at));
        seconds += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = next;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests;
