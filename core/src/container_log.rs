//! The files of a container's log: `<n>.log` of the run that was started after n others, `<n>.log.<time>` where that grew
//! too large and was rotated away, with `.gz` where it was compressed since, and `.tmp` while it is being compressed
//! (pkg/kubelet/logs/container_log_manager.go). And how long the logs of a pod that is gone are kept.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

mod kept;

pub use kept::{KeptLogs, kept_of};

const COMPRESSED: &str = ".gz";
const HALF_WRITTEN: &str = ".tmp";

/// `containerLogMaxSize` and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPolicy {
    /// A log of this size is rotated. `None` (kubelet's negative size): none ever is. 10 MiB.
    pub max_bytes: Option<u64>,
    /// Of one run of a container, the one that is written included; 2 or more. 5.
    pub max_files: usize,
    /// How many logs are rotated at once. 1.
    pub max_workers: usize,
    /// How often the sizes are looked at. 10 s.
    pub monitor_interval: Duration,
}

impl Default for LogPolicy {
    fn default() -> LogPolicy {
        LogPolicy {
            max_bytes: Some(10 << 20),
            max_files: 5,
            max_workers: 1,
            monitor_interval: Duration::from_secs(10),
        }
    }
}

/// What is done with the files of earlier rotations before a log is rotated again. Names in its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    pub remove: Vec<String>,
    pub compress: Vec<String>,
}

/// `log`: the name of the file that is written. `names`: all in its directory.
#[must_use]
pub fn before_rotation(log: &str, names: &[String], max_files: usize) -> Rotation {
    let all = names.iter().filter(|name| is_rotated(log, name));
    let in_use = |name: &&String| {
        let is_compressed_since = || names.iter().any(|other| other.strip_suffix(COMPRESSED) == Some(name));
        !name.ends_with(HALF_WRITTEN) && (name.ends_with(COMPRESSED) || !is_compressed_since())
    };
    let (mut kept, mut remove): (Vec<_>, Vec<_>) = all.cloned().partition(|name| in_use(&name));
    kept.sort();
    // The one that is written, and the one that it is going to become.
    let excess = kept.len().saturating_sub(max_files.saturating_sub(2));
    remove.extend(kept.drain(..excess));
    let compress = kept.into_iter().filter(|name| !name.ends_with(COMPRESSED)).collect();
    Rotation { remove, compress }
}

/// What the file that is written is called from now on: later by name than all that were rotated before, also where the
/// clock has gone back since, or somebody with another zone's time has rotated them.
#[must_use]
pub fn rotated_name(log: &str, names: &[String], now: Timestamp) -> String {
    let at = |seconds: i64| {
        let time = Timestamp::from_second(seconds).unwrap_or(now);
        format!("{log}.{}", time.strftime("%Y%m%d-%H%M%S"))
    };
    let newest = names.iter().filter(|name| is_rotated(log, name)).map(|name| uncompressed(name)).max();
    let name = at(now.as_second());
    match newest {
        Some(newest) if newest >= name.as_str() => match rotated_at(log, newest) {
            Some(newest) => at(newest.saturating_add(1)),
            // Not a time at all: it stays the last by name, which costs its order and no line.
            None => name,
        },
        _ => name,
    }
}

/// Unix seconds.
fn rotated_at(log: &str, name: &str) -> Option<i64> {
    let time = name.strip_prefix(log)?.strip_prefix('.')?;
    let time = k8s_openapi::jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", time).ok()?;
    Some(time.to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The name of the compressed file, and of the one that it is while it is being written.
#[must_use]
pub fn compressed_names(name: &str) -> (String, String) {
    (format!("{name}{COMPRESSED}"), format!("{name}{HALF_WRITTEN}"))
}

#[must_use]
pub fn is_compressed(name: &str) -> bool {
    name.ends_with(COMPRESSED)
}

fn uncompressed(name: &str) -> &str {
    name.strip_suffix(COMPRESSED).unwrap_or(name)
}

fn is_rotated(log: &str, name: &str) -> bool {
    name.strip_prefix(log).is_some_and(|rest| rest.starts_with('.'))
}

/// What of `names` is the log of one run or was rotated away from it.
pub fn files_of_run<'a>(log: &'a str, names: &'a [String]) -> impl Iterator<Item = &'a String> {
    names.iter().filter(move |name| *name == log || is_rotated(log, name))
}

/// What was rotated away, oldest first, each once: compressed where that is done.
#[must_use]
pub fn rotated(log: &str, names: &[String]) -> Vec<String> {
    let whole = names.iter().filter(|name| is_rotated(log, name) && !name.ends_with(HALF_WRITTEN));
    let mut rotated: Vec<&String> = whole.collect();
    rotated.sort_by_key(|name| (uncompressed(name), !is_compressed(name)));
    rotated.dedup_by_key(|name| uncompressed(name));
    rotated.into_iter().cloned().collect()
}

/// What a run's log is called.
#[must_use]
pub fn name_of_run(restart_count: u32) -> String {
    format!("{restart_count}.log")
}

/// The runs that have left a log, lowest first.
#[must_use]
pub fn runs(names: &[String]) -> Vec<u32> {
    let of = |name: &String| {
        let (number, rest) = name.split_once('.')?;
        let is_log = rest == "log" || rest.starts_with("log.");
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        (is_log && is_number).then(|| number.parse().ok()).flatten()
    };
    let mut runs: Vec<u32> = names.iter().filter_map(of).collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}

/// How often a container has run before, where the runtime knows of none of its runs: after a reboot some have forgotten
/// them all, and a log that is there must not be written over (`calcRestartCountByLogDir`, kuberuntime_container.go).
#[must_use]
pub fn restart_count(names: &[String]) -> u32 {
    runs(names).last().map_or(0, |last| last.saturating_add(1))
}

#[cfg(test)]
mod tests;
