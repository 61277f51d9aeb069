//! `tracing:`, kubelet's key for OpenTelemetry: how many of the pods' syncs are told as spans, and to whom
//! (component-base/tracing/api/v1). Core.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::raw::Wrong;

/// kubelet's default: a collector on this node, on the port of OTLP over gRPC.
const DEFAULT_ENDPOINT: &str = "localhost:4317";
/// What gRPC takes for a name without a port.
const DEFAULT_PORT: u16 = 443;
const MILLION: u32 = 1_000_000;

/// There only where something is sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    pub endpoint: Endpoint,
    /// Of a million syncs; 1 to 1,000,000.
    pub sampling_rate_per_million: u32,
}

/// Where the collector listens, without TLS, as kubelet has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

impl Endpoint {
    /// As a URI that a gRPC client takes.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Endpoint::Tcp(target) => format!("http://{target}"),
            Endpoint::Unix(path) => format!("unix://{}", path.display()),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Tcp(target) => f.write_str(target),
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawTracing {
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i32>,
}

pub(super) fn checked(raw: Option<RawTracing>) -> Result<Option<Tracing>, Wrong> {
    let Some(raw) = raw else { return Ok(None) };
    let given = raw.sampling_rate_per_million.unwrap_or(0);
    let rate = u32::try_from(given).ok().filter(|rate| *rate <= MILLION).ok_or_else(|| {
        let error = format!("{given} is out of range, must be 0 to {MILLION}");
        ("tracing.samplingRatePerMillion".to_owned(), error)
    })?;
    let text = raw.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT);
    let endpoint = endpoint(text).map_err(|error| ("tracing.endpoint".to_owned(), error))?;
    Ok((rate > 0).then_some(Tracing { endpoint, sampling_rate_per_million: rate }))
}

/// gRPC's names: none, `dns`, `unix`.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = |what: &str| format!("{text:?} {what}, such as localhost:4317 or unix:///run/collector.sock");
    let Some((scheme, rest)) = text.split_once("//") else {
        return target(text).map(Endpoint::Tcp).ok_or_else(|| wrong("must be host:port"));
    };
    match scheme {
        "dns:" => {
            // dns://[authority]/host:port; which server is asked for the name is the node's own affair.
            let name = rest.split_once('/').map(|(_, name)| name).and_then(target);
            name.map(Endpoint::Tcp).ok_or_else(|| wrong("names no host:port after dns:///"))
        }
        "unix:" => match Path::new(rest) {
            path if path.is_absolute() => Ok(Endpoint::Unix(path.to_owned())),
            _ => Err(wrong("needs an absolute path after unix://")),
        },
        _ => Err(wrong("has a scheme that is not supported; it must be host:port, dns:///… or unix://…")),
    }
}

/// A host, with its port or the default one.
fn target(text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        // The colon of `[::1]` is within the brackets.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)?),
        _ => (text, DEFAULT_PORT),
    };
    let is_ipv6 = host.starts_with('[') && host.ends_with(']');
    let fits =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') || is_ipv6 && "[:]%".contains(c);
    (!host.is_empty() && host.chars().all(fits)).then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(endpoint: Option<&str>, rate: Option<i32>) -> Result<Option<Tracing>, Wrong> {
        let endpoint = endpoint.map(str::to_owned);
        checked(Some(RawTracing { endpoint, sampling_rate_per_million: rate }))
    }

    #[test]
    fn endpoints() {
        for (text, expected) in [
            ("localhost:4317", Some("http://localhost:4317")),
            ("otel-collector.observability", Some("http://otel-collector.observability:443")),
            ("10.0.0.1:55680", Some("http://10.0.0.1:55680")),
            ("[::1]:4317", Some("http://[::1]:4317")),
            ("[::1]", Some("http://[::1]:443")),
            ("dns:///collector:4317", Some("http://collector:4317")),
            ("dns://8.8.8.8/collector:4317", Some("http://collector:4317")),
            ("unix:///run/collector.sock", Some("unix:///run/collector.sock")),
            ("dns://collector:4317", None),
            ("unix://run/collector.sock", None),
            ("unix-abstract:///x", None),
            ("http://collector:4317", None),
            ("collector:0", None),
            ("collector:port", None),
            ("a b:1", None),
            ("", None),
        ] {
            let found = of(Some(text), Some(1)).ok().flatten().map(|tracing| tracing.endpoint.uri());
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn rates() {
        let rate = |given| of(None, given).map(|t| t.map(|t| t.sampling_rate_per_million));
        assert_eq!(rate(None), Ok(None));
        assert_eq!(rate(Some(0)), Ok(None));
        assert_eq!(rate(Some(1_000_000)), Ok(Some(1_000_000)));
        for wrong in [-1, 1_000_001] {
            assert_eq!(rate(Some(wrong)).unwrap_err().0, "tracing.samplingRatePerMillion");
        }
        assert_eq!(checked(None), Ok(None));
        let default = of(None, Some(7)).unwrap().unwrap();
        assert_eq!(default.endpoint, Endpoint::Tcp("localhost:4317".to_owned()));
        // A wrong endpoint is told whether or not anything is sent to it.
        assert_eq!(of(Some("http://x"), None).unwrap_err().0, "tracing.endpoint");
    }
}
