//! Hooks after a container's start and before its end.

use super::*;
use serde_json::{Value, json};

fn with_hooks(lifecycle: Value, sidecar_lifecycle: Value) -> Arc<Pod> {
    pod(json!({"terminationGracePeriodSeconds": 30,
        "initContainers": [{"name": "s", "image": "img:1", "restartPolicy": "Always", "lifecycle": sidecar_lifecycle}],
        "containers": [{"name": "a", "image": "img:1", "lifecycle": lifecycle}]}))
}

fn exec(command: &str) -> Value {
    json!({"exec": {"command": [command]}})
}

impl Rig {
    fn answer(&self, exit_code: i32, stdout: &str) {
        let stdout = stdout.as_bytes().to_vec();
        let answer = k8s_cri::v1::ExecSyncResponse { exit_code, stdout, ..Default::default() };
        self.fake.lock().unwrap().state().exec_answer = answer;
    }

    /// Of the calls of these kinds the kinds alone, and the container.
    fn order(&self, kinds: &[&str]) -> Vec<String> {
        let first_two = |call: &String| call.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let is_meant = |call: &&String| kinds.iter().any(|kind| call.starts_with(kind));
        self.calls("").iter().filter(is_meant).map(first_two).collect()
    }

    fn told(&self, reason: Reason) -> usize {
        let (records, _) = self.workers.context.journal.follow(0);
        records.iter().filter(|record| record.reason == reason).count()
    }
}

#[tokio::test]
async fn a_container_whose_post_start_hook_fails_is_stopped_and_starts_again() {
    let mut rig = Rig::new();
    let pod = with_hooks(json!({"postStart": exec("hook"), "preStop": exec("bye")}), Value::Null);
    rig.answer(7, "no\n");
    rig.sync(&pod);
    let report = rig.report().await;
    let WorkerOutcome::Failed { waiting, .. } = report.outcome else { panic!("{report:?}") };
    assert_eq!((waiting[0].container.as_str(), waiting[0].reason.as_str()), ("a", "PostStartHookError"));
    assert_eq!(
        waiting[0].message,
        "Exec lifecycle hook ([hook]) for Container \"a\" in Pod \"web_default(u1)\" failed - error: command 'hook' \
         exited with 7: , message: \"no\\n\""
    );
    let ended = report.runtime.unwrap();
    assert_eq!(ended.container("a").unwrap().state, ContainerState::Exited);
    assert_eq!(ended.container("s").unwrap().state, ContainerState::Running);
    let id = &ended.container("a").unwrap().id;
    let hook = format!("ExecSync {id}");
    assert_eq!(
        rig.order(&["ExecSync", "StopContainer"]),
        [hook.clone(), hook, format!("StopContainer {id}")]
    );
    assert_eq!((rig.told(Reason::FailedPostStartHook), rig.told(Reason::FailedPreStopHook)), (1, 1));
    assert_eq!(rig.told(Reason::Failed), 0, "it is told once");
    rig.answer(0, "");
    let again = rig.running(&pod).await;
    assert_eq!(again.container("a").unwrap().restart_count, 1);
}

#[tokio::test]
async fn a_container_does_not_run_until_its_post_start_hook_is_done() {
    let mut rig = Rig::new();
    let pod = with_hooks(json!({"postStart": exec("hook")}), Value::Null);
    rig.fake.lock().unwrap().hang("ExecSync");
    rig.sync(&pod);
    rig.until("the hook", |s| s.calls.iter().any(|c| c.starts_with("ExecSync"))).await;
    assert!(rig.reports.try_recv().is_err(), "nothing is told yet");
    // A deletion does not wait for it.
    rig.terminate(&pod, Duration::from_secs(30), Reason::PodRemoved, true);
    let report = rig.report().await;
    assert!(matches!(report.outcome, WorkerOutcome::Stopped { killed: false, .. }), "{:?}", report.outcome);
}

#[tokio::test]
async fn hooks_come_before_all_signals_and_sidecars_wait_for_their_turn() {
    let mut rig = Rig::new();
    let pod = with_hooks(json!({"preStop": exec("bye")}), json!({"preStop": exec("bye")}));
    let running = rig.running(&pod).await;
    let id = |name: &str| running.container(name).unwrap().id.clone();
    rig.terminate(&pod, Duration::from_secs(30), Reason::PodRemoved, true);
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Signalled), "the hooks have begun");
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Stopped { killed: false, .. }));
    let mut order = rig.order(&["ExecSync", "StopContainer"]);
    order[..2].sort();
    let [a, s] = [id("a"), id("s")];
    let expected = [
        format!("ExecSync {a}"),
        format!("ExecSync {s}"),
        format!("StopContainer {a}"),
        format!("StopContainer {s}"),
    ];
    assert_eq!(order, expected);
    assert!(
        rig.calls("ExecSync").iter().all(|call| call.ends_with(" 0 bye")),
        "without a time limit of its own"
    );
}

#[tokio::test]
async fn a_hook_is_spent_from_the_grace_and_two_seconds_are_left() {
    let mut rig = Rig::new();
    let pod = with_hooks(json!({"preStop": exec("bye")}), Value::Null);
    let running = rig.running(&pod).await;
    rig.fake.lock().unwrap().hang("ExecSync");
    rig.terminate(&pod, Duration::from_millis(300), Reason::Evicted, false);
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Signalled | WorkerOutcome::Stopped { .. }));
    rig.until("the stop", |s| s.calls.iter().any(|c| c.starts_with("StopContainer a"))).await;
    let a = &running.container("a").unwrap().id;
    // And two more until the runtime's own SIGKILL.
    assert_eq!(rig.calls("StopContainer a"), [format!("StopContainer {a} 4")]);
    assert_eq!(rig.told(Reason::FailedPreStopHook), 1);
}

#[tokio::test]
async fn a_grace_that_is_cut_cuts_the_hook() {
    let mut rig = Rig::new();
    let pod = with_hooks(json!({"preStop": {"sleep": {"seconds": 60}}}), Value::Null);
    rig.running(&pod).await;
    rig.terminate(&pod, Duration::from_secs(30), Reason::Evicted, false);
    let signalled = rig.report().await.outcome;
    assert!(
        matches!(signalled, WorkerOutcome::Signalled),
        "whoever is held runs for its hook: {signalled:?}"
    );
    assert_eq!(rig.calls("StopContainer a").len(), 0);
    rig.terminate(&pod, Duration::ZERO, Reason::GraceCutShort, false);
    let WorkerOutcome::Stopped { killed, took } = rig.report().await.outcome else {
        panic!("it has not stopped")
    };
    assert!(killed && took < Duration::from_secs(2), "{took:?}");
    assert!(
        rig.calls("StopContainer a").iter().all(|call| call.ends_with(" 0")),
        "it is only told of the end"
    );
}

#[tokio::test]
async fn hooks_by_http_have_any_answer_for_a_success() {
    let mut rig = Rig::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let get = json!({"httpGet": {"host": "127.0.0.1", "port": port, "path": "/up?now"}});
    let pod = with_hooks(json!({"postStart": get}), Value::Null);
    rig.running(&pod).await;
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("GET /up?now HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("user-agent: kube-lifecycle/1.37\r\n"), "{asked}");
}
