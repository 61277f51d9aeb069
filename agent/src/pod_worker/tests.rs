mod hooks;
mod logs;
mod probes;
mod restart;
mod stop_container;
mod terminate;

use std::sync::Mutex;

use tokio::time::timeout;
use tonic::Code;

use super::*;
use crate::cgroup::CgroupError;
use crate::content_store::ContentStore;
use crate::cri::container_config::ContainerCgroups;
use crate::cri::fake::{FakeRuntime, running};
use crate::cri::{Connection, ImageClient, RuntimeClient};
use crate::image::ImagePuller;
use crate::object::NoObjects;
use crate::pod_certificate::NoCertificates;
use crate::probe::hook::Hooks;
use crate::runtime_class::RuntimeClasses;
use crate::spans::Spans;
use crate::token::NoTokens;
use crate::trace::journal::Journal;
use crate::trust_bundle::TrustBundleHandle;
use crate::volume::VolumeManager;
use crate::volume::contents::{Contents, Sources};
use oomlet_core::pod::Pod;
use oomlet_core::pod::env::EnvFacts;
use oomlet_core::pod::probe::ProbeResults;
use oomlet_core::pod::qos::{CgroupResources, QosClass};
use oomlet_core::pod::runtime_status::ContainerState;
use oomlet_core::reason::Reason;

/// Cgroups of the fake runtime: killing a pod ends the fake's containers.
struct FakeCgroups(Arc<Mutex<FakeRuntime>>);

impl std::fmt::Debug for FakeCgroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeCgroups")
    }
}

impl PodCgroups for FakeCgroups {
    fn ensure_pod(&self, uid: &PodUid, _: QosClass, _: &CgroupResources) -> Result<String, CgroupError> {
        Ok(format!("/kubepods/pod{uid}"))
    }
    fn remove_pod(&self, _: &PodUid, _: QosClass) -> Result<(), CgroupError> {
        self.0.lock().unwrap().state().calls.push("remove cgroup".into());
        Ok(())
    }
    fn kill_pod(&self, _: &PodUid) -> Result<usize, CgroupError> {
        let fake = self.0.lock().unwrap();
        fake.state().calls.push("kill cgroup".into());
        Ok(fake.kill_all())
    }
    fn kill_container(&self, _: &PodUid, id: &str, _: bool) -> Result<usize, CgroupError> {
        let fake = self.0.lock().unwrap();
        fake.state().calls.push(format!("kill container {id}"));
        Ok(fake.kill(id))
    }
    fn container_processes(&self, _: &PodUid, _: &str) -> Result<BTreeSet<i32>, CgroupError> {
        Ok(BTreeSet::new())
    }
}

struct Rig {
    fake: Arc<Mutex<FakeRuntime>>,
    dir: tempfile::TempDir,
    workers: PodWorkers,
    reports: mpsc::Receiver<Event>,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

impl Rig {
    fn new() -> Rig {
        let fake = FakeRuntime::start();
        fake.add_image("img:1");
        let endpoint = fake.endpoint();
        let fake = Arc::new(Mutex::new(fake));
        let dir = tempfile::tempdir().unwrap();
        let (tx, reports) = mpsc::channel(64);
        let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
        let workers = PodWorkers::new(context(&endpoint, &dir, &fake), tx, tracker.clone(), cancel.clone());
        Rig { fake, dir, workers, reports, cancel, tracker }
    }

    fn sync(&mut self, pod: &Arc<Pod>) {
        self.workers.dispatch(
            uid(),
            WorkOrder::Sync { pod: pod.clone(), probes: ProbeResults::default(), reason: Reason::PodAdded },
        );
    }

    fn terminate(&mut self, pod: &Arc<Pod>, grace: Duration, reason: Reason, remove: bool) {
        self.workers.dispatch(uid(), WorkOrder::Terminate { pod: pod.clone(), grace, reason, remove });
    }

    async fn report(&mut self) -> WorkerReport {
        let event = timeout(Duration::from_secs(10), self.reports.recv()).await.expect("a report in time");
        match event.expect("the worker runs") {
            Event::Worker(report) => report,
            other => panic!("not a report: {other:?}"),
        }
    }

    fn calls(&self, prefix: &str) -> Vec<String> {
        self.fake.lock().unwrap().calls(prefix)
    }

    /// Waits for a condition over the fake's state, at most five seconds.
    async fn until(&self, what: &str, condition: impl Fn(&crate::cri::fake::State) -> bool) {
        let waiting = async {
            while !condition(&self.fake.lock().unwrap().state()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(Duration::from_secs(5), waiting).await.is_err() {
            panic!("not within five seconds: {what}; calls: {:?}", self.calls(""));
        }
    }

    /// The agent is killed and started anew: nothing of the workers' memory is left.
    async fn restart_agent(&mut self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        let endpoint = self.fake.lock().unwrap().endpoint();
        let (tx, reports) = mpsc::channel(64);
        self.reports = reports;
        (self.cancel, self.tracker) = (CancellationToken::new(), TaskTracker::new());
        self.workers = PodWorkers::new(
            context(&endpoint, &self.dir, &self.fake),
            tx,
            self.tracker.clone(),
            self.cancel.clone(),
        );
    }

    async fn running(&mut self, pod: &Arc<Pod>) -> PodRuntimeStatus {
        self.sync(pod);
        let report = self.report().await;
        assert!(matches!(report.outcome, WorkerOutcome::Synced { .. }), "{:?}", report.outcome);
        let runtime = report.runtime.expect("it has read");
        assert!(runtime.any_running());
        runtime
    }
}

fn context(endpoint: &str, dir: &tempfile::TempDir, fake: &Arc<Mutex<FakeRuntime>>) -> Arc<WorkerContext> {
    let connection = Connection::open(endpoint, Duration::from_secs(20)).unwrap();
    let volumes = Arc::new(VolumeManager::new(dir.path()));
    let (_, services) = watch::channel(Some(Arc::default()));
    let (journal, _) = Journal::open(64, None).unwrap();
    let sources = Sources {
        objects: Arc::new(NoObjects::default()),
        tokens: Arc::new(NoTokens),
        trust_bundles: TrustBundleHandle::standalone(),
        certificates: Arc::new(NoCertificates::default()),
        services,
        store: ContentStore::default(),
    };
    let contents = Contents::new(sources, Arc::clone(&volumes), Arc::clone(&journal), EnvFacts::default());
    Arc::new(WorkerContext {
        spans: Spans::default(),
        journal,
        times: crate::instruments::workers::WorkerTimes::default(),
        runtime: RuntimeClient::new(&connection),
        runtime_classes: RuntimeClasses::default(),
        hooks: Hooks::new(RuntimeClient::new(&connection)).unwrap(),
        images: ImagePuller::new(ImageClient::new(&connection), 1, Default::default()),
        cgroups: Arc::new(FakeCgroups(fake.clone())),
        volumes,
        contents: Arc::new(contents),
        root_dir: dir.path().to_owned(),
        pod_logs_dir: dir.path().join("logs"),
        node: EnvFacts::default(),
        memory_capacity_bytes: 1 << 30,
        dns: crate::cri::dns::NodeDns::default(),
        max_crash_backoff: Duration::from_secs(300),
        pids_limit: None,
        seccomp_default: false,
        container_cgroups: ContainerCgroups::default(),
    })
}

fn uid() -> PodUid {
    PodUid::from("u1")
}

fn pod(spec: serde_json::Value) -> Arc<Pod> {
    let metadata = serde_json::json!({"name": "web", "namespace": "default", "uid": "u1"});
    Arc::new(serde_json::from_value(serde_json::json!({"metadata": metadata, "spec": spec})).unwrap())
}

fn two_containers() -> Arc<Pod> {
    pod(serde_json::json!({"terminationGracePeriodSeconds": 30, "containers": [
        {"name": "a", "image": "img:1"}, {"name": "b", "image": "img:1"}]}))
}

#[tokio::test]
async fn a_pod_is_started_once_and_then_left_alone() {
    let mut rig = Rig::new();
    let pod = two_containers();
    let runtime = rig.running(&pod).await;
    let names: Vec<_> = runtime.containers.iter().map(|c| (c.name.as_str(), c.state, c.pid)).collect();
    assert_eq!(
        names,
        [("b", ContainerState::Running, Some(4711)), ("a", ContainerState::Running, Some(4711))]
    );
    assert!(rig.dir.path().join("logs/default_web_u1/a").is_dir());
    assert!(
        std::fs::read_to_string(rig.dir.path().join("pods/u1/etc-hosts")).unwrap().contains("10.0.0.9\tweb")
    );
    rig.running(&pod).await;
    assert_eq!((rig.calls("RunPodSandbox").len(), rig.calls("CreateContainer").len()), (1, 2));
}

#[tokio::test]
async fn a_new_agent_takes_the_running_containers_over() {
    let mut rig = Rig::new();
    let pod = two_containers();
    let ids = |s: &PodRuntimeStatus| s.containers.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
    let before = ids(&rig.running(&pod).await);
    rig.restart_agent().await;
    assert_eq!(ids(&rig.running(&pod).await), before);
    assert_eq!(rig.calls("StopContainer").len(), 0);
}

#[tokio::test]
async fn a_first_read_that_fails_says_nothing_of_the_pod() {
    let mut rig = Rig::new();
    let pod = two_containers();
    let before = rig.running(&pod).await;
    rig.restart_agent().await;
    rig.fake.lock().unwrap().fail("ListPodSandbox", Code::Unavailable, "starting");
    rig.sync(&pod);
    let report = rig.report().await;
    assert!(matches!(report.outcome, WorkerOutcome::Failed { .. }), "{:?}", report.outcome);
    assert_eq!(report.runtime, None);
    rig.fake.lock().unwrap().heal("ListPodSandbox");
    assert_eq!(rig.running(&pod).await, before);
}

#[tokio::test]
async fn an_image_that_is_not_there_keeps_only_its_own_container_waiting() {
    let mut rig = Rig::new();
    let pod = pod(serde_json::json!({"containers": [
        {"name": "a", "image": "absent:1", "imagePullPolicy": "Never"}, {"name": "b", "image": "img:1"}]}));
    rig.sync(&pod);
    let report = rig.report().await;
    let WorkerOutcome::Failed { error, retry_in, waiting, .. } = report.outcome else { panic!("{report:?}") };
    assert!(error.contains("absent:1") && error.contains("import"), "{error}");
    assert_eq!(retry_in, Duration::from_secs(10));
    assert_eq!(
        waiting.iter().map(|w| (w.container.as_str(), w.reason.as_str())).collect::<Vec<_>>(),
        [("a", "ErrImageNeverPull")]
    );
    let runtime = report.runtime.expect("it has read");
    assert!(runtime.container("b").is_some_and(|c| c.state == ContainerState::Running));
}

#[tokio::test]
async fn a_pod_that_ends_by_itself_is_completed_and_its_cgroup_goes() {
    let mut rig = Rig::new();
    let pod =
        pod(serde_json::json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "img:1"}]}));
    rig.running(&pod).await;
    let message = rig.dir.path().join("pods/u1/containers/a/0");
    std::fs::write(message, "all done").unwrap();
    rig.fake.lock().unwrap().exit("a", 0);
    for _ in 0..2 {
        rig.sync(&pod);
        let report = rig.report().await;
        assert!(
            matches!(report.outcome, WorkerOutcome::Completed { succeeded: true }),
            "{:?}",
            report.outcome
        );
        assert_eq!(report.runtime.unwrap().container("a").unwrap().message, "all done");
    }
    assert_eq!(rig.calls("remove cgroup").len(), 3, "once for each QoS class");
    assert_eq!(rig.calls("StopPodSandbox").len(), 1);
}

#[tokio::test]
async fn a_crashing_container_is_restarted_and_then_backs_off() {
    let mut rig = Rig::new();
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "img:1"}]}));
    rig.running(&pod).await;
    rig.fake.lock().unwrap().exit("a", 1);
    let again = rig.running(&pod).await;
    assert_eq!(again.container("a").unwrap().restart_count, 1);
    rig.fake.lock().unwrap().exit("a", 1);
    rig.sync(&pod);
    let report = rig.report().await;
    let WorkerOutcome::Synced { next_sync_in: Some((delay, reason)), waiting, .. } = report.outcome else {
        panic!("{report:?}")
    };
    assert_eq!((reason, waiting[0].reason.as_str()), (Reason::CrashLoopBackOffEnded, "CrashLoopBackOff"));
    assert!(delay > Duration::from_secs(5) && delay <= Duration::from_secs(10), "{delay:?}");
}

#[tokio::test]
async fn a_restart_of_the_runtime_in_the_middle_of_a_sync_heals() {
    let mut rig = Rig::new();
    let pod = two_containers();
    rig.fake.lock().unwrap().fail("CreateContainer", Code::Unavailable, "shutting down");
    rig.sync(&pod);
    let WorkerOutcome::Failed { retry_in, waiting, .. } = rig.report().await.outcome else {
        panic!("it cannot work")
    };
    assert!(retry_in < Duration::from_secs(1), "{retry_in:?}");
    assert_eq!(waiting[0].reason, "CreateContainerError");
    rig.fake.lock().unwrap().heal("CreateContainer");
    let none = timeout(retry_in * 2, rig.reports.recv()).await;
    assert!(none.is_err(), "when it is tried again is the SyncLoop's to say: {none:?}");
    rig.running(&pod).await;
    assert_eq!(rig.calls("RunPodSandbox").len(), 1);
}

#[tokio::test]
async fn a_forgotten_pod_may_come_back_and_its_old_worker_is_gone_first() {
    let mut rig = Rig::new();
    let pod = two_containers();
    for _ in 0..3 {
        rig.running(&pod).await;
        rig.terminate(&pod, Duration::from_secs(30), Reason::PodRemoved, true);
        assert!(matches!(rig.report().await.outcome, WorkerOutcome::Stopped { .. }));
        assert!(matches!(rig.report().await.outcome, WorkerOutcome::Removed));
        rig.workers.forget(&uid());
    }
}

#[tokio::test]
async fn workers_do_not_run_on_the_thread_that_orders_them() {
    let mut rig = Rig::new();
    let pod = two_containers();
    // The SyncLoop's own runtime, which is not driven any more after the order.
    let ordered = std::thread::spawn(move || {
        let own = tokio::runtime::Builder::new_current_thread().build().unwrap();
        own.block_on(async { rig.sync(&pod) });
        rig
    });
    let mut rig = tokio::task::spawn_blocking(|| ordered.join().unwrap()).await.unwrap();
    assert!(matches!(rig.report().await.outcome, WorkerOutcome::Synced { .. }));
}

#[tokio::test]
async fn the_panic_of_a_worker_is_told_as_a_failure() {
    let (tx, mut reports) = mpsc::channel(1);
    watched(async { panic!("a defect") }, uid(), tx.clone()).await;
    let Some(Event::Worker(report)) = reports.recv().await else { panic!("no report") };
    assert!(matches!(report.outcome, WorkerOutcome::Failed { .. }), "{:?}", report.outcome);
    assert_eq!(report.runtime, None, "it says nothing of the pod");
    watched(async {}, uid(), tx).await;
    assert!(reports.recv().await.is_none(), "one that ends has nothing to tell");
}
