//! projected: several sources in one volume, in memory alone, for a token or a Secret may be among them.

use k8s_openapi::api::core::v1::ProjectedVolumeSource;

use super::source::ContentVolume;
use oomlet_core::pod::Pod;
use oomlet_core::volume::payload::checked;
use oomlet_core::volume::{Content, Payload, PayloadError, projected};

impl ContentVolume for ProjectedVolumeSource {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~projected"
    }

    fn in_memory(&self) -> bool {
        true
    }

    fn payload(&self, name: &str, pod: &Pod, content: &Content) -> Result<Payload, PayloadError> {
        checked(projected::files(name, self, pod, content)?)
    }
}
