use k8s_cri::v1 as cri;
use tonic::Code;

use super::*;
use crate::cri::Connection;
use crate::cri::fake::{FakeRuntime, labels};
use oomlet_core::node::event::{PodLifecycleEvent, PodLifecycleEventKind};
use oomlet_core::pod::ContainerInstance;
use oomlet_core::pod::containers::ListedContainer;
use oomlet_core::pod::runtime_status::ContainerState;

struct Rig {
    fake: FakeRuntime,
    handle: PlegHandle,
    events: mpsc::Receiver<Event>,
    _cancel: tokio_util::sync::DropGuard,
}

fn rig(has_events: bool, prepare: impl FnOnce(&FakeRuntime)) -> Rig {
    let fake = FakeRuntime::start();
    fake.state().has_events = has_events;
    prepare(&fake);
    let connection = Connection::open(&fake.endpoint(), Duration::from_secs(5)).unwrap();
    let (tx, events) = mpsc::channel(64);
    let (handle, cancel) = (PlegHandle::default(), CancellationToken::new());
    tokio::spawn(run(
        RuntimeClient::new(&connection),
        handle.clone(),
        tx,
        RELIST_PERIOD_WITH_EVENTS,
        cancel.clone(),
    ));
    Rig { fake, handle, events, _cancel: cancel.drop_guard() }
}

fn add_container(fake: &FakeRuntime, id: &str, state: cri::ContainerState) {
    let status = cri::ContainerStatus {
        id: id.into(),
        metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
        state: state as i32,
        labels: labels("u1", "c"),
        ..Default::default()
    };
    fake.state().containers.push(("s1".into(), status));
}

impl Rig {
    async fn next(&mut self) -> Event {
        timeout(Duration::from_secs(5), self.events.recv())
            .await
            .expect("an event in time")
            .expect("the task runs")
    }

    /// The first event that `pick` takes, within five seconds.
    async fn find<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = pick(self.events.recv().await.expect("the task runs")) {
                    return found;
                }
            }
        };
        timeout(Duration::from_secs(5), found).await.expect("the event in time")
    }

    async fn next_lifecycle(&mut self) -> PodLifecycleEvent {
        self.find(|e| if let Event::Lifecycle(e) = e { Some(e) } else { None }).await
    }

    async fn next_runtime(&mut self) -> Result<(), String> {
        self.find(|e| if let Event::Runtime(r) = e { Some(r) } else { None }).await
    }
}

#[tokio::test]
async fn the_first_list_is_always_sent() {
    let mut rig = rig(false, |fake| add_container(fake, "c1", cri::ContainerState::ContainerRunning));
    assert!(matches!(rig.next().await, Event::Runtime(Ok(()))));
    let Event::Relisted(pods) = rig.next().await else { panic!("a list comes before its changes") };
    let container = ContainerInstance { name: "c".into(), id: "c1".into() };
    assert_eq!(pods.pods[0].containers, [ListedContainer { container, state: ContainerState::Running }]);
    let event = rig.next_lifecycle().await;
    assert_eq!(event.kind, PodLifecycleEventKind::ContainerStarted);
    assert_eq!(rig.handle.healthy(clock::now()), Ok(()));
    let later = clock::now() + RELIST_UNHEALTHY + Duration::from_secs(60);
    assert!(rig.handle.healthy(later).unwrap_err().contains("PLEG is not healthy"));
}

#[tokio::test]
async fn a_kick_looks_again_until_the_runtime_has_noticed() {
    let mut rig = rig(false, |fake| add_container(fake, "c1", cri::ContainerState::ContainerRunning));
    rig.next_lifecycle().await;
    let lists = rig.fake.calls("ListContainers").len();
    let kicked = std::time::Instant::now();
    rig.handle.kick();
    // The runtime notices the exit only after the first look.
    rig.fake
        .until("a look after the kick", |s| s.calls.iter().filter(|c| *c == "ListContainers").count() > lists)
        .await;
    rig.fake.exit("c", 0);
    assert_eq!(rig.next_lifecycle().await.kind, PodLifecycleEventKind::ContainerDied);
    assert!(kicked.elapsed() < RELIST_PERIOD, "took {:?}", kicked.elapsed());
}

#[tokio::test]
async fn the_runtimes_absence_and_return_are_told_once() {
    let mut rig = rig(false, |_| ());
    assert_eq!(rig.next_runtime().await, Ok(()));
    rig.fake.fail("ListPodSandbox", Code::Internal, "disk full");
    assert!(rig.next_runtime().await.unwrap_err().contains("disk full"));
    rig.fake.heal("ListPodSandbox");
    assert_eq!(rig.next_runtime().await, Ok(()));
}

#[tokio::test]
async fn the_event_stream_makes_lists_rare_and_reconnects() {
    let mut rig = rig(true, |_| ());
    rig.fake.until("the stream is open", |s| s.calls.iter().any(|c| c == "GetContainerEvents")).await;
    while !rig.handle.streaming() {
        rig.next().await;
    }
    add_container(&rig.fake, "c1", cri::ContainerState::ContainerExited);
    assert!(rig.fake.event().await);
    assert_eq!(rig.next_lifecycle().await.kind, PodLifecycleEventKind::ContainerDied);
    rig.fake.stop();
    assert!(rig.next_runtime().await.is_err());
    assert!(!rig.handle.streaming());
    rig.fake.restart();
    assert_eq!(rig.next_runtime().await, Ok(()));
    rig.fake
        .until("the stream is open again", |s| {
            s.calls.iter().filter(|c| *c == "GetContainerEvents").count() > 1
        })
        .await;
}
