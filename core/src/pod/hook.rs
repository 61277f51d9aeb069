//! What a container's manifest wants done right after its start and before its end (`lifecycle.postStart`, `preStop`;
//! pkg/kubelet/lifecycle/handlers.go). Core.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::probe::Check;
use super::probe::spec::http_get;
use super::runtime_status::PodRuntimeStatus;
use super::spec::{MINIMUM_GRACE, all_containers};
use super::{Pod, PodRef};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the container. As the manifest has it: nothing is expanded.
    Exec {
        command: Vec<String>,
    },
    /// An answer will do, whatever it says. `check`: what is asked, or why it cannot be.
    HttpGet {
        path: String,
        check: Check,
    },
    Sleep {
        seconds: i64,
    },
    /// It names nothing that can be run (`tcpSocket` is no hook, whatever the API's type has).
    Invalid,
}

/// A preStop hook, with the address of its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreStop {
    pub hook: Hook,
    pub address: Option<String>,
}

/// Why a hook failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookFailure {
    pub error: String,
    /// What its command has written.
    pub output: String,
}

impl Hook {
    #[must_use]
    pub fn post_start(container: &Container) -> Option<Hook> {
        let handler = container.lifecycle.as_ref()?.post_start.as_ref()?;
        Some(Hook::of(handler, container))
    }

    #[must_use]
    pub fn pre_stop(container: &Container) -> Option<Hook> {
        let handler = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
        Some(Hook::of(handler, container))
    }

    fn of(handler: &LifecycleHandler, container: &Container) -> Hook {
        if let Some(exec) = &handler.exec {
            return Hook::Exec { command: exec.command.clone().unwrap_or_default() };
        }
        if let Some(get) = &handler.http_get {
            let check = http_get(get, container).unwrap_or_else(Check::Impossible);
            return Hook::HttpGet { path: get.path.clone().unwrap_or_default(), check };
        }
        handler.sleep.as_ref().map_or(Hook::Invalid, |sleep| Hook::Sleep { seconds: sleep.seconds })
    }

    /// In kubelet's words, for the container's status.
    #[must_use]
    pub fn failed(&self, container: &str, pod: &PodRef, why: &HookFailure) -> String {
        let HookFailure { error, output } = why;
        let of = format!("for Container {container:?} in Pod {:?} failed - error: {error}", pod.with_uid());
        match self {
            Hook::Exec { command } => {
                format!("Exec lifecycle hook ([{}]) {of}, message: {output:?}", command.join(" "))
            }
            Hook::HttpGet { path, .. } => format!("HTTP lifecycle hook ({path}) {of}"),
            Hook::Sleep { seconds } => format!("Sleep lifecycle hook ({seconds}) {of}"),
            Hook::Invalid => format!("Cannot run handler: {error}"),
        }
    }

    /// How long it takes, where it says so itself.
    #[must_use]
    pub fn sleeps(&self) -> Option<Duration> {
        match self {
            Hook::Sleep { seconds } => Some(Duration::from_secs(u64::try_from(*seconds).unwrap_or(0))),
            _ => None,
        }
    }
}

/// The preStop hooks of a pod by their containers' names.
#[must_use]
pub fn pre_stops(pod: &Pod, address: Option<&str>) -> BTreeMap<String, PreStop> {
    let containers = pod.spec.iter().flat_map(all_containers);
    let of = |c: &Container| {
        Some((c.name.clone(), PreStop { hook: Hook::pre_stop(c)?, address: address.map(str::to_owned) }))
    };
    containers.filter_map(of).collect()
}

/// Where a hook finds its pod; `host_ip`: where one in the node's network is.
#[must_use]
pub fn address<'a>(pod: &Pod, runtime: &'a PodRuntimeStatus, host_ip: Option<&'a str>) -> Option<&'a str> {
    if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
        return host_ip;
    }
    runtime.ready_sandbox()?.ips.first().map(String::as_str)
}

/// When SIGKILL comes at the latest, counted from an order to end with this grace. A stop signal that has waited for a hook is
/// given [`MINIMUM_GRACE`] in any case.
#[must_use]
pub fn kill_within(pod: &Pod, grace: Duration) -> Duration {
    let mut containers = pod.spec.iter().flat_map(all_containers);
    let waits = !grace.is_zero() && containers.any(|c| Hook::pre_stop(c).is_some());
    if waits { grace + MINIMUM_GRACE } else { grace }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(handler: Value) -> Container {
        let ports = json!([{ "name": "web", "containerPort": 8080 }]);
        let lifecycle = json!({ "preStop": handler });
        serde_json::from_value(json!({ "name": "c", "ports": ports, "lifecycle": lifecycle })).unwrap()
    }

    #[test]
    fn hooks_and_what_is_told_of_their_failure() {
        let pod = PodRef { uid: "u".into(), namespace: "ns".into(), name: "web".into() };
        let why = HookFailure { error: "no".to_owned(), output: "said\n".to_owned() };
        let of = "for Container \"c\" in Pod \"web_ns(u)\" failed - error: no";
        for (handler, sleeps_s, expected) in [
            (
                json!({ "exec": { "command": ["sh", "-c", "echo $(A)"] } }),
                None,
                format!("Exec lifecycle hook ([sh -c echo $(A)]) {of}, message: \"said\\n\""),
            ),
            (
                json!({ "httpGet": { "port": "web", "path": "/bye?now" } }),
                None,
                format!("HTTP lifecycle hook (/bye?now) {of}"),
            ),
            (json!({ "sleep": { "seconds": 3 } }), Some(3), format!("Sleep lifecycle hook (3) {of}")),
            (json!({ "sleep": { "seconds": -3 } }), Some(0), format!("Sleep lifecycle hook (-3) {of}")),
            (json!({ "tcpSocket": { "port": 80 } }), None, "Cannot run handler: no".to_owned()),
        ] {
            let hook = Hook::pre_stop(&container(handler.clone())).unwrap();
            assert_eq!(hook.failed("c", &pod, &why), expected, "{handler}");
            assert_eq!(hook.sleeps().map(|d| d.as_secs()), sleeps_s, "{handler}");
        }
        assert_eq!(Hook::post_start(&container(json!({ "exec": {} }))), None);
        let get = container(json!({ "httpGet": { "port": "metrics" } }));
        let Some(Hook::HttpGet { check: Check::Impossible(why), .. }) = Hook::pre_stop(&get) else {
            panic!("{get:?}")
        };
        assert!(why.contains("metrics"), "{why}");
    }

    #[test]
    fn hooks_of_a_pod_and_its_address() {
        let pod = |spec: Value| serde_json::from_value::<Pod>(json!({ "spec": spec })).unwrap();
        let hook = json!({ "preStop": { "sleep": { "seconds": 1 } } });
        let of = |host_network: bool| {
            pod(json!({ "hostNetwork": host_network,
                "initContainers": [{ "name": "s", "restartPolicy": "Always", "lifecycle": hook }],
                "containers": [{ "name": "a" }, { "name": "b", "lifecycle": hook }] }))
        };
        assert_eq!(pre_stops(&of(false), None).into_keys().collect::<Vec<_>>(), ["b", "s"]);
        let sandbox = crate::pod::runtime_status::SandboxStatus {
            id: "s".into(),
            ready: true,
            created_at_ns: 1,
            attempt: 0,
            ips: vec!["10.0.0.1".into(), "fd00::1".into()],
        };
        let runtime = PodRuntimeStatus { sandboxes: vec![sandbox], ..PodRuntimeStatus::default() };
        assert_eq!(address(&of(false), &runtime, Some("192.0.2.1")), Some("10.0.0.1"));
        assert_eq!(address(&of(true), &runtime, Some("192.0.2.1")), Some("192.0.2.1"));
        assert_eq!(address(&of(false), &PodRuntimeStatus::default(), Some("192.0.2.1")), None);
        let within = |pod: &Pod, s: u64| kill_within(pod, Duration::from_secs(s)).as_secs();
        assert_eq!((within(&of(false), 5), within(&of(false), 0)), (7, 0));
        assert_eq!(within(&pod(json!({ "containers": [{ "name": "a" }] })), 5), 5);
    }
}
