//! Hooks, stop signals, restart policies and the active deadline (`validateLifecycle`, `validateContainerRestartPolicy` and the
//! like, pkg/apis/core/validation).

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, PodSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Problems;
use crate::pod::spec::DEFAULT_GRACE_S;
use crate::pod::stop_signal::StopSignal;

const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;

impl Problems {
    pub(super) fn lives(&mut self, spec: &PodSpec) {
        if let Some(seconds) = spec.active_deadline_seconds {
            let fits = (1..=i64::from(i32::MAX)).contains(&seconds);
            let problem = || format!("{seconds} must be 1 to {}", i32::MAX);
            self.require("spec.activeDeadlineSeconds", fits, problem);
        }
        let ephemeral = spec.ephemeral_containers.as_ref().is_some_and(|all| !all.is_empty());
        let problem =
            || "are added to a pod that runs, by the API server; none can be in a manifest".to_owned();
        self.require("spec.ephemeralContainers", !ephemeral, problem);
    }

    /// `may_have`: it is no init container, or a sidecar.
    pub(super) fn lifecycle(&mut self, field: &str, container: &Container, spec: &PodSpec, may_have: bool) {
        let Some(lifecycle) = &container.lifecycle else { return };
        let field = format!("{field}.lifecycle");
        let problem = || "an init container has one only with restartPolicy: Always".to_owned();
        self.require(&field, may_have, problem);
        let grace_s = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_S);
        for (name, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(handler) = handler {
                self.handler(&format!("{field}.{name}"), handler, grace_s);
            }
        }
        if let Some(signal) = &lifecycle.stop_signal {
            let problem = || format!("{signal:?} must be a signal's name, such as SIGUSR1");
            self.require(&format!("{field}.stopSignal"), StopSignal::parse(signal).is_some(), problem);
        }
    }

    fn handler(&mut self, field: &str, handler: &LifecycleHandler, grace_s: i64) {
        let given = [handler.exec.is_some(), handler.http_get.is_some(), handler.sleep.is_some()];
        let given = given.into_iter().filter(|given| *given).count();
        // The API has it, and every such hook fails.
        self.require(&format!("{field}.tcpSocket"), handler.tcp_socket.is_none(), || {
            "is no hook: use exec, httpGet or sleep".to_owned()
        });
        self.require(field, given == 1 || handler.tcp_socket.is_some(), || {
            format!("must have one handler (exec, httpGet or sleep), has {given}")
        });
        if let Some(exec) = &handler.exec {
            let given = exec.command.as_ref().is_some_and(|c| !c.is_empty());
            self.require(&format!("{field}.exec.command"), given, || "must be given".to_owned());
        }
        if let Some(get) = &handler.http_get {
            if let IntOrString::Int(port) = get.port {
                let problem = || format!("{port} must be 1 to 65535");
                self.require(&format!("{field}.httpGet.port"), (1..=65535).contains(&port), problem);
            }
            self.one_of(&format!("{field}.httpGet.scheme"), get.scheme.as_deref(), &["", "HTTP", "HTTPS"]);
        }
        if let Some(sleep) = &handler.sleep {
            let seconds = sleep.seconds;
            let fits = (0..=grace_s).contains(&seconds);
            self.require(&format!("{field}.sleep.seconds"), fits, || {
                format!("{seconds} must be 0 to terminationGracePeriodSeconds ({grace_s})")
            });
        }
    }

    pub(super) fn restarts(&mut self, field: &str, container: &Container) {
        let policies = ["Always", "OnFailure", "Never"];
        self.one_of(&format!("{field}.restartPolicy"), container.restart_policy.as_deref(), &policies);
        let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
        let field = format!("{field}.restartPolicyRules");
        let with_policy = rules.is_empty() || container.restart_policy.is_some();
        self.require(&field, with_policy, || "need a restartPolicy of the container's own".to_owned());
        self.require(&field, rules.len() <= MOST_RULES, || {
            format!("{} rules, {MOST_RULES} are the most", rules.len())
        });
        for (index, rule) in rules.iter().enumerate() {
            let field = format!("{field}[{index}]");
            self.one_of(&format!("{field}.action"), Some(&rule.action), &["Restart", "RestartAllContainers"]);
            let Some(codes) = &rule.exit_codes else {
                self.add(&format!("{field}.exitCodes"), "must be given");
                continue;
            };
            self.one_of(&format!("{field}.exitCodes.operator"), Some(&codes.operator), &["In", "NotIn"]);
            let count = codes.values.as_ref().map_or(0, Vec::len);
            self.require(&format!("{field}.exitCodes.values"), count <= MOST_CODES, || {
                format!("{count} codes, {MOST_CODES} are the most")
            });
        }
    }
}
