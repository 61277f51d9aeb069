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
    events: Option<mpsc::Sender<Result<cri::ContainerEventResponse, Status>>>,
    pub has_events: bool,
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
        let mut killed = 0;
        for (_, c) in self.state().containers.iter_mut().filter(|(_, c)| running(c)) {
            end(c, 137);
            killed += 1;
        }
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

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock held")
    }

    /// Counts the call; fails or hangs if it is to.
    async fn arrived(&self, call: &str, detail: &str) -> Result<(), Status> {
        let hangs = {
            let mut state = self.state();
            state.calls.push(format!("{call} {detail}").trim_end().to_owned());
            if let Some((code, message)) = state.failures.get(call) {
                return Err(Status::new(*code, message.clone()));
            }
            state.hangs.contains(call)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn change<T>(&self, id: &str, f: impl FnOnce(&mut cri::ContainerStatus) -> T) -> Result<T, Status> {
        let mut state = self.state();
        let found = state.containers.iter_mut().find(|(_, c)| c.id == id);
        let (_, c) = found.ok_or_else(|| Status::not_found(format!("container {id:?} not found")))?;
        let answer = f(c);
        drop(state);
        self.changed.notify_waiters();
        Ok(answer)
    }
}

fn matches(labels: &HashMap<String, String>, selector: Option<HashMap<String, String>>) -> bool {
    selector.into_iter().flatten().all(|(k, v)| labels.get(&k) == Some(&v))
}

macro_rules! not_served {
    ($($method:ident: $request:ident => $response:ident;)*) => {
        // Spelled out: `async_trait` does not look into a macro's call.
        $(fn $method<'life0, 'async_trait>(
            &'life0 self,
            _: Request<cri::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<cri::$response>, Status>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($method))) })
        })*
    };
}

#[tonic::async_trait]
impl RuntimeService for Service {
    type GetContainerEventsStream = ReceiverStream<Result<cri::ContainerEventResponse, Status>>;

    async fn version(
        &self,
        _: Request<cri::VersionRequest>,
    ) -> Result<Response<cri::VersionResponse>, Status> {
        self.arrived("Version", "").await?;
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        r: Request<cri::RunPodSandboxRequest>,
    ) -> Result<Response<cri::RunPodSandboxResponse>, Status> {
        self.arrived("RunPodSandbox", "").await?;
        let config = r.into_inner().config.unwrap_or_default();
        let mut state = self.state();
        state.made += 1;
        let id = format!("s{}", state.made);
        state.sandboxes.push(cri::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: unix_ns(),
            network: Some(cri::PodSandboxNetworkStatus { ip: "10.0.0.9".into(), ..Default::default() }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        });
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(
        &self,
        r: Request<cri::StopPodSandboxRequest>,
    ) -> Result<Response<cri::StopPodSandboxResponse>, Status> {
        let id = r.into_inner().pod_sandbox_id;
        self.arrived("StopPodSandbox", &id).await?;
        let mut state = self.state();
        for s in state.sandboxes.iter_mut().filter(|s| s.id == id) {
            s.state = cri::PodSandboxState::SandboxNotready as i32;
        }
        for (_, c) in state.containers.iter_mut().filter(|(s, c)| *s == id && running(c)) {
            end(c, 137);
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        r: Request<cri::RemovePodSandboxRequest>,
    ) -> Result<Response<cri::RemovePodSandboxResponse>, Status> {
        let id = r.into_inner().pod_sandbox_id;
        self.arrived("RemovePodSandbox", &id).await?;
        let mut state = self.state();
        state.sandboxes.retain(|s| s.id != id);
        state.containers.retain(|(s, _)| *s != id);
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        r: Request<cri::PodSandboxStatusRequest>,
    ) -> Result<Response<cri::PodSandboxStatusResponse>, Status> {
        let id = r.into_inner().pod_sandbox_id;
        self.arrived("PodSandboxStatus", &id).await?;
        let status = self.state().sandboxes.iter().find(|s| s.id == id).cloned();
        let status = Some(status.ok_or_else(|| Status::not_found(format!("sandbox {id:?} not found")))?);
        Ok(Response::new(cri::PodSandboxStatusResponse { status, ..Default::default() }))
    }

    async fn list_pod_sandbox(
        &self,
        r: Request<cri::ListPodSandboxRequest>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        self.arrived("ListPodSandbox", "").await?;
        let selector = r.into_inner().filter.map(|f| f.label_selector);
        let state = self.state();
        let found = state.sandboxes.iter().filter(|s| matches(&s.labels, selector.clone()));
        let items = found
            .map(|s| cri::PodSandbox {
                id: s.id.clone(),
                metadata: s.metadata.clone(),
                state: s.state,
                created_at: s.created_at,
                labels: s.labels.clone(),
                ..Default::default()
            })
            .collect();
        Ok(Response::new(cri::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        r: Request<cri::CreateContainerRequest>,
    ) -> Result<Response<cri::CreateContainerResponse>, Status> {
        let r = r.into_inner();
        let config = r.config.unwrap_or_default();
        let name = config.metadata.clone().unwrap_or_default().name;
        self.arrived("CreateContainer", &name).await?;
        let mut state = self.state();
        state.made += 1;
        let id = format!("{name}-{}", state.made);
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            image: config.image,
            created_at: unix_ns(),
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: config.log_path,
            ..Default::default()
        };
        state.containers.push((r.pod_sandbox_id, status));
        Ok(Response::new(cri::CreateContainerResponse { container_id: id }))
    }

    async fn start_container(
        &self,
        r: Request<cri::StartContainerRequest>,
    ) -> Result<Response<cri::StartContainerResponse>, Status> {
        let id = r.into_inner().container_id;
        self.arrived("StartContainer", &id).await?;
        self.change(&id, |c| {
            c.state = cri::ContainerState::ContainerRunning as i32;
            c.started_at = unix_ns();
        })?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        r: Request<cri::StopContainerRequest>,
    ) -> Result<Response<cri::StopContainerResponse>, Status> {
        let r = r.into_inner();
        self.arrived("StopContainer", &format!("{} {}", r.container_id, r.timeout)).await?;
        let stubborn = self.state().stubborn;
        if r.timeout == 0 || !stubborn {
            self.change(&r.container_id, |c| {
                if running(c) {
                    end(c, if r.timeout == 0 { 137 } else { 143 });
                }
            })?;
            return Ok(Response::new(cri::StopContainerResponse {}));
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(r.timeout.unsigned_abs());
        loop {
            let changed = self.changed.notified();
            let is_running =
                self.state().containers.iter().any(|(_, c)| c.id == r.container_id && running(c));
            if !is_running {
                return Ok(Response::new(cri::StopContainerResponse {}));
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                self.change(&r.container_id, |c| end(c, 137))?;
            }
        }
    }

    async fn remove_container(
        &self,
        r: Request<cri::RemoveContainerRequest>,
    ) -> Result<Response<cri::RemoveContainerResponse>, Status> {
        let id = r.into_inner().container_id;
        self.arrived("RemoveContainer", &id).await?;
        self.state().containers.retain(|(_, c)| c.id != id);
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        r: Request<cri::ListContainersRequest>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        self.arrived("ListContainers", "").await?;
        let selector = r.into_inner().filter.map(|f| f.label_selector);
        let state = self.state();
        let found = state.containers.iter().filter(|(_, c)| matches(&c.labels, selector.clone()));
        let containers = found
            .map(|(sandbox, c)| cri::Container {
                id: c.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: c.metadata.clone(),
                state: c.state,
                created_at: c.created_at,
                labels: c.labels.clone(),
                annotations: c.annotations.clone(),
                ..Default::default()
            })
            .collect();
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        r: Request<cri::ContainerStatusRequest>,
    ) -> Result<Response<cri::ContainerStatusResponse>, Status> {
        let id = r.into_inner().container_id;
        self.arrived("ContainerStatus", &id).await?;
        let status = self.change(&id, |c| c.clone())?;
        let info = HashMap::from([("info".to_owned(), r#"{"pid":4711}"#.to_owned())]);
        Ok(Response::new(cri::ContainerStatusResponse { status: Some(status), info }))
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        self.arrived("GetContainerEvents", "").await?;
        if !self.state().has_events {
            return Err(Status::unimplemented("unknown method GetContainerEvents"));
        }
        let (tx, rx) = mpsc::channel(16);
        self.state().events = Some(tx);
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn status(&self, _: Request<cri::StatusRequest>) -> Result<Response<cri::StatusResponse>, Status> {
        self.arrived("Status", "").await?;
        Ok(Response::new(cri::StatusResponse::default()))
    }

    not_served! {
        update_container_resources: UpdateContainerResourcesRequest => UpdateContainerResourcesResponse;
        reopen_container_log: ReopenContainerLogRequest => ReopenContainerLogResponse;
        exec_sync: ExecSyncRequest => ExecSyncResponse;
        exec: ExecRequest => ExecResponse;
        attach: AttachRequest => AttachResponse;
        port_forward: PortForwardRequest => PortForwardResponse;
        container_stats: ContainerStatsRequest => ContainerStatsResponse;
        list_container_stats: ListContainerStatsRequest => ListContainerStatsResponse;
        pod_sandbox_stats: PodSandboxStatsRequest => PodSandboxStatsResponse;
        list_pod_sandbox_stats: ListPodSandboxStatsRequest => ListPodSandboxStatsResponse;
        update_runtime_config: UpdateRuntimeConfigRequest => UpdateRuntimeConfigResponse;
        checkpoint_container: CheckpointContainerRequest => CheckpointContainerResponse;
        list_metric_descriptors: ListMetricDescriptorsRequest => ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics: ListPodSandboxMetricsRequest => ListPodSandboxMetricsResponse;
        runtime_config: RuntimeConfigRequest => RuntimeConfigResponse;
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn image_status(
        &self,
        r: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let name = r.into_inner().image.unwrap_or_default().image;
        self.arrived("ImageStatus", &name).await?;
        let image = self.state().images.iter().find(|i| i.repo_tags.contains(&name)).cloned();
        Ok(Response::new(cri::ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(
        &self,
        r: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let name = r.into_inner().image.unwrap_or_default().image;
        self.arrived("PullImage", &name).await?;
        let image =
            cri::Image { id: format!("sha256:{name}"), repo_tags: vec![name.clone()], ..Default::default() };
        self.state().images.push(image);
        Ok(Response::new(cri::PullImageResponse { image_ref: format!("sha256:{name}") }))
    }

    not_served! {
        list_images: ListImagesRequest => ListImagesResponse;
        remove_image: RemoveImageRequest => RemoveImageResponse;
        image_fs_info: ImageFsInfoRequest => ImageFsInfoResponse;
    }
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
