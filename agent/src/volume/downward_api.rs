//! downwardAPI: fields of the pod as files, in memory as kubelet has them.

use k8s_openapi::api::core::v1::DownwardAPIVolumeSource;

use super::source::ContentVolume;
use oomlet_core::pod::Pod;
use oomlet_core::volume::payload::checked;
use oomlet_core::volume::{Content, DEFAULT_MODE, Payload, PayloadError, downward};

impl ContentVolume for DownwardAPIVolumeSource {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~downward-api"
    }

    fn in_memory(&self) -> bool {
        true
    }

    fn payload(&self, _: &str, pod: &Pod, content: &Content) -> Result<Payload, PayloadError> {
        let items = self.items.as_deref().unwrap_or_default();
        checked(downward::files(items, self.default_mode.unwrap_or(DEFAULT_MODE), pod, &content.node)?)
    }
}
