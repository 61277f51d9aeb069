//! Where ConfigMaps, Secrets, tokens, certificates and Services come from, by the configuration.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::apiserver::Clients;
use crate::apiserver::services::{saved_path, watch_services};
use crate::content_store::ContentStore;
use crate::object::NoObjects;
use crate::object::api::ApiObjects;
use crate::object::directory::DirectoryObjects;
use crate::pod_certificate::NoCertificates;
use crate::pod_certificate::api::ApiCertificates;
use crate::token::NoTokens;
use crate::token::api::ApiTokens;
use crate::trace::journal::Journal;
use crate::trust_bundle::TrustBundleHandle;
use crate::volume::VolumeManager;
use crate::volume::contents::{Contents, Sources};
use oomlet_core::config::Config;
use oomlet_core::node::event::Event;
use oomlet_core::pod::env::EnvFacts;

/// `clients`: of a node of a cluster; all comes from the API server there. Standalone: a directory of manifests, where one is
/// named; no tokens, no certificates and no Services. Their tasks are started.
///
/// # Errors
/// When the directory is not read to its end for a defect of the agent.
pub async fn make(
    (config, root_dir): (&Config, &Path),
    (clients, store): (Option<Clients>, ContentStore),
    node: EnvFacts,
    (volumes, journal): (&Arc<VolumeManager>, &Arc<Journal>),
    (tracker, events, cancel): (&TaskTracker, &mpsc::Sender<Event>, &CancellationToken),
) -> Result<Arc<Contents>, std::io::Error> {
    let directory = config.oomlet.objects.clone();
    let (tell_services, services) = watch::channel(clients.is_none().then(Arc::default));
    let sources = match (clients, directory) {
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
            let tasks = (tracker.clone(), cancel.clone());
            let (trust_bundles, bundles_task) = TrustBundleHandle::new(clients.clone(), store.clone());
            tracker.spawn(bundles_task.run(cancel.clone()));
            Sources {
                objects: ApiObjects::new(clients.clone(), store.clone(), tracker.clone(), cancel.clone()),
                tokens: ApiTokens::new(clients.clone(), store.clone()),
                trust_bundles,
                certificates: ApiCertificates::new(
                    clients,
                    node.node_name.clone(),
                    (store.clone(), Arc::clone(journal)),
                    tasks,
                ),
                services,
                store,
            }
        }
        (None, directory) => Sources {
            objects: match directory {
                None => Arc::new(NoObjects::default()),
                Some(path) => {
                    let opened = tokio::task::spawn_blocking(move || DirectoryObjects::open(path)).await?;
                    tracker.spawn(Arc::clone(&opened).run(config.file_check_frequency, cancel.clone()));
                    opened
                }
            },
            tokens: Arc::new(NoTokens),
            trust_bundles: TrustBundleHandle::standalone(),
            certificates: Arc::new(NoCertificates::default()),
            services,
            store,
        },
    };
    let (volumes, journal) = (Arc::clone(volumes), Arc::clone(journal));
    let contents = Arc::new(Contents::new(sources, volumes, journal, node));
    tracker.spawn(Arc::clone(&contents).run(events.clone(), cancel.clone()));
    Ok(contents)
}
