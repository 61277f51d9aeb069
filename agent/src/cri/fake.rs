//! A container runtime in memory, served over a real unix socket: for faults that no real runtime gives on demand.
//! Tests only. Containers run until they are stopped; a call can be made to fail, to hang, and is counted.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_server::{ImageService, ImageServiceServer};
use k8s_cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status};

use super::names;

mod image_service;
mod service;

#[derive(Default)]
pub(crate) struct State {
    pub sandboxes: Vec<cri::PodSandboxStatus>,
    pub containers: Vec<(String, cri::ContainerStatus)>,
    pub images: Vec<cri::Image>,
    /// Call and target, in the order of arrival: `StopContainer c1 30`.
    pub calls: Vec<String>,
    /// Call → refusal.
    failures: HashMap<String, (Code, String)>,
    /// Calls that never answer.
    hangs: HashSet<String>,
    /// Containers that ignore SIGTERM.
    pub stubborn: bool,
    /// Containers have ended with this code, and the runtime is too busy to notice until somebody kills them.
    pub unnoticed_exit: Option<i32>,
    events: Option<mpsc::Sender<Result<cri::ContainerEventResponse, Status>>>,
    pub has_events: bool,
    /// Where images are kept, as `ImageFsInfo` tells it.
    pub image_store: Option<String>,
    pub sandbox_image: Option<String>,
    /// Bytes in the writable layer of a container, by id.
    pub written: HashMap<String, u64>,
    /// `None`: as a runtime that does not know the call.
    pub cgroup_driver: Option<cri::CgroupDriver>,
    /// Of the container that was made last.
    pub last_config: Option<cri::ContainerConfig>,
    /// Of every command.
    pub exec_answer: cri::ExecSyncResponse,
    made: u64,
}

#[derive(Clone, Default)]
struct Service {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

pub(crate) struct FakeRuntime {
    service: Service,
    socket: PathBuf,
    /// Its own, so that a stop drops every connection as a killed runtime does.
    serving: Option<tokio::runtime::Runtime>,
    _dir: tempfile::TempDir,
}

impl FakeRuntime {
    pub fn start() -> FakeRuntime {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("cri.sock");
        let mut fake = FakeRuntime { service: Service::default(), socket, serving: None, _dir: dir };
        fake.restart();
        fake
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn restart(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the fake");
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&self.socket).expect("a socket in the temporary directory")
        };
        let server = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(self.service.clone()))
            .add_service(ImageServiceServer::new(self.service.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        self.serving = Some(runtime);
    }

    pub fn stop(&mut self) {
        if let Some(runtime) = self.serving.take() {
            runtime.shutdown_background();
        }
        self.state().events = None;
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.service.state.lock().expect("no test panics with the lock held")
    }

    pub fn fail(&self, call: &str, code: Code, message: &str) {
        self.state().failures.insert(call.to_owned(), (code, message.to_owned()));
    }

    pub fn heal(&self, call: &str) {
        let mut state = self.state();
        state.failures.remove(call);
        state.hangs.remove(call);
    }

    pub fn hang(&self, call: &str) {
        self.state().hangs.insert(call.to_owned());
    }

    pub fn add_image(&self, name: &str) {
        let image = cri::Image {
            id: format!("sha256:{name}"),
            repo_tags: vec![name.to_owned()],
            ..Default::default()
        };
        self.state().images.push(image);
    }

    /// The container's process ends by itself.
    pub fn exit(&self, name: &str, exit_code: i32) {
        for (_, c) in &mut self.state().containers {
            if c.metadata.as_ref().is_some_and(|m| m.name == name) && running(c) {
                end(c, exit_code);
            }
        }
        self.service.changed.notify_waiters();
    }

    /// Kills all processes of all containers, as `cgroup.kill` would.
    pub fn kill_all(&self) -> usize {
        self.kill_where(|_| true)
    }

    /// Those of one container.
    pub fn kill(&self, id: &str) -> usize {
        self.kill_where(|c| c.id == id)
    }

    fn kill_where(&self, is_meant: impl Fn(&cri::ContainerStatus) -> bool) -> usize {
        let mut killed = 0;
        let mut state = self.state();
        let exit_code = state.unnoticed_exit.unwrap_or(137);
        for (_, c) in state.containers.iter_mut().filter(|(_, c)| running(c) && is_meant(c)) {
            end(c, exit_code);
            killed += 1;
        }
        drop(state);
        self.service.changed.notify_waiters();
        killed
    }

    pub fn calls(&self, prefix: &str) -> Vec<String> {
        self.state().calls.iter().filter(|c| c.starts_with(prefix)).cloned().collect()
    }

    /// Sends a CRI event to the listener, if there is one.
    pub async fn event(&self) -> bool {
        let Some(tx) = self.state().events.clone() else { return false };
        tx.send(Ok(cri::ContainerEventResponse::default())).await.is_ok()
    }

    /// Waits for a condition over the state, at most five seconds.
    pub async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        for _ in 0..1000 {
            if condition(&self.state()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not within five seconds: {what}; calls: {:?}", self.state().calls);
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.serving.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn running(c: &cri::ContainerStatus) -> bool {
    c.state == cri::ContainerState::ContainerRunning as i32
}

fn end(c: &mut cri::ContainerStatus, exit_code: i32) {
    c.state = cri::ContainerState::ContainerExited as i32;
    c.exit_code = exit_code;
    c.finished_at = unix_ns();
}

fn unix_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_nanos()).expect("before 2262")
}

/// The labels of a container of the pod `default/<uid>`.
pub(crate) fn labels(uid: &str, container: &str) -> HashMap<String, String> {
    [
        (names::POD_UID, uid),
        (names::POD_NAME, uid),
        (names::POD_NAMESPACE, "default"),
        (names::CONTAINER_NAME, container),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}
