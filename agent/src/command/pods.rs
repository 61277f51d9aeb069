//! `oomlet pods`: what the agent keeps of its pods on disk, so that it can be read while the agent is down.

use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::{DEFAULT_ROOT_DIR, Output, print_line};
use crate::pod_store::{self, PodStoreError};
use oomlet_core::node::published::SavedPod;
use oomlet_core::pod::qos::QosClass;
use oomlet_core::pod::{Pod, PodRef};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's root directory.
    #[arg(long, default_value = DEFAULT_ROOT_DIR)]
    root_dir: PathBuf,
    /// `json` prints a `v1` PodList, as kubelet's `/pods` does.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    #[error(transparent)]
    Store(#[from] PodStoreError),
    #[error("cannot print the pods: {0}")]
    Print(#[from] std::io::Error),
}

/// # Errors
/// When the pod directory cannot be read or the output fails.
pub fn pods(args: &Args) -> Result<(), PodsError> {
    let (saved, unreadable) = pod_store::load(&pod_store::dir(&args.root_dir))?;
    for line in unreadable {
        eprintln!("oomlet: {line}");
    }
    let text = match args.output {
        Output::Json => {
            let items: Vec<&Pod> = saved.iter().map(|s| &s.pod).collect();
            serde_json::json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})
                .to_string()
        }
        Output::Table => table(&saved).to_string(),
    };
    print_line(&text)?;
    Ok(())
}

fn table(saved: &[SavedPod]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "QOS", "MESSAGE"]);
    let mut rows: Vec<&SavedPod> = saved.iter().collect();
    rows.sort_by_key(|s| (s.pod.metadata.namespace.clone(), s.pod.metadata.name.clone()));
    for row in rows {
        table.add_row(cells(&row.pod));
    }
    table
}

fn cells(pod: &Pod) -> [String; 7] {
    let id = PodRef::of(pod);
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let containers: &[ContainerStatus] = status.container_statuses.as_deref().unwrap_or_default();
    let wanted = pod.spec.as_ref().map_or(0, |s| s.containers.len());
    let ready = containers.iter().filter(|c| c.ready).count();
    let restarts: i32 = containers.iter().map(|c| c.restart_count).sum();
    [
        id.namespace,
        id.name,
        format!("{ready}/{wanted}"),
        short_status(status, containers),
        restarts.to_string(),
        QosClass::of(pod).as_str().to_owned(),
        status.message.clone().unwrap_or_default().trim().to_owned(),
    ]
}

/// What `kubectl get pods` shows as STATUS: the pod's reason, else the first waiting or failed container's, else the
/// phase.
fn short_status(status: &PodStatus, containers: &[ContainerStatus]) -> String {
    let container_reason = || {
        containers.iter().find_map(|c| {
            let state = c.state.as_ref()?;
            let waiting = state.waiting.as_ref().and_then(|w| w.reason.clone());
            let ended = state.terminated.as_ref().filter(|t| t.exit_code != 0).and_then(|t| t.reason.clone());
            waiting.or(ended)
        })
    };
    let phase = || status.phase.clone().unwrap_or_else(|| "Pending".to_owned());
    status.reason.clone().or_else(container_reason).unwrap_or_else(phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_status_is_what_kubectl_shows() {
        let cases = [
            (serde_json::json!({"phase": "Running"}), "Running"),
            (serde_json::json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
            (
                serde_json::json!({"phase": "Running", "containerStatuses": [{"name": "c", "image": "", "imageID": "",
                    "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                "CrashLoopBackOff",
            ),
            (
                serde_json::json!({"phase": "Failed", "containerStatuses": [{"name": "c", "image": "", "imageID": "",
                    "ready": false, "restartCount": 0, "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}),
                "OOMKilled",
            ),
        ];
        for (json, expected) in cases {
            let status: PodStatus = serde_json::from_value(json).unwrap();
            let containers = status.container_statuses.clone().unwrap_or_default();
            assert_eq!(short_status(&status, &containers), expected);
        }
    }
}
