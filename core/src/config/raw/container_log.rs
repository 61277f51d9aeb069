//! The keys of containers' logs. Core.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::checks::in_range;
use super::{Raw, Wrong};
use crate::container_log::LogPolicy;
use crate::quantity::{QuantityError, parse_bytes};

pub(super) fn checked(raw: &Raw) -> Result<LogPolicy, Wrong> {
    let default = LogPolicy::default();
    let count = |key: &str, given: Option<i32>, least: i32, default: usize| -> Result<usize, Wrong> {
        let Some(given) = given else { return Ok(default) };
        in_range(key, given, given >= least, &format!("{least} or more"))?;
        Ok(usize::try_from(given).unwrap_or(default))
    };
    let monitor_interval =
        raw.container_log_monitor_interval.map_or(default.monitor_interval, |given| given.0);
    let least = Duration::from_secs(3);
    Ok(LogPolicy {
        max_bytes: max_bytes(raw.container_log_max_size.as_ref(), default.max_bytes)?,
        max_files: count("containerLogMaxFiles", raw.container_log_max_files, 2, default.max_files)?,
        max_workers: count("containerLogMaxWorkers", raw.container_log_max_workers, 1, default.max_workers)?,
        monitor_interval: in_range(
            "containerLogMonitorInterval",
            monitor_interval,
            monitor_interval >= least,
            "3s or more",
        )?,
    })
}

/// A negative size: no log is rotated.
fn max_bytes(given: Option<&Quantity>, default: Option<u64>) -> Result<Option<u64>, Wrong> {
    let Some(Quantity(text)) = given.filter(|given| !given.0.is_empty()) else { return Ok(default) };
    match parse_bytes(text) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(QuantityError::Negative(_)) => Ok(None),
        Err(error) => Err(("containerLogMaxSize".to_owned(), error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{API_VERSION, Config, KIND};

    fn parse(body: &str) -> Result<LogPolicy, String> {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{body}");
        let parsed = Config::parse(&text, Path::new("k.yaml")).map_err(|error| error.to_string());
        parsed.map(|(config, warnings)| {
            assert!(warnings.is_empty(), "{warnings:?}");
            config.container_log
        })
    }

    #[test]
    fn sizes_counts_and_times() {
        assert_eq!(parse("").unwrap(), LogPolicy::default());
        let set = "containerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 2\ncontainerLogMaxWorkers: 3\n\
                   containerLogMonitorInterval: 3s";
        let expected = LogPolicy {
            max_bytes: Some(1 << 20),
            max_files: 2,
            max_workers: 3,
            monitor_interval: Duration::from_secs(3),
        };
        assert_eq!(parse(set).unwrap(), expected);
        assert_eq!(parse("containerLogMaxSize: '-1'").unwrap().max_bytes, None);
        for (body, key) in [
            ("containerLogMaxSize: much", "containerLogMaxSize"),
            ("containerLogMaxFiles: 1", "containerLogMaxFiles"),
            ("containerLogMaxWorkers: 0", "containerLogMaxWorkers"),
            ("containerLogMonitorInterval: 2s", "containerLogMonitorInterval"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(&format!(": {key}: ")), "{body}: {error}");
        }
    }
}
