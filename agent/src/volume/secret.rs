//! secret: a Secret's keys as files, in memory alone.

use k8s_openapi::api::core::v1::SecretVolumeSource;

use super::source::ContentVolume;
use oomlet_core::object::ObjectKind;
use oomlet_core::pod::Pod;
use oomlet_core::volume::payload::{checked, of_object};
use oomlet_core::volume::{Content, DEFAULT_MODE, Payload, PayloadError};

impl ContentVolume for SecretVolumeSource {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~secret"
    }

    fn in_memory(&self) -> bool {
        true
    }

    fn payload(&self, _: &str, pod: &Pod, content: &Content) -> Result<Payload, PayloadError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let object = (ObjectKind::Secret, namespace, self.secret_name.as_deref().unwrap_or_default());
        let items = self.items.as_deref().unwrap_or_default();
        let mode = self.default_mode.unwrap_or(DEFAULT_MODE);
        checked(of_object(object, items, mode, self.optional == Some(true), &content.objects)?)
    }
}
