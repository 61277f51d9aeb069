//! The pod sources that the configuration names.

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Setup;
use crate::pod_source::http::{HttpSource, HttpSourceError};
use crate::pod_source::{self, Here, TakenOver};
use oomlet_core::node::event::{Event, PodSource};

/// One task a source.
///
/// # Errors
/// When the request for static pods cannot be made as the configuration says.
pub fn watch(
    setup: &Setup,
    (node_name, taken_over): (&str, TakenOver),
    tracker: &TaskTracker,
    (events, cancel): (&mpsc::Sender<Event>, &CancellationToken),
) -> Result<(), HttpSourceError> {
    let config = &setup.config;
    let here =
        Here { node_name: node_name.to_owned(), in_cluster: setup.cluster.kubeconfig.is_some(), taken_over };
    if let Some(path) = config.static_pod_path.clone() {
        let (here, rescan) = (here.clone(), config.file_check_frequency);
        tracker.spawn(pod_source::watch(path, here, rescan, events.clone(), cancel.clone()));
    }
    if let Some(url) = config.static_pod_url.clone() {
        let source = HttpSource::new(url, &config.static_pod_url_header, here)?;
        tracker.spawn(source.watch(config.http_check_frequency, events.clone(), cancel.clone()));
    }
    if configured(setup).is_empty() {
        tracing::warn!(
            "there is neither --kubeconfig nor staticPodPath nor staticPodURL: there is no source of pods, none is started \
             and what runs is left alone"
        );
    }
    Ok(())
}

/// Those that must have spoken before anything counts as unwanted.
#[must_use]
pub fn configured(setup: &Setup) -> BTreeSet<PodSource> {
    let file = setup.config.static_pod_path.as_ref().map(|_| PodSource::File);
    let http = setup.config.static_pod_url.as_ref().map(|_| PodSource::Http);
    let api = setup.cluster.kubeconfig.as_ref().map(|_| PodSource::Api);
    [file, http, api].into_iter().flatten().collect()
}
