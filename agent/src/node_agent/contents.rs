//! Where ConfigMaps, Secrets, tokens and Services come from, by the configuration.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::apiserver::Clients;
use crate::apiserver::services::{saved_path, watch_services};
use crate::object::api::ApiObjects;
use crate::object::directory::DirectoryObjects;
use crate::object::{NoObjects, ObjectSource};
use crate::token::api::ApiTokens;
use crate::token::{NoTokens, TokenSource};
use crate::trace::journal::Journal;
use crate::volume::VolumeManager;
use crate::volume::contents::Contents;
use oomlet_core::config::Config;
use oomlet_core::node::event::Event;
use oomlet_core::pod::env::EnvFacts;

/// `clients`: of a node of a cluster; all comes from the API server there. Standalone: a directory of manifests, where one is
/// named; no tokens and no Services. Their tasks are started.
///
/// # Errors
/// When the directory is not read to its end for a defect of the agent.
pub async fn make(
    (config, root_dir): (&Config, &Path),
    clients: Option<Clients>,
    node: EnvFacts,
    (volumes, journal): (&Arc<VolumeManager>, &Arc<Journal>),
    (tracker, events, cancel): (&TaskTracker, &mpsc::Sender<Event>, &CancellationToken),
) -> Result<Arc<Contents>, std::io::Error> {
    let directory = config.oomlet.objects.clone();
    let (tell_services, services) = watch::channel(clients.is_none().then(Arc::default));
    let (objects, tokens): (Arc<dyn ObjectSource>, Arc<dyn TokenSource>) = match (clients, directory) {
        (Some(clients), directory) => {
            if directory.is_some() {
                tracing::warn!(
                    "`oomlet.objects` has no effect on a node of a cluster: ConfigMaps and Secrets come from the API server"
                );
            }
            let (watched, cancelled) =
                (watch_services(clients.clone(), tell_services, saved_path(root_dir)), cancel.clone());
            tracker.spawn(async move {
                // Cancel-safe: what is lost is only known for an agent that ends.
                tokio::select! {
                    () = cancelled.cancelled() => {}
                    () = watched => {}
                }
            });
            let objects = ApiObjects::new(clients.clone(), tracker.clone(), cancel.clone());
            (objects, ApiTokens::new(clients))
        }
        (None, None) => (Arc::new(NoObjects::default()), Arc::new(NoTokens)),
        (None, Some(path)) => {
            let opened = tokio::task::spawn_blocking(move || DirectoryObjects::open(path)).await?;
            tracker.spawn(Arc::clone(&opened).run(config.file_check_frequency, cancel.clone()));
            (opened, Arc::new(NoTokens))
        }
    };
    let (volumes, journal) = (Arc::clone(volumes), Arc::clone(journal));
    let contents = Arc::new(Contents::new(objects, tokens, services, volumes, journal, node));
    tracker.spawn(Arc::clone(&contents).run(events.clone(), cancel.clone()));
    Ok(contents)
}
