//! The fake runtime's side of the socket.

use super::*;

impl Service {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock held")
    }

    /// Counts the call; fails or hangs if it is to.
    pub(super) async fn arrived(&self, call: &str, detail: &str) -> Result<(), Status> {
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

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Result<Response<cri::RuntimeConfigResponse>, Status> {
        self.arrived("RuntimeConfig", "").await?;
        let driver = self.state().cgroup_driver.ok_or_else(|| Status::unimplemented("RuntimeConfig"))?;
        let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(Response::new(cri::RuntimeConfigResponse { linux: Some(linux) }))
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
        state.last_config = Some(config.clone());
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            image: config.image,
            created_at: unix_ns(),
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: format!("{}/{}", r.sandbox_config.unwrap_or_default().log_directory, config.log_path),
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
        let unnoticed = self.state().unnoticed_exit;
        if r.timeout == 0 || !stubborn {
            self.change(&r.container_id, |c| {
                if running(c) {
                    end(c, unnoticed.unwrap_or(if r.timeout == 0 { 137 } else { 143 }));
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
                image: c.image.clone(),
                state: c.state,
                created_at: c.created_at,
                labels: c.labels.clone(),
                annotations: c.annotations.clone(),
                ..Default::default()
            })
            .collect();
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    async fn checkpoint_container(
        &self,
        r: Request<cri::CheckpointContainerRequest>,
    ) -> Result<Response<cri::CheckpointContainerResponse>, Status> {
        let r = r.into_inner();
        self.arrived("CheckpointContainer", &format!("{} {} {}", r.container_id, r.location, r.timeout))
            .await?;
        Ok(Response::new(cri::CheckpointContainerResponse {}))
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
        let config =
            self.state().sandbox_image.as_ref().map(|image| format!(r#"{{"sandboxImage":{image:?}}}"#));
        let info = config.map(|config| ("config".to_owned(), config)).into_iter().collect();
        Ok(Response::new(cri::StatusResponse { info, ..Default::default() }))
    }

    async fn list_container_stats(
        &self,
        _: Request<cri::ListContainerStatsRequest>,
    ) -> Result<Response<cri::ListContainerStatsResponse>, Status> {
        self.arrived("ListContainerStats", "").await?;
        let state = self.state();
        let stats = state.containers.iter().map(|(_, c)| cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: c.id.clone(),
                metadata: c.metadata.clone(),
                labels: c.labels.clone(),
                annotations: c.annotations.clone(),
            }),
            writable_layer: state.written.get(&c.id).map(|value| cri::FilesystemUsage {
                used_bytes: Some(cri::UInt64Value { value: *value }),
                inodes_used: Some(cri::UInt64Value { value: 1 }),
                ..Default::default()
            }),
            ..Default::default()
        });
        Ok(Response::new(cri::ListContainerStatsResponse { stats: stats.collect() }))
    }

    async fn exec_sync(
        &self,
        r: Request<cri::ExecSyncRequest>,
    ) -> Result<Response<cri::ExecSyncResponse>, Status> {
        let r = r.into_inner();
        let what = format!("{} {} {}", r.container_id, r.timeout, r.cmd.join(" "));
        self.arrived("ExecSync", &what).await?;
        let answer = self.state().exec_answer.clone();
        Ok(Response::new(answer))
    }

    not_served! {
        update_container_resources: UpdateContainerResourcesRequest => UpdateContainerResourcesResponse;
        reopen_container_log: ReopenContainerLogRequest => ReopenContainerLogResponse;
        exec: ExecRequest => ExecResponse;
        attach: AttachRequest => AttachResponse;
        port_forward: PortForwardRequest => PortForwardResponse;
        container_stats: ContainerStatsRequest => ContainerStatsResponse;
        pod_sandbox_stats: PodSandboxStatsRequest => PodSandboxStatsResponse;
        list_pod_sandbox_stats: ListPodSandboxStatsRequest => ListPodSandboxStatsResponse;
        update_runtime_config: UpdateRuntimeConfigRequest => UpdateRuntimeConfigResponse;
        list_metric_descriptors: ListMetricDescriptorsRequest => ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics: ListPodSandboxMetricsRequest => ListPodSandboxMetricsResponse;
    }
}
