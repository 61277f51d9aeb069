//! One container is stopped, and its pod lives on.

use super::*;
use oomlet_core::pod::ContainerInstance;
use oomlet_core::pod::order::StopContainer;

impl Rig {
    fn stop(&mut self, runtime: &PodRuntimeStatus, name: &str, grace: Duration) -> ContainerInstance {
        let id = runtime.container(name).unwrap().id.clone();
        let container = ContainerInstance { name: name.to_owned(), id };
        let pod = PodRef { uid: uid(), namespace: "default".into(), name: "web".into() };
        let (qos, reason) = (QosClass::Burstable, Reason::MemoryLimitForestalled);
        let order = StopContainer {
            pod,
            qos,
            container: container.clone(),
            init: None,
            pre_stop: None,
            grace,
            reason,
        };
        self.workers.stop_container(order);
        container
    }

    async fn stopped(&mut self) -> (ContainerInstance, Duration, bool) {
        match self.report().await.outcome {
            WorkerOutcome::ContainerStopped { container, took, killed } => (container, took, killed),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn one_container_is_stopped_and_then_restarted() {
    let mut rig = Rig::new();
    let pod = two_containers();
    let before = rig.running(&pod).await;
    let a = rig.stop(&before, "a", Duration::from_secs(30));
    let (container, took, killed) = rig.stopped().await;
    assert_eq!((&container, killed), (&a, false));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let after = rig.running(&pod).await;
    assert_eq!(after.container("a").unwrap().restart_count, 1);
    assert_eq!(after.container("b"), before.container("b"));
    let ended = after.containers.iter().find(|c| c.id == a.id).unwrap();
    assert_eq!((ended.state, ended.exit_code), (ContainerState::Exited, 143));
}

#[tokio::test]
async fn a_stubborn_one_is_killed_alone_when_its_grace_is_over_or_cut() {
    for cut in [false, true] {
        let mut rig = Rig::new();
        let pod = two_containers();
        let before = rig.running(&pod).await;
        rig.fake.lock().unwrap().state().stubborn = true;
        let grace = if cut { Duration::from_secs(30) } else { Duration::from_millis(200) };
        let a = rig.stop(&before, "a", grace);
        rig.until("it is being stopped", |s| s.calls.iter().any(|c| c.starts_with("StopContainer"))).await;
        if cut {
            rig.stop(&before, "a", Duration::ZERO);
        }
        let (container, took, killed) = rig.stopped().await;
        assert_eq!((&container, killed), (&a, true), "cut {cut}");
        assert!(took < Duration::from_secs(15), "{took:?}");
        assert_eq!(rig.calls("kill container"), [format!("kill container {}", a.id)]);
        let fake = rig.fake.lock().unwrap();
        let up: Vec<_> = fake.state().containers.iter().filter(|(_, c)| running(c)).cloned().collect();
        assert!(up.len() == 1 && up[0].1.id != a.id, "{up:?}");
    }
}

/// The worker waits for an image all the while.
#[tokio::test]
async fn a_worker_that_is_busy_does_not_hold_it_up() {
    let mut rig = Rig::new();
    let two = serde_json::json!({"containers": [{"name": "a", "image": "img:1"}, {"name": "b", "image": "other:1"}]});
    let one = serde_json::json!({"containers": [{"name": "a", "image": "img:1"}]});
    let before = rig.running(&pod(one)).await;
    rig.fake.lock().unwrap().hang("PullImage");
    rig.sync(&pod(two));
    rig.until("the pull has begun", |s| s.calls.iter().any(|c| c.starts_with("PullImage"))).await;
    let a = rig.stop(&before, "a", Duration::from_secs(30));
    assert_eq!(rig.stopped().await.0, a);
}

#[tokio::test]
async fn a_runtime_that_is_away_does_not_keep_it_from_being_killed() {
    let mut rig = Rig::new();
    let pod = two_containers();
    let before = rig.running(&pod).await;
    rig.fake.lock().unwrap().fail("StopContainer", Code::Unavailable, "shutting down");
    let a = rig.stop(&before, "a", Duration::from_millis(100));
    let (container, _, killed) = rig.stopped().await;
    assert_eq!((container, killed), (a, true));
    assert_eq!(rig.calls("kill container").len(), 1);
}

/// Of a sync: the pod lives on, and its container does not listen.
#[tokio::test]
async fn a_container_whose_manifest_changed_is_killed_at_the_end_of_its_grace() {
    let mut rig = Rig::new();
    let with_image = |image: &str| {
        pod(serde_json::json!({"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "a", "image": image}, {"name": "b", "image": "img:1"}]}))
    };
    let before = rig.running(&with_image("img:1")).await;
    rig.fake.lock().unwrap().add_image("img:2");
    rig.fake.lock().unwrap().state().stubborn = true;
    let after = rig.running(&with_image("img:2")).await;
    assert_eq!(after.container("b"), before.container("b"));
    assert_ne!(after.container("a").unwrap().id, before.container("a").unwrap().id);
    let killed = format!("kill container {}", before.container("a").unwrap().id);
    assert_eq!(rig.calls("kill"), [killed]);
}
