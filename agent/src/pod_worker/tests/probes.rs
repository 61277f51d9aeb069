//! A container that has failed a probe.

use super::*;
use oomlet_core::pod::probe::ProbeKind;

#[tokio::test]
async fn a_failed_container_ends_within_its_own_grace_and_starts_again() {
    let mut rig = Rig::new();
    let liveness = serde_json::json!({"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": 5});
    let pod = pod(serde_json::json!({"terminationGracePeriodSeconds": 600, "restartPolicy": "OnFailure",
        "containers": [{"name": "a", "image": "img:1", "livenessProbe": liveness}, {"name": "b", "image": "img:1"}]}));
    let before = rig.running(&pod).await;
    let failed = before.container("a").unwrap().id.clone();
    let mut probes = ProbeResults::default();
    probes.note(&failed, ProbeKind::Liveness, false);
    let order = || WorkOrder::Sync {
        pod: Arc::clone(&pod),
        probes: probes.clone(),
        reason: Reason::LivenessProbeFailed,
    };
    rig.workers.dispatch(uid(), order());
    let report = rig.report().await;
    let WorkerOutcome::Synced { next_sync_in, .. } = report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(next_sync_in, Some((Duration::ZERO, Reason::LivenessProbeFailed)));
    assert_eq!(report.runtime.unwrap().container("a").unwrap().state, ContainerState::Exited);
    // The runtime's own SIGKILL would come two seconds after the agent's.
    let stops = rig.calls("StopContainer");
    assert!(stops.iter().all(|c| *c == format!("StopContainer {failed} 7")) && stops.len() == 1, "{stops:?}");
    rig.workers.dispatch(uid(), order());
    let after = rig.report().await.runtime.unwrap();
    let a = after.container("a").unwrap();
    assert_eq!((a.state, a.restart_count), (ContainerState::Running, 1));
    assert_eq!(after.container("b"), before.container("b"));
}
