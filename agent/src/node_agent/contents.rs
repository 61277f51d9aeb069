//! Where ConfigMaps, Secrets, tokens and Services come from, by the configuration.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Setup;
use crate::object::directory::DirectoryObjects;
use crate::object::{NoObjects, ObjectSource};
use crate::token::NoTokens;
use crate::volume::VolumeManager;
use crate::volume::contents::Contents;
use oomlet_core::node::event::Event;
use oomlet_core::pod::env::EnvFacts;

/// Standalone: a directory of manifests, where one is named; no tokens and no Services. Its tasks are started.
///
/// # Errors
/// When the directory is not read to its end for a defect of the agent.
pub async fn make(
    setup: &Setup,
    node: EnvFacts,
    volumes: &Arc<VolumeManager>,
    (tracker, events, cancel): (&TaskTracker, &mpsc::Sender<Event>, &CancellationToken),
) -> Result<Arc<Contents>, std::io::Error> {
    let config = &setup.config;
    let objects: Arc<dyn ObjectSource> = match config.oomlet.objects.clone() {
        None => Arc::new(NoObjects::default()),
        Some(path) => {
            let opened = tokio::task::spawn_blocking(move || DirectoryObjects::open(path)).await?;
            tracker.spawn(Arc::clone(&opened).run(config.file_check_frequency, cancel.clone()));
            opened
        }
    };
    // The sender may go: what it said stays.
    let (_, services) = watch::channel(Some(Arc::default()));
    let contents = Contents::new(objects, Arc::new(NoTokens), services, Arc::clone(volumes), node);
    let contents = Arc::new(contents);
    tracker.spawn(Arc::clone(&contents).run(events.clone(), cancel.clone()));
    Ok(contents)
}
