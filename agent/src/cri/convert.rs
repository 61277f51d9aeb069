//! The runtime's answers → our own types. Pure.

use k8s_cri::v1 as cri;

use super::names;
use oomlet_core::pod::runtime_status::{ContainerState, ContainerStatus, ContainerUser, SandboxStatus};
use oomlet_core::pod::stop_signal::StopSignal;
use oomlet_core::pod::{PodRef, PodUid};

/// A sandbox as a list names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSandbox {
    pub id: String,
    pub pod: PodRef,
    pub ready: bool,
    pub created_at_ns: i64,
}

/// A container as a list names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedContainer {
    pub id: String,
    pub pod: PodRef,
    pub name: String,
    pub state: ContainerState,
    pub created_at_ns: i64,
}

/// What a container has written beside its volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WritableLayer {
    pub pod: PodUid,
    pub container: String,
    /// Counts the instances of one container.
    pub attempt: u32,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

type Labels = std::collections::HashMap<String, String>;

/// `None`: not made by a kubelet, so none of ours.
fn pod_of(labels: &Labels) -> Option<PodRef> {
    let label = |key: &str| labels.get(key).filter(|v| !v.is_empty()).cloned();
    Some(PodRef {
        uid: PodUid::from(label(names::POD_UID)?.as_str()),
        namespace: label(names::POD_NAMESPACE)?,
        name: label(names::POD_NAME)?,
    })
}

#[must_use]
pub fn state(state: i32) -> ContainerState {
    match cri::ContainerState::try_from(state) {
        Ok(cri::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(cri::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(cri::ContainerState::ContainerExited) => ContainerState::Exited,
        Ok(cri::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    }
}

#[must_use]
pub fn listed_sandbox(s: cri::PodSandbox) -> Option<ListedSandbox> {
    let ready = s.state == cri::PodSandboxState::SandboxReady as i32;
    Some(ListedSandbox { pod: pod_of(&s.labels)?, id: s.id, ready, created_at_ns: s.created_at })
}

#[must_use]
pub fn listed_container(c: cri::Container) -> Option<ListedContainer> {
    Some(ListedContainer {
        pod: pod_of(&c.labels)?,
        name: c.labels.get(names::CONTAINER_NAME)?.clone(),
        state: state(c.state),
        id: c.id,
        created_at_ns: c.created_at,
    })
}

/// `None`: none of ours, or not measured (yet).
#[must_use]
pub fn writable_layer(stats: cri::ContainerStats) -> Option<WritableLayer> {
    let attributes = stats.attributes?;
    let layer = stats.writable_layer?;
    Some(WritableLayer {
        pod: pod_of(&attributes.labels)?.uid,
        container: attributes.labels.get(names::CONTAINER_NAME)?.clone(),
        attempt: attributes.metadata.map_or(0, |m| m.attempt),
        used_bytes: layer.used_bytes.map_or(0, |v| v.value),
        inodes_used: layer.inodes_used.map_or(0, |v| v.value),
    })
}

/// From the JSON object that containerd 1.x puts as `config` into its verbose status.
#[must_use]
pub fn sandbox_image(config: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(config).ok()?;
    json.get("sandboxImage")?.as_str().filter(|image| !image.is_empty()).map(str::to_owned)
}

#[must_use]
pub fn sandbox_status(s: cri::PodSandboxStatus) -> SandboxStatus {
    let ips = s.network.map_or_else(Vec::new, |n| {
        std::iter::once(n.ip)
            .chain(n.additional_ips.into_iter().map(|a| a.ip))
            .filter(|ip| !ip.is_empty())
            .collect()
    });
    SandboxStatus {
        id: s.id,
        ready: s.state == cri::PodSandboxState::SandboxReady as i32,
        created_at_ns: s.created_at,
        attempt: s.metadata.map_or(0, |m| m.attempt),
        ips,
    }
}

/// `info` is the verbose part of the answer; `sandbox_id` is not in a container's status and comes from the list.
#[must_use]
pub fn container_status(c: cri::ContainerStatus, info: &Labels, sandbox_id: &str) -> ContainerStatus {
    let annotation = |key: &str| c.annotations.get(key).map(String::as_str);
    let state = state(c.state);
    let metadata = c.metadata.unwrap_or_default();
    ContainerStatus {
        sandbox_id: sandbox_id.to_owned(),
        name: c.labels.get(names::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        // A container of another agent may lack the annotation; CRI's attempt is the same number.
        restart_count: annotation(names::CONTAINER_RESTART_COUNT)
            .and_then(|v| v.parse().ok())
            .unwrap_or(metadata.attempt),
        hash: annotation(names::CONTAINER_HASH).and_then(|v| u64::from_str_radix(v, 16).ok()),
        stop_signal: annotation(names::STOP_SIGNAL).and_then(StopSignal::parse),
        user: c.user.and_then(|user| user.linux).map(|user| ContainerUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: user.supplemental_groups,
        }),
        state,
        created_at_ns: c.created_at,
        started_at_ns: c.started_at,
        finished_at_ns: c.finished_at,
        exit_code: c.exit_code,
        reason: c.reason,
        message: c.message,
        image: c.image.map_or_else(String::new, |i| {
            if i.user_specified_image.is_empty() { i.image } else { i.user_specified_image }
        }),
        image_ref: c.image_ref,
        log_path: c.log_path,
        pid: if state == ContainerState::Running { init_pid(info) } else { None },
        id: c.id,
    }
}

/// containerd and CRI-O both put a JSON object with `pid` under `info`. 0 means none.
fn init_pid(info: &Labels) -> Option<u32> {
    /// Of an object with the whole OCI spec in it.
    #[derive(serde::Deserialize)]
    struct Info {
        pid: u32,
    }
    let info: Info = serde_json::from_str(info.get("info")?).ok()?;
    Some(info.pid).filter(|&pid| pid != 0)
}

/// Where the container's termination message file lies on the host, from its mounts and annotations.
#[must_use]
pub fn termination_message_file(c: &cri::ContainerStatus) -> Option<&str> {
    let path = c.annotations.get(names::TERMINATION_MESSAGE_PATH).filter(|p| !p.is_empty())?;
    c.mounts.iter().find(|m| &m.container_path == path).map(|m| m.host_path.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn only_containers_with_kubelets_labels_are_ours() {
        let all = [
            (names::POD_UID, "u"),
            (names::POD_NAME, "web"),
            (names::POD_NAMESPACE, "default"),
            (names::CONTAINER_NAME, "c"),
        ];
        let listed =
            |l: &[(&str, &str)]| listed_container(cri::Container { labels: labels(l), ..Default::default() });
        assert_eq!(listed(&all).unwrap().pod.to_string(), "default/web");
        for without in 0..all.len() {
            let mut some = all.to_vec();
            some.remove(without);
            assert_eq!(listed(&some), None, "{some:?}");
        }
        assert_eq!(listed(&[(names::POD_UID, ""), all[1], all[2], all[3]]), None);
    }

    #[test]
    fn pid_is_read_from_the_verbose_info_and_only_while_running() {
        for (state, info, pid) in [
            (cri::ContainerState::ContainerRunning, r#"{"sandboxID":"x","pid":4711}"#, Some(4711)),
            (cri::ContainerState::ContainerRunning, r#"{"pid":0}"#, None),
            (cri::ContainerState::ContainerRunning, r#"{"pid":-1}"#, None),
            (cri::ContainerState::ContainerRunning, "not json", None),
            (cri::ContainerState::ContainerExited, r#"{"pid":4711}"#, None),
        ] {
            let c = cri::ContainerStatus { state: state as i32, ..Default::default() };
            assert_eq!(container_status(c, &labels(&[("info", info)]), "s").pid, pid, "{info}");
        }
    }

    #[test]
    fn writable_layers_and_the_sandbox_image() {
        let stats = |uid: &str, used: Option<u64>| cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                labels: labels(&[
                    (names::POD_UID, uid),
                    (names::POD_NAME, "web"),
                    (names::POD_NAMESPACE, "default"),
                    (names::CONTAINER_NAME, "c"),
                ]),
                metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 2 }),
                ..Default::default()
            }),
            writable_layer: used.map(|value| cri::FilesystemUsage {
                used_bytes: Some(cri::UInt64Value { value }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let layer = writable_layer(stats("u", Some(7))).unwrap();
        assert_eq!((layer.attempt, layer.used_bytes, layer.inodes_used), (2, 7, 0));
        assert_eq!(writable_layer(stats("u", None)), None);
        assert_eq!(writable_layer(stats("", Some(7))), None);
        for (config, want) in [
            (r#"{"containerd":{},"sandboxImage":"pause:3"}"#, Some("pause:3")),
            (r#"{"sandboxImage":""}"#, None),
            ("{}", None),
            ("no JSON", None),
        ] {
            assert_eq!(sandbox_image(config).as_deref(), want, "{config}");
        }
    }

    #[test]
    fn hash_and_restart_count_come_from_the_annotations() {
        let c = cri::ContainerStatus {
            annotations: labels(&[
                (names::CONTAINER_HASH, "ff00ff00ff00ff00"),
                (names::CONTAINER_RESTART_COUNT, "3"),
            ]),
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 1 }),
            ..Default::default()
        };
        let status = container_status(c, &Labels::new(), "s");
        assert_eq!(
            (status.hash, status.restart_count, status.name.as_str()),
            (Some(0xff00_ff00_ff00_ff00), 3, "c")
        );
        let bare = cri::ContainerStatus {
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 1 }),
            ..Default::default()
        };
        let status = container_status(bare, &Labels::new(), "s");
        assert_eq!((status.hash, status.restart_count), (None, 1));
    }

    #[test]
    fn sandbox_ips_leave_out_the_empty_one_of_host_network() {
        let with = |ip: &str, more: &[&str]| {
            sandbox_status(cri::PodSandboxStatus {
                network: Some(cri::PodSandboxNetworkStatus {
                    ip: ip.into(),
                    additional_ips: more.iter().map(|ip| cri::PodIp { ip: (*ip).into() }).collect(),
                }),
                ..Default::default()
            })
            .ips
        };
        assert_eq!(with("", &[]), Vec::<String>::new());
        assert_eq!(with("10.0.0.1", &["fd00::1"]), ["10.0.0.1", "fd00::1"]);
    }
}
