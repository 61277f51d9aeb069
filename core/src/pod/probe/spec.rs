//! From a container's manifest to a check with all its numbers.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerPort, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ProbeKind;
use crate::pod::env::{Env, expand};

/// What the API server writes where a manifest says nothing (pkg/apis/core/v1/defaults.go, `SetDefaults_Probe`).
const TIMEOUT_S: i32 = 1;
const PERIOD_S: i32 = 10;
const SUCCESS_THRESHOLD: i32 = 1;
const FAILURE_THRESHOLD: i32 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    pub check: Check,
    /// Counted from the start of the container.
    pub initial_delay: Duration,
    pub timeout: Duration,
    pub period: Duration,
    /// So many results of one kind in a row make a verdict.
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

/// What is asked. Where no host is named it is the pod's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    Exec {
        command: Vec<String>,
    },
    HttpGet {
        /// `http` or `https`.
        scheme: &'static str,
        host: Option<String>,
        port: u16,
        /// With its query, as the manifest has it.
        path: String,
        headers: Vec<(String, String)>,
    },
    TcpSocket {
        host: Option<String>,
        port: u16,
    },
    Grpc {
        port: u16,
        service: String,
    },
    /// It cannot be asked, and why.
    Impossible(String),
}

impl ProbeSpec {
    /// `None`: the container has no such probe.
    #[must_use]
    pub fn of(container: &Container, kind: ProbeKind) -> Option<ProbeSpec> {
        let probe = probe_of(container, kind)?;
        Some(ProbeSpec {
            check: check(probe, container),
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            timeout: seconds(probe.timeout_seconds, TIMEOUT_S),
            period: seconds(probe.period_seconds, PERIOD_S),
            success_threshold: positive(probe.success_threshold, SUCCESS_THRESHOLD),
            failure_threshold: positive(probe.failure_threshold, FAILURE_THRESHOLD),
        })
    }
}

#[must_use]
pub const fn probe_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

fn positive(value: Option<i32>, default: i32) -> u32 {
    u32::try_from(value.filter(|v| *v > 0).unwrap_or(default)).unwrap_or(0)
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(positive(value, default).into())
}

fn check(probe: &Probe, container: &Container) -> Check {
    if let Some(exec) = &probe.exec {
        return Check::Exec { command: command(exec.command.as_deref().unwrap_or_default(), container) };
    }
    let found = if let Some(get) = &probe.http_get {
        http_get(get, container)
    } else if let Some(tcp) = &probe.tcp_socket {
        let host = named(tcp.host.as_ref());
        port(&tcp.port, container).map(|port| Check::TcpSocket { host, port })
    } else if let Some(grpc) = &probe.grpc {
        let service = grpc.service.clone().unwrap_or_default();
        number(grpc.port).map(|port| Check::Grpc { port, service })
    } else {
        Err("the probe names no check: give it exec, httpGet, tcpSocket or grpc".to_owned())
    };
    found.unwrap_or_else(Check::Impossible)
}

/// `$(VAR)` of variables with a literal value (`ExpandContainerCommandOnlyStatic`, pkg/kubelet/container/helpers.go).
fn command(command: &[String], container: &Container) -> Vec<String> {
    let literal = container.env.iter().flatten();
    let env = Env(literal.map(|var| (var.name.clone(), var.value.clone().unwrap_or_default())).collect());
    command.iter().map(|word| expand(word, &env)).collect()
}

/// # Errors
/// Why the port is none.
pub(in crate::pod) fn http_get(get: &HTTPGetAction, container: &Container) -> Result<Check, String> {
    let https = get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone()));
    Ok(Check::HttpGet {
        scheme: if https { "https" } else { "http" },
        host: named(get.host.as_ref()),
        port: port(&get.port, container)?,
        path: get.path.clone().unwrap_or_default(),
        headers: headers.collect(),
    })
}

fn named(host: Option<&String>) -> Option<String> {
    host.filter(|h| !h.is_empty()).cloned()
}

/// By number, or by the name that one of the container's ports has.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let name = match port {
        IntOrString::Int(port) => return number(*port),
        IntOrString::String(name) => name,
    };
    let has_name = |p: &&ContainerPort| p.name.as_ref() == Some(name);
    match container.ports.iter().flatten().find(has_name) {
        Some(port) => number(port.container_port),
        None => {
            name.parse().map_err(|_| format!("the container has no port named {name:?}")).and_then(number)
        }
    }
}

fn number(port: i32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(probe: Value) -> ProbeSpec {
        let container = json!({"name": "c", "readinessProbe": probe,
            "ports": [{"name": "web", "containerPort": 8080}],
            "env": [{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]});
        let container: Container = serde_json::from_value(container).unwrap();
        assert_eq!(ProbeSpec::of(&container, ProbeKind::Liveness), None);
        ProbeSpec::of(&container, ProbeKind::Readiness).unwrap()
    }

    #[test]
    fn numbers_and_their_defaults() {
        let numbers = |s: ProbeSpec| {
            let whole = [s.initial_delay, s.timeout, s.period].map(|d| d.as_secs());
            (whole, s.success_threshold, s.failure_threshold)
        };
        assert_eq!(numbers(spec(json!({"exec": {}}))), ([0, 1, 10], 1, 3));
        assert_eq!(
            numbers(spec(json!({"exec": {}, "timeoutSeconds": 0, "periodSeconds": -1}))),
            ([0, 1, 10], 1, 3)
        );
        let given = json!({"exec": {}, "initialDelaySeconds": 5, "timeoutSeconds": 2, "periodSeconds": 3,
            "successThreshold": 4, "failureThreshold": 6});
        assert_eq!(numbers(spec(given)), ([5, 2, 3], 4, 6));
    }

    #[test]
    fn checks() {
        let http = |scheme, host: Option<&str>, port, path: &str, headers: &[(&str, &str)]| Check::HttpGet {
            scheme,
            host: host.map(str::to_owned),
            port,
            path: path.to_owned(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        };
        for (probe, expected) in [
            (
                json!({"exec": {"command": ["echo", "$(A) $(IP) $(NO) $$(A)"]}}),
                Check::Exec { command: vec!["echo".into(), "b  $(NO) $(A)".into()] },
            ),
            (json!({"httpGet": {"port": 80}}), http("http", None, 80, "", &[])),
            (
                json!({"httpGet": {"port": "web", "path": "/x?y", "scheme": "HTTPS", "host": "h",
                    "httpHeaders": [{"name": "N", "value": "v"}]}}),
                http("https", Some("h"), 8080, "/x?y", &[("N", "v")]),
            ),
            (json!({"tcpSocket": {"port": "web"}}), Check::TcpSocket { host: None, port: 8080 }),
            (
                json!({"tcpSocket": {"port": "81", "host": "h"}}),
                Check::TcpSocket { host: Some("h".into()), port: 81 },
            ),
            (json!({"grpc": {"port": 9}}), Check::Grpc { port: 9, service: String::new() }),
            (json!({"grpc": {"port": 9, "service": "s"}}), Check::Grpc { port: 9, service: "s".into() }),
        ] {
            assert_eq!(spec(probe.clone()).check, expected, "{probe}");
        }
        for (probe, word) in [
            (json!({"tcpSocket": {"port": "metrics"}}), "metrics"),
            (json!({"tcpSocket": {"port": 0}}), "invalid port number: 0"),
            (json!({"httpGet": {"port": 70000}}), "invalid port number: 70000"),
            (json!({"grpc": {"port": -1}}), "invalid port number: -1"),
            (json!({}), "no check"),
        ] {
            match spec(probe.clone()).check {
                Check::Impossible(why) => assert!(why.contains(word), "{probe}: {why}"),
                other => panic!("{probe}: {other:?}"),
            }
        }
    }
}
