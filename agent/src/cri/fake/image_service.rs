//! Its images.

use super::*;

#[tonic::async_trait]
impl ImageService for Service {
    async fn image_status(
        &self,
        r: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let name = r.into_inner().image.unwrap_or_default().image;
        self.arrived("ImageStatus", &name).await?;
        let image = self.state().images.iter().find(|i| i.repo_tags.contains(&name)).cloned();
        Ok(Response::new(cri::ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(
        &self,
        r: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let name = r.into_inner().image.unwrap_or_default().image;
        self.arrived("PullImage", &name).await?;
        let image =
            cri::Image { id: format!("sha256:{name}"), repo_tags: vec![name.clone()], ..Default::default() };
        self.state().images.push(image);
        Ok(Response::new(cri::PullImageResponse { image_ref: format!("sha256:{name}") }))
    }

    async fn list_images(
        &self,
        _: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        self.arrived("ListImages", "").await?;
        Ok(Response::new(cri::ListImagesResponse { images: self.state().images.clone() }))
    }

    async fn remove_image(
        &self,
        r: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let id = r.into_inner().image.unwrap_or_default().image;
        self.arrived("RemoveImage", &id).await?;
        self.state().images.retain(|i| i.id != id);
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        self.arrived("ImageFsInfo", "").await?;
        let mountpoint = self.state().image_store.clone();
        let image_filesystems = mountpoint.map(|mountpoint| cri::FilesystemUsage {
            fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
            ..Default::default()
        });
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: image_filesystems.into_iter().collect(),
            ..Default::default()
        }))
    }
}
