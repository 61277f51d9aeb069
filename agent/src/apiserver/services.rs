//! All Services of the cluster: every container's environment names those of its namespace.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::{Clients, current, retry_delays};

type Name = (String, String);

/// Watches for as long as it is polled. `services` stays `None` until the first list is complete.
pub async fn watch_services(clients: Clients, services: watch::Sender<Option<Arc<Vec<Service>>>>) {
    let api: Api<Service> = Api::all(current(&clients).await);
    // It lists and watches again by itself after an error.
    let mut stream = pin!(watcher(api, watcher::Config::default()).backoff(retry_delays()));
    let (mut known, mut listed): (BTreeMap<Name, Service>, Option<BTreeMap<Name, Service>>) =
        Default::default();
    while let Some(event) = stream.next().await {
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
                continue;
            }
        }
        services.send_replace(Some(Arc::new(known.values().cloned().collect())));
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
