//! Pods are ended.

use super::*;

impl Rig {
    /// While the runtime answers, StopPodSandbox ends the pause process.
    fn both_were_killed_and_their_sandbox_was_not(&self) {
        let calls = self.calls("kill");
        let killed: BTreeSet<&str> =
            calls.iter().map(|c| c.strip_prefix("kill container ").expect(c)).collect();
        assert_eq!(killed.len(), 2, "{calls:?}");
    }
}

#[tokio::test]
async fn termination_stops_in_parallel_and_removes_everything() {
    let mut rig = Rig::new();
    let pod = two_containers();
    rig.running(&pod).await;
    rig.terminate(&pod, Duration::from_secs(30), Reason::PodRemoved, true);
    let report = rig.report().await;
    let WorkerOutcome::Stopped { took, killed: false } = report.outcome else { panic!("{report:?}") };
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Removed));
    let fake = rig.fake.lock().unwrap();
    assert!(fake.state().sandboxes.is_empty() && fake.state().containers.is_empty());
    drop(fake);
    assert!(!rig.dir.path().join("pods/u1").exists());
    assert_eq!(rig.calls("kill cgroup").len(), 0);
}

#[tokio::test]
async fn a_pod_with_nothing_in_the_runtime_is_removed_at_once() {
    let mut rig = Rig::new();
    rig.terminate(&two_containers(), Duration::from_secs(30), Reason::OrphanedPod, true);
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Stopped { killed: false, .. }));
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Removed));
}

#[tokio::test]
async fn without_removal_the_dead_containers_and_logs_stay_until_it_is_ordered() {
    let mut rig = Rig::new();
    let pod = two_containers();
    rig.running(&pod).await;
    rig.terminate(&pod, Duration::from_secs(1), Reason::Evicted, false);
    let report = rig.report().await;
    assert!(matches!(report.outcome, WorkerOutcome::Stopped { .. }));
    assert_eq!(report.runtime.unwrap().containers.len(), 2);
    // What may hold memory or disk goes at once.
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::CleanedUp));
    assert!(rig.calls("").iter().any(|c| c == "remove cgroup"));
    assert_eq!(rig.calls("StopPodSandbox").len(), 1);
    assert!(!rig.dir.path().join("pods/u1").exists());
    rig.sync(&pod);
    rig.terminate(&pod, Duration::from_secs(30), Reason::PodRemoved, true);
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Removed), "Stopped is told once");
    assert_eq!(rig.calls("CreateContainer").len(), 2, "a sync does not bring an ending pod back");
}

#[tokio::test]
async fn a_grace_cut_short_while_stopping_kills_at_once() {
    let mut rig = Rig::new();
    let pod = two_containers();
    rig.running(&pod).await;
    rig.fake.lock().unwrap().state().stubborn = true;
    rig.terminate(&pod, Duration::from_secs(30), Reason::Evicted, false);
    rig.until("both are being stopped", |s| {
        s.calls.iter().filter(|c| c.starts_with("StopContainer")).count() == 2
    })
    .await;
    let cut = std::time::Instant::now();
    rig.terminate(&pod, Duration::ZERO, Reason::GraceCutShort, false);
    let report = rig.report().await;
    assert!(matches!(report.outcome, WorkerOutcome::Stopped { killed: true, .. }), "{:?}", report.outcome);
    assert!(cut.elapsed() < Duration::from_secs(15), "not the 30 s of the grace: {:?}", cut.elapsed());
    rig.both_were_killed_and_their_sandbox_was_not();
}

#[tokio::test]
async fn the_worker_itself_kills_when_the_grace_ends() {
    let mut rig = Rig::new();
    let pod = two_containers();
    rig.running(&pod).await;
    rig.fake.lock().unwrap().state().stubborn = true;
    rig.terminate(&pod, Duration::from_millis(200), Reason::Evicted, false);
    let report = rig.report().await;
    let WorkerOutcome::Stopped { took, killed: true } = report.outcome else { panic!("{report:?}") };
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(15), "{took:?}");
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::CleanedUp));
    rig.both_were_killed_and_their_sandbox_was_not();
    assert_eq!(rig.calls("StopPodSandbox").len(), 1);
}

/// Its start is not answered, and its grace is over.
#[tokio::test]
async fn a_container_that_is_being_started_is_killed_alone() {
    let mut rig = Rig::new();
    rig.fake.lock().unwrap().hang("StartContainer");
    let pod = two_containers();
    rig.sync(&pod);
    rig.until("its start is under way", |s| s.calls.iter().any(|c| c.starts_with("StartContainer"))).await;
    rig.terminate(&pod, Duration::from_millis(50), Reason::Evicted, false);
    rig.until("it was killed", |s| s.calls.iter().any(|c| c.starts_with("kill container a"))).await;
    assert_eq!(rig.calls("kill cgroup"), [""; 0], "the runtime answers");
}

/// Sidecars last, each with what the ones before have left of the grace.
#[tokio::test]
async fn sidecars_are_signalled_after_the_containers_and_killed_with_them() {
    let mut rig = Rig::new();
    let pod = pod(serde_json::json!({
        "initContainers": [{"name": "s", "image": "img:1", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "img:1"}]}));
    rig.running(&pod).await;
    rig.terminate(&pod, Duration::from_secs(30), Reason::Evicted, false);
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Stopped { killed: false, .. }));
    let order: Vec<String> = rig.calls("StopContainer").iter().map(|c| c[14..15].to_owned()).collect();
    assert_eq!(order, ["a", "s"]);

    let mut rig = Rig::new();
    rig.running(&pod).await;
    rig.fake.lock().unwrap().state().stubborn = true;
    rig.terminate(&pod, Duration::from_millis(200), Reason::Evicted, false);
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Stopped { killed: true, .. }));
    rig.both_were_killed_and_their_sandbox_was_not();
    let signalled = |c: &&String| c.starts_with("StopContainer s") && !c.ends_with(" 0");
    assert_eq!(rig.calls("").iter().filter(signalled).count(), 0, "its turn had not come");
}

#[tokio::test]
async fn a_kill_that_found_nobody_was_not_needed() {
    let mut rig = Rig::new();
    let pod = two_containers();
    rig.running(&pod).await;
    rig.fake.lock().unwrap().state().stubborn = true;
    rig.fake.lock().unwrap().state().unnoticed_exit = Some(0);
    rig.terminate(&pod, Duration::from_millis(200), Reason::Evicted, false);
    let report = rig.report().await;
    // Nothing but the SIGKILL at the end of the grace period brings its end to light.
    let WorkerOutcome::Stopped { took, killed: false } = report.outcome else { panic!("{report:?}") };
    assert!(took >= Duration::from_millis(200), "{took:?}");
}

#[tokio::test]
async fn a_termination_interrupts_a_pull() {
    let mut rig = Rig::new();
    rig.fake.lock().unwrap().hang("PullImage");
    let pod = pod(
        serde_json::json!({"containers": [{"name": "a", "image": "img:1"}, {"name": "b", "image": "other:1"}]}),
    );
    rig.sync(&pod);
    rig.until("the pull has begun", |s| s.calls.iter().any(|c| c.starts_with("PullImage"))).await;
    rig.terminate(&pod, Duration::from_secs(30), Reason::PodRemoved, true);
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Stopped { killed: false, .. }));
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Removed));
    assert!(rig.calls("StopContainer a").len() == 1, "{:?}", rig.calls("StopContainer"));
}

/// The runtime is away, and nobody orders it again.
#[tokio::test]
async fn the_sigkill_of_a_termination_waits_for_no_other_order() {
    let mut rig = Rig::new();
    let pod = two_containers();
    rig.running(&pod).await;
    rig.fake.lock().unwrap().fail("StopContainer", Code::Unavailable, "shutting down");
    rig.terminate(&pod, Duration::from_millis(600), Reason::Evicted, false);
    let report = rig.report().await;
    assert!(matches!(report.outcome, WorkerOutcome::Failed { .. }), "{:?}", report.outcome);
    assert_eq!(rig.calls("kill"), [""; 0], "they have their grace");
    rig.until("killed", |s| !s.containers.iter().any(|(_, c)| running(c))).await;
    rig.both_were_killed_and_their_sandbox_was_not();
}

#[tokio::test]
async fn the_kill_does_not_need_the_runtime() {
    let mut rig = Rig::new();
    let pod = two_containers();
    rig.running(&pod).await;
    for call in ["StopContainer", "ListContainers", "ListPodSandbox"] {
        rig.fake.lock().unwrap().fail(call, Code::Unavailable, "shutting down");
    }
    rig.terminate(&pod, Duration::ZERO, Reason::ForecastOutOfMemory, false);
    let report = rig.report().await;
    assert!(matches!(report.outcome, WorkerOutcome::Failed { .. }), "{:?}", report.outcome);
    rig.until("killed", |s| s.calls.iter().any(|c| c == "kill cgroup")).await;
    rig.until("dead", |s| !s.containers.iter().any(|(_, c)| running(c))).await;
    for call in ["StopContainer", "ListContainers", "ListPodSandbox"] {
        rig.fake.lock().unwrap().heal(call);
    }
    loop {
        rig.terminate(&pod, Duration::ZERO, Reason::ForecastOutOfMemory, false);
        match rig.report().await.outcome {
            WorkerOutcome::Failed { .. } => {}
            WorkerOutcome::Stopped { killed, .. } => break assert!(killed),
            other => panic!("{other:?}"),
        }
    }
}
