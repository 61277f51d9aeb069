//! What `/metrics` says of the pods: kubelet's gauges of them, made of the pods as they are published and of what the runtime
//! has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Volume;
use prometheus::proto::MetricFamily;

use super::family::{Family, Kind, finish, label};
use crate::node::event::PodSource;
use crate::node::published::{Lifecycle, NodeSnapshot, PublishedPod};

/// What runs, by the runtime's last list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// With a sandbox that is ready.
    pub pods: usize,
    /// By kubelet's word for their state: `created`, `running`, `exited`, `unknown`.
    pub containers: BTreeMap<&'static str, usize>,
    /// Pods that nobody has named.
    pub unnamed: usize,
}

/// `in_cluster`: static pods have mirrors.
#[must_use]
pub fn families(snapshot: &NodeSnapshot, running: &Running, in_cluster: bool) -> Vec<MetricFamily> {
    let gauge = |name, help: &str| Family::new(Kind::Gauge, name, &format!("[ALPHA] {help}"));
    let mut all = vec![gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox").with(
        Vec::new(),
        count(running.pods),
        None,
    )];
    let mut containers = gauge("kubelet_running_containers", "Number of containers currently running");
    for (state, number) in &running.containers {
        containers.push(vec![label("container_state", *state)], count(*number), None);
    }
    all.push(containers);

    let named = |pod: &&PublishedPod| !is_orphan(pod);
    let desired: Vec<&PublishedPod> =
        snapshot.pods.values().chain(snapshot.ended.values()).map(AsRef::as_ref).filter(named).collect();
    let active: Vec<&PublishedPod> =
        snapshot.pods.values().map(AsRef::as_ref).filter(named).filter(|pod| is_active(pod)).collect();
    all.push(by_static(
        gauge(
            "kubelet_desired_pods",
            "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
        ),
        &desired,
    ));
    all.push(by_static(
        gauge(
            "kubelet_active_pods",
            "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
        ),
        &active,
    ));
    let mirrored = snapshot.pods.values().filter(|pod| in_cluster && is_static(pod)).count();
    all.push(
        gauge(
            "kubelet_mirror_pods",
            "The number of mirror pods the kubelet will try to create (one per admitted static pod)",
        )
        .with(Vec::new(), count(mirrored), None),
    );
    all.push(working(snapshot, running.unnamed));
    all.push(volumes(snapshot));
    let ephemeral = snapshot.pods.values().filter_map(|pod| pod.pod.spec.as_ref());
    let ephemeral = ephemeral.map(|spec| spec.ephemeral_containers.as_ref().map_or(0, Vec::len)).sum();
    all.push(
        gauge(
            "kubelet_managed_ephemeral_containers",
            "Current number of ephemeral containers in pods managed by this kubelet.",
        )
        .with(Vec::new(), count(ephemeral), None),
    );
    finish(all)
}

#[allow(clippy::cast_precision_loss, reason = "a node has fewer pods than a double has whole numbers")]
fn count(number: usize) -> f64 {
    number as f64
}

fn is_static(pod: &PublishedPod) -> bool {
    pod.source.is_some_and(PodSource::is_static)
}

/// Nobody names it any more, and it is not that it is to be deleted.
fn is_orphan(pod: &PublishedPod) -> bool {
    let ending = pod.lifecycle != Lifecycle::Sync;
    let failed_or_done = matches!(pod.status.phase.as_deref(), Some("Failed" | "Succeeded"));
    ending && !failed_or_done && pod.pod.metadata.deletion_timestamp.is_none()
}

fn is_active(pod: &PublishedPod) -> bool {
    let done = matches!(pod.status.phase.as_deref(), Some("Failed" | "Succeeded"));
    pod.lifecycle != Lifecycle::Terminated && !done
}

fn by_static(mut family: Family, pods: &[&PublishedPod]) -> Family {
    for (text, is) in [("", false), ("true", true)] {
        let number = pods.iter().filter(|pod| is_static(pod) == is).count();
        family.push(vec![label("static", text)], count(number), None);
    }
    family
}

/// All combinations that kubelet has, those without a pod too.
fn working(snapshot: &NodeSnapshot, unnamed: usize) -> Family {
    let mut family = Family::new(
        Kind::Gauge,
        "kubelet_working_pods",
        "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.",
    );
    for lifecycle in Lifecycle::ALL {
        let mut push = |config: &str, is_static: &str, number: usize| {
            let labels = vec![
                label("config", config),
                label("lifecycle", lifecycle.as_str()),
                label("static", is_static),
            ];
            family.push(labels, count(number), None);
        };
        for (config, orphan) in [("desired", false), ("orphan", true)] {
            for (text, wanted) in [("", false), ("true", true)] {
                let of = |pod: &&std::sync::Arc<PublishedPod>| {
                    pod.lifecycle == lifecycle && is_orphan(pod) == orphan && is_static(pod) == wanted
                };
                push(config, text, snapshot.pods.values().filter(of).count());
            }
        }
        // What nobody has named is on its way out.
        let number = if lifecycle == Lifecycle::Terminating { unnamed } else { 0 };
        push("runtime_only", "unknown", number);
    }
    family
}

/// kubelet's names of the plugins that make a pod's volumes.
#[must_use]
pub fn plugin(volume: &Volume) -> &'static str {
    match volume {
        Volume { empty_dir: Some(_), .. } => "kubernetes.io/empty-dir",
        Volume { host_path: Some(_), .. } => "kubernetes.io/host-path",
        Volume { config_map: Some(_), .. } => "kubernetes.io/configmap",
        Volume { secret: Some(_), .. } => "kubernetes.io/secret",
        Volume { downward_api: Some(_), .. } => "kubernetes.io/downward-api",
        Volume { projected: Some(_), .. } => "kubernetes.io/projected",
        _ => "N/A",
    }
}

/// Wanted are those of pods that are to run, there are those of pods that have a container.
fn volumes(snapshot: &NodeSnapshot) -> Family {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for pod in snapshot.pods.values() {
        let volumes = pod.pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten();
        let begun = pod.status.pod_ip.is_some();
        for volume in volumes {
            let plugin = plugin(volume);
            if is_active(pod) {
                *counts.entry((plugin, "desired_state_of_world")).or_default() += 1;
            }
            if begun && pod.lifecycle != Lifecycle::Terminated {
                *counts.entry((plugin, "actual_state_of_world")).or_default() += 1;
            }
        }
    }
    let mut family = Family::new(
        Kind::Gauge,
        "volume_manager_total_volumes",
        "[ALPHA] Number of volumes in Volume Manager",
    );
    for ((plugin, state), number) in counts {
        family.push(vec![label("plugin_name", plugin), label("state", state)], count(number), None);
    }
    family
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pod::Pod;

    fn pod(uid: &str, source: PodSource, lifecycle: Lifecycle, phase: &str) -> Arc<PublishedPod> {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.to_owned());
        let volume = Volume { empty_dir: Some(Default::default()), ..Volume::default() };
        pod.spec = Some(Default::default());
        if let Some(spec) = &mut pod.spec {
            spec.volumes = Some(vec![volume]);
        }
        let mut published =
            PublishedPod { pod: Arc::new(pod), source: Some(source), lifecycle, ..PublishedPod::default() };
        let status = Arc::make_mut(&mut published.status);
        status.phase = Some(phase.to_owned());
        status.pod_ip = Some("10.0.0.1".to_owned());
        Arc::new(published)
    }

    fn value(families: &[MetricFamily], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = families.iter().find(|f| f.name() == name)?;
        let is = |m: &&prometheus::proto::Metric| {
            m.get_label().iter().map(|l| (l.name(), l.value())).eq(labels.iter().copied())
        };
        Some(family.get_metric().iter().find(is)?.get_gauge().get_value())
    }

    #[test]
    fn pods_by_where_they_come_from_and_how_far_they_are() {
        let mut snapshot = NodeSnapshot::default();
        for pod in [
            pod("a", PodSource::Api, Lifecycle::Sync, "Running"),
            pod("b", PodSource::Api, Lifecycle::Terminated, "Succeeded"),
            pod("c", PodSource::File, Lifecycle::Sync, "Running"),
            // Its manifest has gone.
            pod("d", PodSource::File, Lifecycle::Terminating, "Running"),
        ] {
            snapshot.pods.insert(pod.pod.metadata.uid.as_deref().unwrap_or_default().into(), pod);
        }
        let running =
            Running { pods: 3, containers: BTreeMap::from([("running", 4), ("exited", 1)]), unnamed: 1 };
        let f = families(&snapshot, &running, true);
        let is = |name, labels: &[(&str, &str)], want| {
            assert_eq!(value(&f, name, labels), Some(want), "{name} {labels:?}");
        };
        is("kubelet_running_pods", &[], 3.0);
        is("kubelet_running_containers", &[("container_state", "running")], 4.0);
        is("kubelet_desired_pods", &[("static", "")], 2.0);
        is("kubelet_desired_pods", &[("static", "true")], 1.0);
        is("kubelet_active_pods", &[("static", "")], 1.0);
        is("kubelet_active_pods", &[("static", "true")], 1.0);
        is("kubelet_mirror_pods", &[], 2.0);
        let working = |config, lifecycle, text, want| {
            let labels = [("config", config), ("lifecycle", lifecycle), ("static", text)];
            is("kubelet_working_pods", &labels, want);
        };
        working("desired", "sync", "", 1.0);
        working("desired", "terminated", "", 1.0);
        working("desired", "sync", "true", 1.0);
        working("orphan", "terminating", "true", 1.0);
        working("orphan", "sync", "true", 0.0);
        working("runtime_only", "terminating", "unknown", 1.0);
        let combinations =
            f.iter().find(|f| f.name() == "kubelet_working_pods").map(|f| f.get_metric().len());
        assert_eq!(combinations, Some(15), "as kubelet has them");
        let empty_dir = ("plugin_name", "kubernetes.io/empty-dir");
        is("volume_manager_total_volumes", &[empty_dir, ("state", "desired_state_of_world")], 3.0);
        is("volume_manager_total_volumes", &[empty_dir, ("state", "actual_state_of_world")], 3.0);
    }

    #[test]
    fn without_a_cluster_there_are_no_mirrors() {
        let mut snapshot = NodeSnapshot::default();
        snapshot.pods.insert("c".into(), pod("c", PodSource::File, Lifecycle::Sync, "Running"));
        let f = families(&snapshot, &Running::default(), false);
        assert_eq!(value(&f, "kubelet_mirror_pods", &[]), Some(0.0));
        assert_eq!(value(&f, "kubelet_running_containers", &[("container_state", "running")]), None);
    }
}
