//! What the node can do without: containers, sandboxes and logs of pods that have ended, and images that nobody uses.
//! Whatever fails is told and left; the rest goes on.

use std::collections::BTreeSet;

use super::Task;
use super::read::image_room;
use crate::clock;
use crate::cri::CriError;
use crate::cri::image::Image;
use crate::pod_worker::files;
use oomlet_core::eviction::resources::reading::{Reclaim, Reclaimed};
use oomlet_core::image::gc::{GcCause, InUse, ListedImage};
use oomlet_core::pod::runtime_status::ContainerState;

impl Task {
    /// kubelet's order: containers, then images.
    pub(super) async fn reclaim(&mut self, order: Reclaim) -> Reclaimed {
        let mut done = Reclaimed::default();
        if let Err(error) = self.remove_containers(&order, &mut done).await {
            done.trouble.push(format!("dead containers cannot be removed: {error}"));
        }
        self.remove_logs(&order, &mut done).await;
        if order.images {
            self.remove_images(order.named, GcCause::DiskPressure, &mut done).await;
        }
        done
    }

    pub(super) async fn collect_images(&mut self, named: BTreeSet<String>) -> Reclaimed {
        let mut done = Reclaimed::default();
        let room = match self.image_store(&mut done.trouble).await {
            Some(store) => image_room(store).await.map_err(|why| done.trouble.push(why)).ok(),
            None => None,
        };
        self.remove_images(named, GcCause::Periodic(room), &mut done).await;
        done
    }

    async fn remove_containers(&self, order: &Reclaim, done: &mut Reclaimed) -> Result<(), CriError> {
        let runtime = &self.context.runtime;
        let finished: BTreeSet<_> = order.finished.iter().map(|pod| &pod.uid).collect();
        for c in runtime.list_containers(None).await? {
            let dead = matches!(c.state, ContainerState::Exited | ContainerState::Created);
            if dead && finished.contains(&c.pod.uid) {
                runtime.remove_container(&c.id).await?;
                done.containers += 1;
            }
        }
        for s in runtime.list_sandboxes(None).await? {
            if !s.ready && finished.contains(&s.pod.uid) {
                // Stopped once more: only that gives the address of one that died by itself back.
                runtime.stop_pod_sandbox(&s.id).await?;
                runtime.remove_pod_sandbox(&s.id).await?;
            }
        }
        Ok(())
    }

    /// Of pods that are gone, and of those that have ended.
    async fn remove_logs(&self, order: &Reclaim, done: &mut Reclaimed) {
        done.trouble.extend(self.context.log_keeper.remove_all().await);
        let (context, finished) = (self.context.clone(), order.finished.clone());
        let removed = tokio::task::spawn_blocking(move || {
            let remove = |pod| files::remove_logs(pod, &context.pod_logs_dir).err();
            finished.iter().filter_map(remove).map(|e| e.to_string()).collect::<Vec<_>>()
        });
        match removed.await {
            Ok(failed) => done.trouble.extend(failed),
            Err(error) => done.trouble.push(format!("removing logs failed: {error}")),
        }
    }

    async fn remove_images(&mut self, named: BTreeSet<String>, cause: GcCause, done: &mut Reclaimed) {
        let (images, in_use) = match self.list_images(named).await {
            Ok(listed) => listed,
            Err(error) => {
                done.trouble.push(format!("unused images cannot be told from others: {error}"));
                return;
            }
        };
        let plan = self.records.plan(&self.context.gc_policy, &images, &in_use, cause, clock::now());
        for image in &plan.old {
            self.remove_image(image, true, done).await;
        }
        let before = done.image_bytes;
        for image in &plan.unused {
            self.remove_image(image, false, done).await;
            if done.image_bytes - before >= plan.to_free_bytes {
                return;
            }
        }
        let freed = done.image_bytes - before;
        if matches!(cause, GcCause::Periodic(_)) && freed < plan.to_free_bytes {
            done.trouble.push(format!(
                "imagefs is fuller than imageGCHighThresholdPercent: {} bytes were to be freed, and unused images hold \
                 {freed}; something else fills it",
                plan.to_free_bytes
            ));
        }
    }

    /// Images first: whatever is made from one meanwhile is seen after.
    async fn list_images(&self, named: BTreeSet<String>) -> Result<(Vec<ListedImage>, InUse), CriError> {
        let images = self.context.images.list_images().await?.into_iter().map(listed).collect();
        let mut references = self.context.runtime.images_of_containers().await?;
        references.extend(named);
        let sandbox_image = self.context.runtime.sandbox_image().await?;
        Ok((images, InUse { references, sandbox_image }))
    }

    async fn remove_image(&self, image: &ListedImage, for_age: bool, done: &mut Reclaimed) {
        match self.context.images.remove_image(&image.id).await {
            Ok(()) => {
                tracing::info!(
                    image = image.names.first().unwrap_or(&image.id),
                    bytes = image.size_bytes,
                    "image removed"
                );
                self.context.counts.removed(for_age);
                done.images += 1;
                done.image_bytes += image.size_bytes;
            }
            Err(error) => done.trouble.push(format!("an unused image cannot be removed: {error}")),
        }
    }
}

fn listed(image: Image) -> ListedImage {
    let Image { id, mut tags, digests, size_bytes, pinned, .. } = image;
    tags.extend(digests);
    ListedImage { id, names: tags, size_bytes, pinned }
}
