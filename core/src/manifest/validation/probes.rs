//! Probes (`validateProbe`, `validateLivenessProbe` and the like, pkg/apis/core/validation).

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Problems;
use crate::pod::probe::ProbeKind;
use crate::pod::probe::spec::probe_of;

impl Problems {
    /// `may_have`: it is no init container, or a sidecar.
    pub(super) fn probes(&mut self, field: &str, container: &Container, may_have: bool) {
        for (kind, name) in [
            (ProbeKind::Startup, "startupProbe"),
            (ProbeKind::Liveness, "livenessProbe"),
            (ProbeKind::Readiness, "readinessProbe"),
        ] {
            let field = format!("{field}.{name}");
            if let Some(probe) = probe_of(container, kind) {
                let problem = || "an init container has one only with restartPolicy: Always".to_owned();
                self.require(&field, may_have, problem);
                self.probe(&field, probe, kind);
            }
        }
    }

    fn probe(&mut self, field: &str, probe: &Probe, kind: ProbeKind) {
        let checks = [
            probe.exec.is_some(),
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.grpc.is_some(),
        ];
        let checks = checks.into_iter().filter(|given| *given).count();
        self.require(field, checks == 1, || {
            format!("must have one check (exec, httpGet, tcpSocket or grpc), has {checks}")
        });
        for (name, value) in [
            ("initialDelaySeconds", probe.initial_delay_seconds),
            ("timeoutSeconds", probe.timeout_seconds),
            ("periodSeconds", probe.period_seconds),
            ("successThreshold", probe.success_threshold),
            ("failureThreshold", probe.failure_threshold),
        ] {
            let value = value.unwrap_or_default();
            self.require(&format!("{field}.{name}"), value >= 0, || format!("{value} must be 0 or more"));
        }
        // 0 stands for the default.
        let once = matches!(probe.success_threshold, None | Some(..=1));
        let problem = || "must be 1: what starts or lives has done so once and for all".to_owned();
        self.require(&format!("{field}.successThreshold"), once || !kind.ends_the_container(), problem);
        if let Some(grace) = probe.termination_grace_period_seconds {
            let field = format!("{field}.terminationGracePeriodSeconds");
            self.require(&field, kind.ends_the_container(), || "a readiness probe ends nothing".to_owned());
            self.require(&field, grace > 0, || format!("{grace} must be more than 0"));
        }
        if let Some(exec) = &probe.exec {
            let given = exec.command.as_ref().is_some_and(|c| !c.is_empty());
            self.require(&format!("{field}.exec.command"), given, || "must be given".to_owned());
        }
        let of_http = probe.http_get.as_ref().map(|get| ("httpGet", &get.port));
        let of_tcp = probe.tcp_socket.as_ref().map(|tcp| ("tcpSocket", &tcp.port));
        let of_grpc = probe.grpc.as_ref().map(|grpc| ("grpc", IntOrString::Int(grpc.port)));
        let of_grpc = of_grpc.as_ref().map(|(name, port)| (*name, port));
        for (name, port) in of_http.into_iter().chain(of_tcp).chain(of_grpc) {
            // Whether the container has a port of that name is seen as it is asked.
            if let IntOrString::Int(port) = port {
                let problem = || format!("{port} must be 1 to 65535");
                self.require(&format!("{field}.{name}.port"), (1..=65535).contains(port), problem);
            }
        }
        let scheme = probe.http_get.as_ref().and_then(|get| get.scheme.as_deref());
        self.one_of(&format!("{field}.httpGet.scheme"), scheme, &["", "HTTP", "HTTPS"]);
    }
}
