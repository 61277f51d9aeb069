//! Fields of a manifest that this agent does not act on: those it cannot run the pod without, and those it
//! runs the pod without. When a feature is built, its line here goes.

use crate::pod::spec::all_containers;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};

/// Why the pod cannot run here, with the field and the remedy.
pub(super) fn refused(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        if let Some(kind) = unsupported_volume(volume) {
            return Some(format!(
                "spec.volumes[{}]: {kind} is not supported yet; use emptyDir, hostPath, configMap, secret, projected or \
                 downwardAPI, or remove it",
                volume.name
            ));
        }
    }
    let resource_claims = spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty());
    let field = if spec.host_users == Some(false) {
        Some("spec.hostUsers: false")
    } else if resource_claims {
        Some("spec.resourceClaims")
    } else {
        None
    };
    if let Some(field) = field {
        return Some(format!("{field} is not supported yet; remove it to run the pod without it"));
    }
    all_containers(spec).find_map(refused_container)
}

fn refused_container(container: &Container) -> Option<String> {
    if container.volume_devices.as_ref().is_some_and(|d| !d.is_empty()) {
        return Some(format!(
            "container {}: volumeDevices (raw block volumes) are not supported yet; remove them",
            container.name
        ));
    }
    let resources = container.resources.as_ref()?;
    let lists = [resources.limits.as_ref(), resources.requests.as_ref()];
    let extended = lists
        .into_iter()
        .flatten()
        .flat_map(|list| list.keys())
        .find(|name| !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage"))?;
    Some(format!(
        "container {}: this node has no resource {extended:?}; resources may name cpu, memory and ephemeral-storage",
        container.name
    ))
}

/// The kind of a volume that this agent does not make.
fn unsupported_volume(volume: &Volume) -> Option<&'static str> {
    if let Some(dir) = &volume.empty_dir {
        let huge = dir.medium.as_deref().is_some_and(|m| m.starts_with("HugePages"));
        return huge.then_some("emptyDir with medium HugePages");
    }
    let made = volume.host_path.is_some()
        || volume.projected.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some();
    if made {
        return None;
    }
    let kinds = [
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("csi", volume.csi.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    Some(kinds.into_iter().find(|(_, set)| *set).map_or("this volume type", |(kind, _)| kind))
}

/// Fields that are left undone for now: one text each, with the field's path. The pod runs all the same.
#[must_use]
pub fn unsupported(pod: &Pod) -> Vec<String> {
    let secrets = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_ref());
    let fields = [("spec.imagePullSecrets", secrets.is_some_and(|list| !list.is_empty()))];
    fields.into_iter().filter(|(_, set)| *set).map(|(field, _)| field.to_owned()).collect()
}
