use std::collections::BTreeSet;
use std::fs;

use k8s_cri::v1 as cri;
use tokio::sync::watch;
use tonic::Code;

use super::*;
use crate::cri::Connection;
use crate::cri::fake::{FakeRuntime, labels};
use oomlet_core::eviction::resources::reading::{QueriedPod, Reclaim, Reclaimed};
use oomlet_core::eviction::resources::{PodScope, ResourceQuery, ResourceReading};
use oomlet_core::pod::PodRef;

/// Below a directory of the test's own.
struct OwnPids(PathBuf);

impl PidsCgroups for OwnPids {
    fn pids_dir(&self, uid: &PodUid, _: QosClass) -> Option<PathBuf> {
        Some(self.0.join(uid.as_str()))
    }
}

struct Rig {
    fake: FakeRuntime,
    dir: tempfile::TempDir,
    handle: NodeResources,
    answers: mpsc::Receiver<Event>,
    cancel: CancellationToken,
}

impl Rig {
    fn new(min_age: Duration) -> Rig {
        let fake = FakeRuntime::start();
        let dir = tempfile::tempdir().unwrap();
        fake.state().image_store = Some(dir.path().to_string_lossy().into_owned());
        let connection = Connection::open(&fake.endpoint(), Duration::from_secs(5)).unwrap();
        let context = ResourceContext {
            runtime: RuntimeClient::new(&connection),
            images: ImageClient::new(&connection),
            cgroups: Arc::new(OwnPids(dir.path().join("pids"))),
            volumes: Arc::new(VolumeManager::new(dir.path())),
            root_dir: dir.path().to_owned(),
            pod_logs_dir: dir.path().join("logs"),
            log_keeper: Arc::new(LogKeeper::new(
                RuntimeClient::new(&connection),
                watch::channel(Arc::default()).1,
                dir.path().join("logs"),
                Duration::ZERO,
            )),
            // The test's machine may be as full as it likes.
            gc_policy: GcPolicy { min_age, high_percent: 100, ..GcPolicy::default() },
            counts: Default::default(),
        };
        let (events, answers) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let (handle, task) = NodeResources::new(context, events, cancel.clone());
        tokio::spawn(task);
        Rig { fake, dir, handle, answers, cancel }
    }

    async fn answer(&mut self, order: ResourceOrder) -> ResourceAnswer {
        assert!(self.handle.order(order).is_none(), "the task is free");
        let answer = tokio::time::timeout(Duration::from_secs(20), self.answers.recv()).await;
        match answer.expect("an answer in time").expect("the task runs") {
            Event::Resources(answer) => answer,
            other => panic!("not an answer: {other:?}"),
        }
    }

    async fn read(&mut self, pods: &[&str], scope: PodScope, writable_layers: bool) -> ResourceReading {
        let queried = |name: &&str| QueriedPod {
            pod: pod(name),
            qos: QosClass::BestEffort,
            empty_dirs: vec!["data".to_owned()],
        };
        let query = ResourceQuery { scope, writable_layers, pods: pods.iter().map(queried).collect() };
        match self.answer(ResourceOrder::Read(query)).await {
            ResourceAnswer::Reading(reading) => *reading,
            other => panic!("not a reading: {other:?}"),
        }
    }

    async fn reclaim(&mut self, order: ResourceOrder) -> Reclaimed {
        match self.answer(order).await {
            ResourceAnswer::Reclaimed(done) => done,
            other => panic!("not a clean-up: {other:?}"),
        }
    }

    /// A container of the pod `default/<uid>`, with its sandbox.
    fn container(&self, uid: &str, attempt: u32, image: &str, running: bool, written: u64) {
        let id = format!("{uid}-{attempt}");
        let state = if running {
            (cri::ContainerState::ContainerRunning, cri::PodSandboxState::SandboxReady)
        } else {
            (cri::ContainerState::ContainerExited, cri::PodSandboxState::SandboxNotready)
        };
        let mut fake = self.fake.state();
        fake.written.insert(id.clone(), written);
        let container = cri::ContainerStatus {
            id,
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt }),
            image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
            labels: labels(uid, "c"),
            state: state.0.into(),
            ..Default::default()
        };
        let sandbox = format!("sandbox-{uid}");
        fake.containers.push((sandbox.clone(), container));
        if !fake.sandboxes.iter().any(|s| s.id == sandbox) {
            let (labels, state) = (labels(uid, ""), state.1.into());
            fake.sandboxes.push(cri::PodSandboxStatus { id: sandbox, labels, state, ..Default::default() });
        }
    }

    fn images(&self, names: &[&str]) {
        for name in names {
            self.fake.add_image(name);
        }
        for image in &mut self.fake.state().images {
            image.size = 100;
        }
    }

    fn ids(&self) -> Vec<String> {
        self.fake.state().images.iter().map(|i| i.id.trim_start_matches("sha256:").to_owned()).collect()
    }

    fn write(&self, path: &str, kib: usize) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; kib << 10]).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn pod(name: &str) -> PodRef {
    PodRef { uid: name.into(), namespace: "default".into(), name: name.into() }
}

#[tokio::test]
async fn what_pods_use_and_what_the_node_has() {
    let mut rig = Rig::new(Duration::ZERO);
    rig.container("a", 0, "i", false, 500);
    rig.container("a", 1, "i", true, 7000);
    rig.write("pods/a/volumes/kubernetes.io~empty-dir/data/file", 64);
    rig.write("pods/a/volumes/kubernetes.io~empty-dir/other/file", 64);
    rig.write("logs/default_a_a/c/1.log", 32);
    rig.write("pids/a/pids.current", 0);
    fs::write(rig.dir.path().join("pids/a/pids.current"), "12\n").unwrap();

    let reading = rig.read(&["a", "none"], PodScope::All, true).await;
    assert_eq!(reading.trouble, [""; 0]);
    let used = &reading.pods[&PodUid::from("a")];
    let kib = |disk: oomlet_core::eviction::resources::reading::DiskUse| disk.bytes >> 10;
    assert!((64..96).contains(&kib(used.volumes["data"])), "{used:?}");
    assert!(
        (32..64).contains(&kib(used.logs)) && (32..64).contains(&kib(used.containers["c"].logs)),
        "{used:?}"
    );
    assert_eq!((used.containers["c"].writable_layer.bytes, used.dead_layers.bytes), (7000, 500));
    assert_eq!(used.processes, Some(12));
    let none = &reading.pods[&PodUid::from("none")];
    assert_eq!((none.ephemeral_storage().bytes, none.processes), (0, None));

    let (nodefs, imagefs) = (reading.nodefs.unwrap(), reading.imagefs.unwrap());
    assert!(nodefs.available_bytes > 0 && nodefs.available_bytes <= nodefs.capacity_bytes);
    assert_eq!(nodefs.capacity_bytes, imagefs.capacity_bytes);
    assert!(reading.shared);
    let pids = reading.pids.unwrap();
    assert!(pids.tasks > 0 && pids.tasks < pids.limit, "{pids:?}");

    // On another file system, as the runtime tells it.
    let mut rig = Rig::new(Duration::ZERO);
    rig.fake.state().image_store = Some("/proc".into());
    let reading = rig.read(&[], PodScope::WithLimits, false).await;
    assert!(!reading.shared && reading.imagefs.is_some());
    assert_eq!(rig.fake.calls("ListContainerStats").len(), 0, "nobody asked for it");
}

#[tokio::test]
async fn a_runtime_that_does_not_answer_keeps_nobody_from_reading_disks() {
    let mut rig = Rig::new(Duration::ZERO);
    rig.fake.fail("ImageFsInfo", Code::Unavailable, "shutting down");
    rig.fake.fail("ListContainerStats", Code::Unavailable, "shutting down");
    let reading = rig.read(&["a"], PodScope::All, true).await;
    assert!(reading.nodefs.is_some() && reading.imagefs.is_none() && reading.pids.is_some());
    assert_eq!(reading.trouble.len(), 2, "{:?}", reading.trouble);
    assert!(reading.trouble[0].contains("imagefs is not known"), "{:?}", reading.trouble);
    rig.fake.heal("ImageFsInfo");
    let reading = rig.read(&["a"], PodScope::All, false).await;
    assert!(reading.imagefs.is_some() && reading.trouble.is_empty(), "{:?}", reading.trouble);
}

#[tokio::test]
async fn what_ended_pods_leave_goes_and_nothing_else() {
    let mut rig = Rig::new(Duration::ZERO);
    rig.images(&["used", "dead", "free"]);
    rig.container("ended", 0, "dead", false, 0);
    rig.container("lives", 0, "used", false, 0);
    rig.container("lives", 1, "used", true, 0);
    rig.write("logs/default_ended_ended/c/0.log", 1);
    rig.write("logs/default_lives_lives/c/1.log", 1);
    let reclaim = |images, named: &[&str]| {
        ResourceOrder::Reclaim(Reclaim {
            finished: vec![pod("ended"), pod("gone")],
            images,
            named: named.iter().map(|n| (*n).to_owned()).collect(),
        })
    };
    let done = rig.reclaim(reclaim(false, &[])).await;
    assert_eq!(done, Reclaimed { containers: 1, ..Reclaimed::default() });
    assert_eq!(rig.fake.calls("RemoveContainer"), ["RemoveContainer ended-0"]);
    assert_eq!(rig.fake.calls("RemovePodSandbox"), ["RemovePodSandbox sandbox-ended"]);
    assert!(!rig.dir.path().join("logs/default_ended_ended").exists());
    assert!(rig.dir.path().join("logs/default_lives_lives/c/1.log").exists());
    assert_eq!(rig.fake.calls("RemoveImage"), [""; 0]);

    // Its image goes with it, once it may; a pod that is to run keeps its own.
    let done = rig.reclaim(reclaim(true, &["free"])).await;
    assert_eq!((done.containers, done.images, done.image_bytes), (0, 1, 100));
    assert_eq!(rig.ids(), ["used", "free"]);
}

#[tokio::test]
async fn images_that_are_new_pinned_or_the_sandboxes_stay() {
    let mut rig = Rig::new(Duration::from_secs(3600));
    let pressure =
        || ResourceOrder::Reclaim(Reclaim { finished: Vec::new(), images: true, named: BTreeSet::new() });
    // What is there at the first look is old enough; these come after it.
    assert_eq!(rig.reclaim(pressure()).await, Reclaimed::default());
    rig.images(&["a", "b"]);
    assert_eq!(rig.reclaim(pressure()).await, Reclaimed::default());
    assert_eq!(rig.ids(), ["a", "b"]);

    let mut rig = Rig::new(Duration::ZERO);
    rig.images(&["pinned", "sandbox", "c"]);
    rig.fake.state().images[0].pinned = true;
    rig.fake.state().sandbox_image = Some("sandbox".into());
    rig.fake.fail("RemoveImage", Code::Internal, "in use");
    let done = rig.reclaim(pressure()).await;
    assert_eq!((done.images, done.trouble.len()), (0, 1), "{done:?}");
    rig.fake.heal("RemoveImage");
    assert_eq!(rig.reclaim(pressure()).await.images, 1);
    assert_eq!(rig.ids(), ["pinned", "sandbox"]);

    // Without the lists nothing can be told of an image.
    rig.images(&["d"]);
    rig.fake.fail("ListContainers", Code::Unavailable, "shutting down");
    let done = rig.reclaim(ResourceOrder::CollectImages { named: BTreeSet::new() }).await;
    assert_eq!((done.images, done.trouble.len()), (0, 1), "{done:?}");
    // The disk is not to be kept below any mark.
    rig.fake.heal("ListContainers");
    assert_eq!(
        rig.reclaim(ResourceOrder::CollectImages { named: BTreeSet::new() }).await,
        Reclaimed::default()
    );
}

#[tokio::test]
async fn an_order_that_is_not_taken_is_answered_at_once() {
    let rig = Rig::new(Duration::ZERO);
    rig.cancel.cancel();
    rig.handle.orders.closed().await;
    let order = ResourceOrder::CollectImages { named: BTreeSet::new() };
    assert!(matches!(rig.handle.order(order), Some(Event::Resources(ResourceAnswer::NotDone(_)))));
}
