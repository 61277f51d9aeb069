//! Container → the CRI's ContainerConfig. Pure (kubelet: kuberuntime/kuberuntime_container.go,
//! kuberuntime_container_linux.go). What needs other parts of the agent (environment, mounts, cgroup numbers)
//! arrives ready-made.

use std::collections::HashMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Container;

use super::image::Image;
use super::names;
use super::sandbox_config::pod_labels;
use super::security_context::{SecurityError, container_security_context};
use oomlet_core::pod::env::Env;
use oomlet_core::pod::qos::{CPU_PERIOD_US, CgroupResources};
use oomlet_core::pod::stop_signal::StopSignal;
use oomlet_core::pod::{Pod, PodRef};

/// `terminationMessagePath` where the manifest names none.
pub const DEFAULT_TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// What the node's cgroups are to do for each container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerCgroups {
    /// The OOM killer takes all processes of the container or none (cgroup v2's `memory.oom.group`), so that none is left half
    /// alive.
    pub oom_kill_group: bool,
    pub swap: SwapControl,
    /// As the CRI names them: `2MB`, `1GB`. No container may have any: those that ask for some are refused.
    pub huge_page_sizes: Vec<String>,
}

/// How containers are kept from swap (`memorySwap.swapBehavior: NoSwap`, kubelet's default).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwapControl {
    /// The kernel has no controller for it.
    #[default]
    None,
    /// The limit of memory and swap together is that of memory.
    V1,
    /// `memory.swap.max` is 0.
    V2,
}

/// What a container's configuration is made from, beside the manifest.
#[derive(Clone, Debug)]
pub struct ContainerInputs<'a> {
    pub restart_count: u32,
    /// See `lifecycle::container_hash`.
    pub hash: u64,
    pub image: &'a Image,
    pub env: Env,
    /// `command` and `args` with `$(VAR)` expanded.
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub resources: CgroupResources,
    pub oom_score_adj: i64,
    pub cgroups: &'a ContainerCgroups,
    pub mounts: Vec<cri::Mount>,
    /// `<root>/seccomp`.
    pub seccomp_dir: &'a str,
    pub seccomp_default: bool,
}

/// # Errors
/// See [`SecurityError`].
pub fn container_config(
    pod: &Pod,
    container: &Container,
    inputs: ContainerInputs<'_>,
) -> Result<cri::ContainerConfig, SecurityError> {
    let security_context =
        container_security_context(pod, container, inputs.image, inputs.seccomp_dir, inputs.seccomp_default)?;
    let mut labels = HashMap::from(pod_labels(&PodRef::of(pod)));
    labels.insert(names::CONTAINER_NAME.to_owned(), container.name.clone());
    let annotations = annotations(pod, container, &inputs);
    let resources = container_resources(&inputs);
    let image_name = container.image.clone().unwrap_or_default();
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: inputs.restart_count,
        }),
        image: Some(cri::ImageSpec {
            image: inputs.image.id.clone(),
            user_specified_image: image_name,
            ..Default::default()
        }),
        command: inputs.command,
        args: inputs.args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: inputs.env.0.into_iter().map(|(key, value)| cri::KeyValue { key, value }).collect(),
        mounts: inputs.mounts,
        labels,
        annotations,
        log_path: names::container_log_path(&container.name, inputs.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security_context),
        }),
        ..Default::default()
    })
}

/// 0 is CRI's "not set" in each field. The period is told with and without a quota, as kubelet does.
#[must_use]
pub fn linux_resources(resources: &CgroupResources) -> cri::LinuxContainerResources {
    let signed = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
    cri::LinuxContainerResources {
        cpu_period: signed(resources.cpu_period_us.unwrap_or(CPU_PERIOD_US)),
        cpu_quota: resources.cpu_quota_us.unwrap_or(0),
        cpu_shares: signed(resources.cpu_shares.unwrap_or(0)),
        memory_limit_in_bytes: signed(resources.memory_limit_bytes.unwrap_or(0)),
        ..Default::default()
    }
}

fn container_resources(inputs: &ContainerInputs<'_>) -> cri::LinuxContainerResources {
    let mut all = linux_resources(&inputs.resources);
    all.oom_score_adj = inputs.oom_score_adj;
    let cgroups = inputs.cgroups;
    if cgroups.oom_kill_group {
        all.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    match cgroups.swap {
        SwapControl::None => {}
        SwapControl::V1 => all.memory_swap_limit_in_bytes = all.memory_limit_in_bytes,
        SwapControl::V2 => {
            all.unified.insert("memory.swap.max".to_owned(), "0".to_owned());
        }
    }
    let no_pages = |size: &String| cri::HugepageLimit { page_size: size.clone(), limit: 0 };
    all.hugepage_limits = cgroups.huge_page_sizes.iter().map(no_pages).collect();
    all
}

#[must_use]
pub fn termination_message_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or(DEFAULT_TERMINATION_MESSAGE_PATH)
}

fn annotations(pod: &Pod, container: &Container, inputs: &ContainerInputs<'_>) -> HashMap<String, String> {
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let mut annotations = HashMap::from([
        (names::CONTAINER_HASH.to_owned(), format!("{:x}", inputs.hash)),
        (names::CONTAINER_RESTART_COUNT.to_owned(), inputs.restart_count.to_string()),
        (names::TERMINATION_MESSAGE_PATH.to_owned(), termination_message_path(container).to_owned()),
        (names::TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
    ]);
    if let Some(signal) = StopSignal::of(container).or(inputs.image.stop_signal) {
        annotations.insert(names::STOP_SIGNAL.to_owned(), signal.to_string());
    }
    if let Some(grace) = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds) {
        annotations.insert(names::POD_TERMINATION_GRACE_PERIOD.to_owned(), grace.to_string());
    }
    // Plain structs have a JSON form always; without it the annotation is absent, which harms nobody.
    if let Some(Ok(json)) =
        container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()).map(serde_json::to_string)
    {
        annotations.insert(names::PRE_STOP_HANDLER.to_owned(), json);
    }
    let ports = container.ports.as_ref().filter(|p| !p.is_empty());
    if let Some(Ok(json)) = ports.map(serde_json::to_string) {
        annotations.insert(names::CONTAINER_PORTS.to_owned(), json);
    }
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(container: serde_json::Value) -> cri::ContainerConfig {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"terminationGracePeriodSeconds": 7, "containers": [container]},
        }))
        .unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        let stop_signal = StopSignal::parse("SIGINT");
        let image = Image { id: "sha256:1".into(), stop_signal, ..Image::default() };
        let cgroups = ContainerCgroups {
            oom_kill_group: true,
            swap: SwapControl::V2,
            huge_page_sizes: vec!["2MB".to_owned()],
        };
        let inputs = ContainerInputs {
            restart_count: 3,
            hash: 0xab,
            image: &image,
            env: Env(vec![("A".into(), "1".into())]),
            command: vec!["/bin/sh".into()],
            args: vec!["-c".into()],
            resources: CgroupResources {
                memory_limit_bytes: Some(64 << 20),
                cpu_shares: Some(102),
                cpu_quota_us: Some(10_000),
                cpu_period_us: Some(100_000),
                pids_limit: None,
            },
            oom_score_adj: -997,
            cgroups: &cgroups,
            mounts: vec![],
            seccomp_dir: "/s",
            seccomp_default: false,
        };
        container_config(&pod, &container, inputs).unwrap()
    }

    #[test]
    fn identity_and_annotations_are_kubelets() {
        let c = config(json!({"name": "c", "image": "img:1", "workingDir": "/w", "stdin": true, "tty": true,
            "terminationMessagePolicy": "FallbackToLogsOnError", "ports": [{"containerPort": 80}],
            "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}));
        assert_eq!(c.metadata.unwrap().attempt, 3);
        assert_eq!(c.log_path, "c/3.log");
        assert!(c.stdin && c.tty && !c.stdin_once);
        assert_eq!(c.working_dir, "/w");
        let image = c.image.unwrap();
        assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:1", "img:1"));
        for (k, v) in [
            (names::POD_NAME, "web"),
            (names::POD_NAMESPACE, "shop"),
            (names::POD_UID, "u1"),
            (names::CONTAINER_NAME, "c"),
        ] {
            assert_eq!(c.labels.get(k).map(String::as_str), Some(v));
        }
        for (k, v) in [
            (names::CONTAINER_HASH, "ab"),
            (names::CONTAINER_RESTART_COUNT, "3"),
            (names::TERMINATION_MESSAGE_PATH, "/dev/termination-log"),
            (names::TERMINATION_MESSAGE_POLICY, "FallbackToLogsOnError"),
            (names::POD_TERMINATION_GRACE_PERIOD, "7"),
            (names::STOP_SIGNAL, "2"),
            (names::PRE_STOP_HANDLER, r#"{"sleep":{"seconds":1}}"#),
            (names::CONTAINER_PORTS, r#"[{"containerPort":80}]"#),
        ] {
            assert_eq!(c.annotations.get(k).map(String::as_str), Some(v), "{k}");
        }
    }

    #[test]
    fn resources_and_command() {
        let c = config(json!({"name": "c"}));
        assert_eq!((c.command, c.args), (vec!["/bin/sh".to_owned()], vec!["-c".to_owned()]));
        assert_eq!((c.envs[0].key.as_str(), c.envs[0].value.as_str()), ("A", "1"));
        let r = c.linux.unwrap().resources.unwrap();
        assert_eq!((r.cpu_shares, r.cpu_quota, r.cpu_period), (102, 10_000, 100_000));
        assert_eq!((r.memory_limit_in_bytes, r.oom_score_adj), (64 << 20, -997));
        let unified = [("memory.oom.group".into(), "1".into()), ("memory.swap.max".into(), "0".into())];
        assert_eq!(r.unified, HashMap::from(unified));
        assert_eq!(r.hugepage_limits, [cri::HugepageLimit { page_size: "2MB".into(), limit: 0 }]);
        let none = linux_resources(&CgroupResources::default());
        assert_eq!((none.memory_limit_in_bytes, none.cpu_quota, none.cpu_period), (0, 0, 100_000));
    }
}
