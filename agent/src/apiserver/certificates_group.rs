//! Which version of `certificates.k8s.io` the API server has of something: what pods get out of that group is younger than
//! the group itself, and may be switched off there.

use kube::Client;
use kube::core::GroupVersionKind;
use kube::core::discovery::ApiResource;

const GROUP: &str = "certificates.k8s.io";

/// The first of `versions` that is served, best first; `None`: none of them.
///
/// # Errors
/// When the API server does not answer.
pub async fn served(
    client: &Client,
    kind: &str,
    plural: &str,
    versions: &[&str],
) -> Result<Option<ApiResource>, kube::Error> {
    for version in versions {
        match client.list_api_group_resources(&format!("{GROUP}/{version}")).await {
            Ok(list) if list.resources.iter().any(|resource| resource.name == plural) => {
                let kind = GroupVersionKind::gvk(GROUP, version, kind);
                return Ok(Some(ApiResource::from_gvk_with_plural(&kind, plural)));
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
