//! All Services of the cluster: every container's environment names those of its namespace.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::StreamExt as _;

use super::{Clients, current, retry_delays};

type Name = (String, String);

/// Services change rarely, and a burst of changes is written once.
const SAVE_AFTER: Duration = Duration::from_millis(200);
/// How long a first client is waited for.
const SAVED_AFTER: Duration = Duration::from_secs(5);

/// Where the Services are kept for an agent that starts while the API server is away, below the root directory.
#[must_use]
pub fn saved_path(root_dir: &Path) -> PathBuf {
    root_dir.join("oomlet/services.json")
}

/// Watches for as long as it is polled. `services` stays `None` until the first list is complete, or the API server turns
/// out to be away and an earlier run has kept them at `path`.
pub async fn watch_services(
    clients: Clients,
    services: watch::Sender<Option<Arc<Vec<Service>>>>,
    path: PathBuf,
) {
    let saved = read(&path);
    let client = async {
        // A node that has no identity yet has none either.
        match timeout(SAVED_AFTER, current(&clients)).await {
            Ok(client) => client,
            Err(_) => {
                use_saved(&services, &saved);
                current(&clients).await
            }
        }
    };
    let api: Api<Service> = Api::all(client.await);
    // It lists and watches again by itself after an error.
    let mut stream = pin!(watcher(api, watcher::Config::default()).backoff(retry_delays()));
    let (mut known, mut listed): (BTreeMap<Name, Service>, Option<BTreeMap<Name, Service>>) =
        Default::default();
    let mut save_at = None;
    loop {
        let save = async {
            match save_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Both arms are cancel-safe: an event that is not taken now is taken later, and so is the time.
        let event = tokio::select! {
            event = stream.next() => match event {
                Some(event) => event,
                None => return,
            },
            () = save => {
                save_at = None;
                write(&path, known.values().cloned().collect()).await;
                continue;
            }
        };
        match event {
            Ok(Event::Init) => {
                listed = Some(BTreeMap::new());
                continue;
            }
            Ok(Event::InitApply(service)) => {
                let into = listed.get_or_insert_default();
                into.insert(name(&service), bare(service));
                continue;
            }
            Ok(Event::InitDone) => known = listed.take().unwrap_or_default(),
            Ok(Event::Apply(service)) => _ = known.insert(name(&service), bare(service)),
            Ok(Event::Delete(service)) => _ = known.remove(&name(&service)),
            Err(error) => {
                tracing::debug!(%error, "the Services are not watched for a moment");
                use_saved(&services, &saved);
                continue;
            }
        }
        services.send_replace(Some(Arc::new(known.values().cloned().collect())));
        save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }
}

/// Where nothing newer is known.
fn use_saved(services: &watch::Sender<Option<Arc<Vec<Service>>>>, saved: &Option<Arc<Vec<Service>>>) {
    if let Some(saved) = saved {
        services.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(Arc::clone(saved));
            }
            first
        });
    }
}

fn read(path: &Path) -> Option<Arc<Vec<Service>>> {
    let bytes = std::fs::read(path).ok()?;
    let read = serde_json::from_slice(&bytes).inspect_err(|error| {
        tracing::warn!(path = %path.display(), %error, "the Services of an earlier run cannot be read and are left out");
    });
    read.ok().map(Arc::new)
}

async fn write(path: &Path, services: Vec<Service>) {
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let temporary = path.with_extension("tmp");
        // As everything that the agent keeps.
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
        options?.write_all(&serde_json::to_vec(&services)?)?;
        std::fs::rename(&temporary, &path)
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the Services are not kept for a start without the API server");
        }
        Err(error) => tracing::warn!(%error, "the Services are not kept for a start without the API server"),
    }
}

fn name(service: &Service) -> Name {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// What an environment is made from, and no more: a cluster may have thousands.
fn bare(service: Service) -> Service {
    let (namespace, name) = name(&service);
    let mut kept = Service::default();
    (kept.metadata.namespace, kept.metadata.name) = (Some(namespace), Some(name));
    let spec = service.spec.unwrap_or_default();
    let spec = k8s_openapi::api::core::v1::ServiceSpec {
        cluster_ip: spec.cluster_ip,
        ports: spec.ports,
        ..Default::default()
    };
    kept.spec = Some(spec);
    kept
}
