//! The syntax of eviction thresholds: kubelet's signals, quantities and percentages
//! (pkg/kubelet/eviction/helpers.go). Core.

use std::collections::BTreeMap;

use crate::quantity::parse_bytes;

/// All of kubelet's signals. `evictionHard` may not name `allocatableMemory.available` in kubelet's own
/// documentation, but it parses there, and here it means the kubepods cgroup.
pub(super) const SIGNALS: &[&str] = &[
    "memory.available",
    "allocatableMemory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
];

/// `DefaultEvictionHard` (pkg/kubelet/apis/config/v1beta1/defaults_linux.go).
pub(super) fn hard_defaults() -> BTreeMap<String, String> {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .into_iter()
    .map(|(signal, value)| (signal.to_owned(), value.to_owned()))
    .collect()
}

/// `Err`: the signal and what is wrong with it or its value.
pub(super) fn check(thresholds: &BTreeMap<String, String>) -> Result<(), (String, String)> {
    for (signal, value) in thresholds {
        check_signal(signal)?;
        check_value(value).map_err(|error| (signal.clone(), error))?;
    }
    Ok(())
}

pub(super) fn check_signal(signal: &str) -> Result<(), (String, String)> {
    if SIGNALS.contains(&signal) {
        return Ok(());
    }
    Err((signal.to_owned(), format!("not an eviction signal, must be one of {}", SIGNALS.join(", "))))
}

fn check_value(value: &str) -> Result<(), String> {
    if let Some(percent) = value.strip_suffix('%') {
        return match percent.parse::<f64>() {
            Ok(p) if (0.0..=100.0).contains(&p) => Ok(()),
            _ => Err(format!("{value:?} is not a percentage from 0% to 100%")),
        };
    }
    match parse_bytes(value) {
        Ok(0) => Err(format!("{value:?} must be more than 0 (0% switches a threshold off)")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error}; or a percentage like \"10%\"")),
    }
}
