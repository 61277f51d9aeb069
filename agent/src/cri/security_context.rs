//! Pod's and container's securityContext → the CRI's, the container's fields winning. Pure
//! (kubelet: pkg/securitycontext/util.go, kuberuntime/security_context.go).

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};

use super::image::Image;
use super::sandbox_config::namespace_options;
use oomlet_core::pod::{PodRef, apparmor};

/// Paths of /proc and /sys that a container does not see, and those it may not write: the defaults of
/// Kubernetes and the runtimes for `procMount: Default`.
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The pod asks for what the image cannot keep: `CreateContainerConfigError`. Where kubelet has words for it, in them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    UserIsRoot { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \
         {pod:?}, container: {container})"
    )]
    ImageUserUnknown { pod: String, container: String, user: String },
    #[error("container {container}: {field} is Localhost, but no localhostProfile is named: name one")]
    NoLocalhostProfile { container: String, field: &'static str },
    #[error(
        "container {container}: unknown {field} type {kind:?}: use RuntimeDefault, Unconfined or Localhost"
    )]
    UnknownProfile { container: String, field: &'static str, kind: String },
}

#[must_use]
pub fn int64(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

/// fsGroup, then supplementalGroups.
#[must_use]
pub fn supplemental_groups(pod: Option<&PodSecurityContext>) -> Vec<i64> {
    pod.into_iter()
        .flat_map(|c| c.fs_group.into_iter().chain(c.supplemental_groups.iter().flatten().copied()))
        .collect()
}

/// `supplementalGroupsPolicy`: whether the image's own groups count beside the pod's.
#[must_use]
pub fn supplemental_groups_policy(pod: Option<&PodSecurityContext>) -> i32 {
    match pod.and_then(|p| p.supplemental_groups_policy.as_deref()) {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict as i32,
        _ => cri::SupplementalGroupsPolicy::Merge as i32,
    }
}

/// `seccomp_dir` holds the profiles that `Localhost` names (`<root>/seccomp`); `seccomp_default` is kubelet's
/// setting of that name.
///
/// # Errors
/// When what is asked for contradicts the image or itself.
pub fn container_security_context(
    pod: &Pod,
    container: &Container,
    image: &Image,
    seccomp_dir: &str,
    seccomp_default: bool,
) -> Result<cri::LinuxContainerSecurityContext, SecurityError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let of_pod = spec.security_context.as_ref();
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let user = own.run_as_user.or_else(|| of_pod.and_then(|p| p.run_as_user));
    let group = own.run_as_group.or_else(|| of_pod.and_then(|p| p.run_as_group));
    let non_root = own.run_as_non_root.or_else(|| of_pod.and_then(|p| p.run_as_non_root)).unwrap_or(false);
    if non_root {
        verify_non_root(pod, container, user, image)?;
    }
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let seccomp = seccomp_profile(container, own, of_pod, seccomp_dir, seccomp_default)?;
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| cri::Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: own.privileged.unwrap_or(false),
        namespace_options: Some(namespace_options(&spec)),
        // An image without a user runs as root, and that is said.
        run_as_user: user.or(image.uid).or(image.username.is_empty().then_some(0)).map(int64),
        run_as_username: if user.is_none() && image.uid.is_none() {
            image.username.clone()
        } else {
            String::new()
        },
        run_as_group: group.map(int64),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(of_pod),
        supplemental_groups_policy: supplemental_groups_policy(of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        seccomp: Some(seccomp),
        apparmor: apparmor_profile(pod, container)?,
        selinux_options: own
            .se_linux_options
            .as_ref()
            .or_else(|| of_pod.and_then(|p| p.se_linux_options.as_ref()))
            .map(|o| cri::SeLinuxOption {
                user: o.user.clone().unwrap_or_default(),
                role: o.role.clone().unwrap_or_default(),
                r#type: o.type_.clone().unwrap_or_default(),
                level: o.level.clone().unwrap_or_default(),
            }),
        ..Default::default()
    })
}

/// `verifyRunAsNonRoot`. An image without USER runs as root.
fn verify_non_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    image: &Image,
) -> Result<(), SecurityError> {
    let (pod, container) = (PodRef::of(pod).with_uid(), container.name.clone());
    match (user, image.uid) {
        (Some(0), _) => Err(SecurityError::UserIsRoot { pod, container }),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(SecurityError::ImageIsRoot { pod, container }),
        (None, Some(_)) => Ok(()),
        (None, None) if image.username.is_empty() => Err(SecurityError::ImageIsRoot { pod, container }),
        (None, None) => Err(SecurityError::ImageUserUnknown { pod, container, user: image.username.clone() }),
    }
}

fn profile(
    container: &Container,
    field: &'static str,
    kind: &str,
    localhost_ref: Option<String>,
) -> Result<cri::SecurityProfile, SecurityError> {
    use cri::security_profile::ProfileType;
    let name = || container.name.clone();
    let (profile_type, localhost_ref) = match (kind, localhost_ref) {
        ("RuntimeDefault", _) => (ProfileType::RuntimeDefault, String::new()),
        ("Unconfined", _) => (ProfileType::Unconfined, String::new()),
        ("Localhost", Some(path)) => (ProfileType::Localhost, path),
        ("Localhost", None) => return Err(SecurityError::NoLocalhostProfile { container: name(), field }),
        (kind, _) => {
            return Err(SecurityError::UnknownProfile { container: name(), field, kind: kind.to_owned() });
        }
    };
    Ok(cri::SecurityProfile { profile_type: profile_type as i32, localhost_ref })
}

fn seccomp_profile(
    container: &Container,
    own: &SecurityContext,
    of_pod: Option<&PodSecurityContext>,
    seccomp_dir: &str,
    seccomp_default: bool,
) -> Result<cri::SecurityProfile, SecurityError> {
    let asked = own.seccomp_profile.as_ref().or_else(|| of_pod.and_then(|p| p.seccomp_profile.as_ref()));
    let Some(asked) = asked else {
        let kind = if seccomp_default { "RuntimeDefault" } else { "Unconfined" };
        return profile(container, "seccompProfile", kind, None);
    };
    let path = asked.localhost_profile.as_ref().map(|p| format!("{seccomp_dir}/{p}"));
    profile(container, "seccompProfile", &asked.type_, path)
}

/// Unlike seccomp, nothing asked for means nothing said: the runtime's own default applies where AppArmor is on.
fn apparmor_profile(pod: &Pod, container: &Container) -> Result<Option<cri::SecurityProfile>, SecurityError> {
    let asked = apparmor::profile(pod, container);
    asked.map(|a| profile(container, "appArmorProfile", &a.type_, a.localhost_profile)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::security_profile::ProfileType;
    use serde_json::json;

    fn context(
        pod: serde_json::Value,
        own: serde_json::Value,
        image: &Image,
    ) -> Result<cri::LinuxContainerSecurityContext, SecurityError> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"securityContext": pod,
            "containers": [{"name": "c", "image": "img", "securityContext": own}]}}),
        )
        .unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        container_security_context(&pod, &container, image, "/var/lib/kubelet/seccomp", false)
    }

    fn image(uid: Option<i64>, username: &str) -> Image {
        Image { uid, username: username.into(), ..Image::default() }
    }

    #[test]
    fn users() {
        for (pod, own, image, user, username) in [
            (json!({}), json!({}), image(Some(0), ""), Some(0), ""),
            (json!({}), json!({}), image(None, "app"), None, "app"),
            (json!({"runAsUser": 5}), json!({}), image(None, "app"), Some(5), ""),
            (json!({"runAsUser": 5}), json!({"runAsUser": 6}), image(Some(9), ""), Some(6), ""),
        ] {
            let c = context(pod.clone(), own.clone(), &image).unwrap();
            assert_eq!(
                (c.run_as_user.map(|u| u.value), c.run_as_username.as_str()),
                (user, username),
                "{pod} {own}"
            );
        }
    }

    #[test]
    fn run_as_non_root_is_verified() {
        let yes = json!({"runAsNonRoot": true});
        for (pod, own, image, error) in [
            (yes.clone(), json!({}), image(Some(1000), ""), None),
            (yes.clone(), json!({"runAsUser": 7}), image(Some(0), ""), None),
            (yes.clone(), json!({"runAsNonRoot": false}), image(Some(0), ""), None),
            (
                yes.clone(),
                json!({}),
                image(Some(0), ""),
                Some("image will run as root (pod: \"p_ns(u)\", container: c)"),
            ),
            (yes.clone(), json!({}), image(None, ""), Some("image will run as root")),
            (yes.clone(), json!({}), image(None, "app"), Some("non-numeric user (app)")),
            (
                json!({"runAsUser": 0}),
                yes.clone(),
                image(Some(1000), ""),
                Some("runAsUser breaks non-root policy"),
            ),
        ] {
            let found = context(pod.clone(), own.clone(), &image).err().map(|e| e.to_string());
            match error {
                None => assert_eq!(found, None, "{pod} {own}"),
                Some(part) => {
                    assert!(found.as_ref().is_some_and(|e| e.contains(part)), "{pod} {own}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn container_fields() {
        let c = context(
            json!({"supplementalGroups": [3], "fsGroup": 4, "runAsGroup": 2}),
            json!({"privileged": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}),
            &image(Some(0), ""),
        )
        .unwrap();
        assert!(c.privileged && c.readonly_rootfs && c.no_new_privs);
        assert_eq!(c.supplemental_groups, [4, 3]);
        assert_eq!(c.run_as_group.unwrap().value, 2);
        let caps = c.capabilities.unwrap();
        assert_eq!(
            (caps.add_capabilities, caps.drop_capabilities),
            (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()])
        );
        assert!(
            c.masked_paths.contains(&"/proc/kcore".to_owned())
                && c.readonly_paths.contains(&"/proc/sys".to_owned())
        );
        let c = context(json!({}), json!({"procMount": "Unmasked"}), &image(Some(0), "")).unwrap();
        assert!(c.masked_paths.is_empty() && c.readonly_paths.is_empty() && !c.no_new_privs);
    }

    #[test]
    fn seccomp() {
        for (pod, own, expected) in [
            (json!({}), json!({}), Ok((ProfileType::Unconfined, ""))),
            (
                json!({"seccompProfile": {"type": "RuntimeDefault"}}),
                json!({}),
                Ok((ProfileType::RuntimeDefault, "")),
            ),
            (
                json!({"seccompProfile": {"type": "RuntimeDefault"}}),
                json!({"seccompProfile": {"type": "Unconfined"}}),
                Ok((ProfileType::Unconfined, "")),
            ),
            (
                json!({}),
                json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}),
                Ok((ProfileType::Localhost, "/var/lib/kubelet/seccomp/a.json")),
            ),
            (json!({}), json!({"seccompProfile": {"type": "Localhost"}}), Err("localhostProfile")),
            (json!({}), json!({"seccompProfile": {"type": "Loose"}}), Err("Loose")),
        ] {
            match (context(pod, own.clone(), &image(Some(0), "")), expected) {
                (Ok(c), Ok((kind, path))) => {
                    let s = c.seccomp.unwrap();
                    assert_eq!((s.profile_type, s.localhost_ref.as_str()), (kind as i32, path), "{own}");
                }
                (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
                (found, _) => panic!("{own}: {found:?}"),
            }
        }
    }
}
