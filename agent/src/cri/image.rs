//! A typed client of the CRI's ImageService.

use std::time::Duration;

use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use tonic::transport::Channel;

use super::CriError;
use super::connection::{Connection, MAX_MESSAGE_BYTES};
use oomlet_core::pod::stop_signal::StopSignal;

/// Pulls have no deadline of their own: a large image over a slow line is no error. A day bounds a lost answer.
const PULL_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct ImageClient {
    connection: Connection,
    client: ImageServiceClient<Channel>,
}

/// An image that is on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// What containers are created from.
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// The image's `USER`: a number, or else a name; neither means root.
    pub uid: Option<i64>,
    pub username: String,
    pub pinned: bool,
    /// The image's `STOPSIGNAL`; `None` where the runtime does not tell, or in words that are not known here.
    pub stop_signal: Option<StopSignal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesystemUsage {
    pub mountpoint: String,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

impl From<cri::Image> for Image {
    fn from(i: cri::Image) -> Image {
        Image {
            id: i.id,
            tags: i.repo_tags,
            digests: i.repo_digests,
            size_bytes: i.size,
            uid: i.uid.map(|u| u.value),
            username: i.username,
            pinned: i.pinned,
            stop_signal: None,
        }
    }
}

/// containerd and CRI-O both put a JSON object with the OCI image configuration as `imageSpec` under `info`.
fn stop_signal(info: &str) -> Option<StopSignal> {
    let json: serde_json::Value = serde_json::from_str(info).ok()?;
    let config = json.get("imageSpec")?.get("config")?;
    match config.get("StopSignal") {
        None => Some(StopSignal::TERM),
        Some(written) => StopSignal::parse(written.as_str()?),
    }
}

fn spec(image: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() })
}

impl ImageClient {
    #[must_use]
    pub fn new(connection: &Connection) -> ImageClient {
        let client =
            ImageServiceClient::new(connection.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        ImageClient { connection: connection.clone(), client }
    }

    /// `None`: not on the node.
    ///
    /// # Errors
    /// When the runtime refuses (a name that is none) or does not answer.
    pub async fn image_status(&self, image: &str) -> Result<Option<Image>, CriError> {
        let request = cri::ImageStatusRequest { image: spec(image), verbose: true };
        let mut client = self.client.clone();
        let limit = self.connection.request_timeout();
        let r = self.connection.limited("ImageStatus", image, limit, client.image_status(request)).await?;
        let stop_signal = r.info.get("info").and_then(|info| stop_signal(info));
        let image = r.image.map(|image| Image { stop_signal, ..Image::from(image) });
        Ok(image.filter(|i| !i.id.is_empty()))
    }

    /// Pulls without credentials; returns the image reference. Dropping the future gives the pull up.
    ///
    /// # Errors
    /// When the registry or the runtime refuses.
    pub async fn pull_image(&self, image: &str, sandbox: cri::PodSandboxConfig) -> Result<String, CriError> {
        let request = cri::PullImageRequest { image: spec(image), auth: None, sandbox_config: Some(sandbox) };
        let mut client = self.client.clone();
        let r = self.connection.limited("PullImage", image, PULL_LIMIT, client.pull_image(request)).await?;
        Ok(r.image_ref)
    }

    /// # Errors
    /// When the runtime does not answer.
    pub async fn list_images(&self) -> Result<Vec<Image>, CriError> {
        let mut client = self.client.clone();
        let limit = self.connection.request_timeout();
        let answer = client.list_images(cri::ListImagesRequest { filter: None });
        let r = self.connection.limited("ListImages", "the node", limit, answer).await?;
        Ok(r.images.into_iter().map(Image::from).collect())
    }

    /// Removes the image with all its names. Idempotent.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn remove_image(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemoveImageRequest { image: spec(id) };
        let mut client = self.client.clone();
        let limit = self.connection.request_timeout();
        match self.connection.limited("RemoveImage", id, limit, client.remove_image(request)).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// When the runtime does not answer.
    pub async fn image_fs_info(&self) -> Result<Vec<FilesystemUsage>, CriError> {
        let mut client = self.client.clone();
        let limit = self.connection.request_timeout();
        let answer = client.image_fs_info(cri::ImageFsInfoRequest {});
        let r = self.connection.limited("ImageFsInfo", "the node", limit, answer).await?;
        Ok(r.image_filesystems
            .into_iter()
            .map(|f| FilesystemUsage {
                mountpoint: f.fs_id.unwrap_or_default().mountpoint,
                used_bytes: f.used_bytes.map_or(0, |v| v.value),
                inodes_used: f.inodes_used.map_or(0, |v| v.value),
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_signal_is_the_image_configurations() {
        for (info, expected) in [
            (r#"{"chainID":"sha256:0","imageSpec":{"config":{"Cmd":["sh"]}}}"#, Some(15)),
            (r#"{"imageSpec":{"config":{"StopSignal":"SIGQUIT"}}}"#, Some(3)),
            (r#"{"imageSpec":{"config":{"StopSignal":"SIGRTMIN+3"}}}"#, Some(37)),
            (r#"{"imageSpec":{}}"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(stop_signal(info).map(StopSignal::number), expected, "{info}");
        }
    }
}
