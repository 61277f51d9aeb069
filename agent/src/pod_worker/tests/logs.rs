//! Containers' logs as they come and go with them.

use super::*;

fn log(rig: &Rig, container: &str, name: &str) -> std::path::PathBuf {
    rig.dir.path().join("logs/default_web_u1").join(container).join(name)
}

fn there(rig: &Rig, container: &str) -> Vec<String> {
    let mut names = crate::container_log::dir::names(&log(rig, container, "")).unwrap();
    names.sort();
    names
}

#[tokio::test]
async fn a_container_that_the_runtime_has_forgotten_counts_on_after_its_logs() {
    let mut rig = Rig::new();
    let pod = two_containers();
    for name in ["0.log", "3.log", "4.log.20260102-030405.gz"] {
        std::fs::create_dir_all(log(&rig, "a", "")).unwrap();
        std::fs::write(log(&rig, "a", name), name).unwrap();
    }
    let runtime = rig.running(&pod).await;
    let count = |name| runtime.container(name).unwrap().restart_count;
    assert_eq!((count("a"), count("b")), (5, 0));
    assert_eq!(there(&rig, "a"), ["4.log.20260102-030405.gz"], "of the run before it");
}

#[tokio::test]
async fn a_dead_container_s_log_goes_with_it_and_those_of_the_pod_stay() {
    let mut rig = Rig::new();
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "img:1"}]}));
    for run in 0..3 {
        let runtime = rig.running(&pod).await;
        let newest = runtime.container("a").unwrap();
        assert_eq!(newest.restart_count, run);
        assert_eq!(newest.log_path, log(&rig, "a", &format!("{run}.log")).display().to_string());
        for name in [format!("{run}.log"), format!("{run}.log.20260102-030405.gz")] {
            std::fs::write(log(&rig, "a", &name), "x").unwrap();
        }
        if run < 2 {
            let fake = rig.fake.lock().unwrap();
            fake.exit("a", 1);
            // So long ago that no back-off is left.
            let mut state = fake.state();
            state.containers.iter_mut().filter(|(_, c)| !running(c)).for_each(|(_, c)| c.finished_at = 1);
        }
    }
    rig.sync(&pod);
    rig.report().await;
    assert_eq!(there(&rig, "a"), ["1.log", "1.log.20260102-030405.gz", "2.log", "2.log.20260102-030405.gz"]);
    rig.terminate(&pod, Duration::from_secs(30), Reason::PodRemoved, true);
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Stopped { .. }));
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Removed));
    assert!(log(&rig, "a", "2.log").exists(), "kept for a while");
}
