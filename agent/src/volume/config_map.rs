//! configMap: a ConfigMap's keys as files, on the node's disk.

use k8s_openapi::api::core::v1::ConfigMapVolumeSource;

use super::source::ContentVolume;
use oomlet_core::object::ObjectKind;
use oomlet_core::pod::Pod;
use oomlet_core::volume::payload::{checked, of_object};
use oomlet_core::volume::{Content, DEFAULT_MODE, Payload, PayloadError};

impl ContentVolume for ConfigMapVolumeSource {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~configmap"
    }

    fn in_memory(&self) -> bool {
        false
    }

    fn payload(&self, _: &str, pod: &Pod, content: &Content) -> Result<Payload, PayloadError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let object = (ObjectKind::ConfigMap, namespace, self.name.as_str());
        let items = self.items.as_deref().unwrap_or_default();
        let mode = self.default_mode.unwrap_or(DEFAULT_MODE);
        checked(of_object(object, items, mode, self.optional == Some(true), &content.objects)?)
    }
}
