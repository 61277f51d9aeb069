//! Making a pod's cgroup, volumes and sandbox, and starting its containers, with what is to be done right after.

use std::convert::Infallible;
use std::path::PathBuf;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Container;
use tracing::info;

use super::stop::by_hand::BeingStarted;
use super::tell::Step;
use super::{Worker, WorkerError, files};
use crate::clock;
use crate::cri::CriError;
use crate::cri::container_config::{ContainerInputs, container_config, termination_message_path};
use crate::cri::image::Image;
use crate::cri::sandbox_config::{SandboxConfig, SandboxInputs, sandbox_config};
use crate::volume::{Propagation, VolumeMount};
use oomlet_core::pod::env::{Env, EnvFacts, EnvSources, command_and_args, container_env};
use oomlet_core::pod::hook::Hook;
use oomlet_core::pod::hosts;
use oomlet_core::pod::lifecycle::{ContainerKind, ContainerStart, container_hash};
use oomlet_core::pod::qos::{QosClass, container_resources, oom_score_adj, pod_cgroup_resources};
use oomlet_core::pod::runtime_status::{ContainerState, PodRuntimeStatus, SandboxStatus};
use oomlet_core::pod::spec::{all_containers, container_named};
use oomlet_core::pod::stop_signal::StopSignal;
use oomlet_core::pod::{ContainerInstance, Pod};
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::Kind;

mod failure;
mod post_start;

pub(super) use failure::Failure;

const HOSTS_PATH: &str = "/etc/hosts";

/// The sandbox that containers are started in.
#[derive(Debug)]
pub(super) struct Starting {
    sandbox_id: String,
    config: cri::PodSandboxConfig,
    env: EnvFacts,
    /// The managed hosts file, where there is one.
    hosts: Option<PathBuf>,
}

impl Worker {
    /// The first step of a start: the pod's cgroup. Returns the CRI's `cgroup_parent`.
    pub(super) async fn make_cgroup(&self, pod: &Pod) -> Result<String, WorkerError> {
        let (context, uid, pod) = (self.context.clone(), self.uid.clone(), pod.clone());
        let made = self.blocking("setting up the cgroup", move || {
            let (resources, began) = (pod_cgroup_resources(&pod, context.pids_limit), clock::now());
            let made = context.cgroups.ensure_pod(&uid, QosClass::of(&pod), &resources);
            context.times.cgroup("create", clock::now().since(began));
            made
        });
        made.await?.map_err(|e| WorkerError::Cgroup { pod: self.who.clone(), source: Box::new(e) })
    }

    /// The second: ConfigMaps, Secrets and tokens are got, and the volumes made with them.
    pub(super) async fn make_volumes(&self, pod: &Pod) -> Result<(), WorkerError> {
        let (contents, step) = (&self.context.contents, Step::begun());
        // From before the content is got until it is written: a change meanwhile is written after it.
        let writing = contents.writing(&self.uid).await;
        let content = async { Ok::<_, Infallible>(contents.content(pod).await) };
        let Ok(content) = self.span.step("getVolumeContents", None, content).await;
        let (context, pod) = (self.context.clone(), pod.clone());
        let made = self.blocking("setting up volumes", move || {
            let _writing = writing;
            context.volumes.set_up(&pod, &content)
        });
        let made = async {
            made.await?.map_err(|e| WorkerError::Volume { pod: self.who.clone(), source: Box::new(e) })
        };
        let leftovers = self.span.step("setUpVolumes", None, made).await?;
        contents.is_set_up(&self.uid, leftovers);
        self.tell_step(Reason::VolumesReady, None, "the volumes are there", step);
        Ok(())
    }

    /// The container's environment, with what ConfigMaps, Secrets and Services are now.
    async fn env(&self, pod: &Pod, container: &Container, starting: &Starting) -> Result<Env, Failure> {
        let contents = &self.context.contents;
        let objects = async { Ok::<_, Infallible>(contents.objects(pod).await) };
        let Ok(objects) = self.span.step("getEnvironmentObjects", Some(&container.name), objects).await;
        let services = contents.service_env(pod);
        let services = services.map_err(Failure::config)?;
        let (context, its_pod, its_container) = (self.context.clone(), pod.clone(), container.clone());
        let read = self.blocking("reading environment files", move || {
            context.volumes.env_files(&its_pod, &its_container)
        });
        let files = read.await.map_err(Failure::config)?;
        let from = EnvSources { node: &starting.env, objects: &objects, services: &services, files: &files };
        let made = container_env(pod, container, from).map_err(Failure::config)?;
        for message in made.skipped {
            self.tell_container(
                Kind::Warning,
                Reason::InvalidEnvironmentVariableNames,
                &container.name,
                message,
            );
        }
        Ok(made.env)
    }

    pub(super) async fn create_sandbox(
        &mut self,
        pod: &Pod,
        cgroup_parent: &str,
        attempt: u32,
    ) -> Result<Starting, WorkerError> {
        let step = Step::begun();
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.tell(Kind::Pod, Reason::SandboxChanged, message);
        }
        let config = self.sandbox_config(pod, cgroup_parent, attempt);
        let SandboxConfig { config, told } = config.inspect_err(|e| self.tell_sandbox_failure(e))?;
        self.tell_dns(told);
        let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref());
        let handler = self.context.runtime_classes.handler(class).await;
        let handler = handler
            .map_err(|source| WorkerError::RuntimeClass { pod: self.who.clone(), source })
            .inspect_err(|e| self.tell_sandbox_failure(e))?;
        let (context, who) = (self.context.clone(), self.who.clone());
        let containers: Vec<String> =
            pod.spec.iter().flat_map(all_containers).map(|c| c.name.clone()).collect();
        let logs = self.blocking("making log directories", move || {
            containers.iter().try_for_each(|c| files::make_log_dir(&who, &context.pod_logs_dir, c))
        });
        logs.await??;
        let (runtime, target, sent) = (self.context.runtime.clone(), "its sandbox", config.clone());
        let made =
            self.to_the_end(async move { runtime.run_pod_sandbox(sent, handler, target).await }).await?;
        let sandbox_id = made.map_err(|e| self.cri(e)).inspect_err(|e| self.tell_sandbox_failure(e))?;
        self.tell_step(Reason::SandboxReady, None, "the sandbox runs", step);
        info!(pod = %self.who, sandbox_id, attempt, "sandbox runs");
        let status = self.context.runtime.pod_sandbox_status(&sandbox_id).await.map_err(|e| self.cri(e))?;
        self.known.sandboxes.insert(0, status.clone());
        self.starting(pod, config, status).await
    }

    pub(super) async fn in_sandbox(
        &self,
        pod: &Pod,
        cgroup_parent: &str,
        status: &PodRuntimeStatus,
    ) -> Result<Starting, WorkerError> {
        let Some(sandbox) = status.ready_sandbox().cloned() else {
            // `lifecycle` starts containers without making a sandbox only where one is ready.
            return Err(self.cri(CriError::BadAnswer {
                call: "PodSandboxStatus",
                target: "its sandbox".to_owned(),
                what: "a ready sandbox",
            }));
        };
        let SandboxConfig { config, .. } = self.sandbox_config(pod, cgroup_parent, sandbox.attempt)?;
        self.starting(pod, config, sandbox).await
    }

    fn sandbox_config(
        &self,
        pod: &Pod,
        cgroup_parent: &str,
        attempt: u32,
    ) -> Result<SandboxConfig, WorkerError> {
        let (pod_logs_dir, dns) = (self.context.pod_logs_dir.as_path(), &self.context.dns);
        sandbox_config(pod, SandboxInputs { attempt, cgroup_parent, pod_logs_dir, dns })
            .map_err(|why| WorkerError::Hostname { pod: self.who.clone(), why })
    }

    async fn starting(
        &self,
        pod: &Pod,
        config: cri::PodSandboxConfig,
        sandbox: SandboxStatus,
    ) -> Result<Starting, WorkerError> {
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
        let mut env = self.context.node.clone();
        env.pod_ips = if host_network { vec![env.host_ip.clone()] } else { sandbox.ips };
        let (context, who, pod, ips) =
            (self.context.clone(), self.who.clone(), pod.clone(), env.pod_ips.clone());
        let hosts = self.blocking("writing the hosts file", move || {
            // A node without the file has nothing to say in it.
            let node_hosts = if host_network {
                std::fs::read_to_string(HOSTS_PATH).unwrap_or_default()
            } else {
                String::new()
            };
            let text = hosts::hosts_file(&pod, &ips, &context.dns.cluster_domain, &node_hosts);
            text.map(|t| files::write_hosts(&who, &context.volumes.pod_dir(&who.uid), &t)).transpose()
        });
        let hosts = hosts.await??;
        Ok(Starting { sandbox_id: sandbox.id, config, env, hosts })
    }

    pub(super) async fn start_container(
        &mut self,
        pod: &Pod,
        status: &PodRuntimeStatus,
        starting: &Starting,
        start: &ContainerStart,
    ) -> Result<(), Failure> {
        let Some(container) = container_named(pod, &start.name) else {
            return Err(Failure::config(format!("container {} is not in the manifest", start.name)));
        };
        let container = container.as_ref();
        let start = match status.container(&start.name) {
            Some(_) => start,
            None => &self.after_earlier_logs(start).await,
        };
        let told = |told| self.tell_image(&start.name, told);
        let (span, name) = (self.span.clone(), Some(start.name.as_str()));
        let image = self.context.images.ensure(&self.uid, container, &starting.config, told);
        let image = span.step("ensureImageExists", name, image).await?;
        let target = target_of(pod, &start.name, status).map_err(Failure::config)?;
        let of = (pod, container, target);
        let created = self.create_container(of, starting, start, &image);
        let id = span.step("createContainer", name, created).await?;
        let stop_signal = StopSignal::of(container).or(image.stop_signal);
        // Counted before it is known how the start ends: one that fails must back off as well.
        if let Some(last) = status.container(&start.name).filter(|c| c.state == ContainerState::Exited) {
            self.backoff.restarted(last, container_hash(container));
        }
        span.step("startContainer", name, self.run_container(start, id.clone(), stop_signal)).await?;
        let Some(hook) = Hook::post_start(container) else { return Ok(()) };
        let instance = ContainerInstance { name: start.name.clone(), id };
        span.step("postStart", name, self.post_start(pod, &instance, &hook, &starting.env)).await
    }

    /// Its id.
    async fn create_container(
        &self,
        (pod, container, target): (&Pod, &Container, Option<String>),
        starting: &Starting,
        start: &ContainerStart,
        image: &Image,
    ) -> Result<String, Failure> {
        let step = Step::begun();
        let mut config = self.container_config(pod, container, starting, start, image).await?;
        if let Some(target) = target {
            share_processes(&mut config, target);
        }
        let named = format!("container {}", start.name);
        let (runtime, sandbox, sandbox_id) =
            (self.context.runtime.clone(), starting.config.clone(), starting.sandbox_id.clone());
        let made = self
            .to_the_end(async move { runtime.create_container(&sandbox_id, config, sandbox, &named).await });
        let made = made.await.map_err(|e| Failure::config(&e))?;
        let id = made.map_err(|e| Failure::call("CreateContainerError", &e))?;

        self.tell_step(Reason::Created, Some(&start.name), "Container created", step);
        Ok(id)
    }

    async fn run_container(
        &mut self,
        start: &ContainerStart,
        id: String,
        stop_signal: Option<StopSignal>,
    ) -> Result<(), Failure> {
        let step = Step::begun();
        let (runtime, named) = (self.context.runtime.clone(), format!("container {}", start.name));
        let started_id = id.clone();
        // For a termination that interrupts the sync.
        let instance = ContainerInstance { name: start.name.clone(), id: id.clone() };
        self.being_started.push(BeingStarted::new(instance, stop_signal));
        let started = self.to_the_end(async move { runtime.start_container(&started_id, &named).await });
        let started = started.await.map_err(|e| Failure::config(&e))?;
        started.map_err(|e| Failure::call("RunContainerError", &e))?;
        self.tell_step(Reason::Started, Some(&start.name), "Container started", step);
        self.context.times.container_started(container_type(start.kind));
        self.link_log(&start.name, &id, start.restart_count).await;
        info!(pod = %self.who, container = start.name, container_id = id, restart_count = start.restart_count, "container started");
        Ok(())
    }

    async fn container_config(
        &self,
        pod: &Pod,
        container: &Container,
        starting: &Starting,
        start: &ContainerStart,
        image: &Image,
    ) -> Result<cri::ContainerConfig, Failure> {
        let env = self.env(pod, container, starting).await?;
        let (command, args) = command_and_args(container, &env);
        let its_env = env.clone();
        let (context, who) = (self.context.clone(), self.who.clone());
        let (its_pod, its_container, restart_count) = (pod.clone(), container.clone(), start.restart_count);
        let files = self.blocking("mounting volumes", move || {
            let volumes = context
                .volumes
                .mounts(&its_pod, &its_container, &its_env)
                .map_err(|e| WorkerError::Volume { pod: who.clone(), source: Box::new(e) })?;
            let pod_dir = context.volumes.pod_dir(&who.uid);
            files::make_log_dir(&who, &context.pod_logs_dir, &its_container.name)?;
            let message = files::make_termination_log(&who, &pod_dir, &its_container.name, restart_count)?;
            Ok::<_, WorkerError>((volumes, message))
        });
        let (volumes, message) = files.await.map_err(Failure::config)?.map_err(Failure::config)?;
        let mut mounts: Vec<cri::Mount> = volumes.into_iter().map(volume_mount).collect();
        let taken = |path: &str, mounts: &[cri::Mount]| mounts.iter().any(|m| m.container_path == path);
        if let Some(hosts) = starting.hosts.as_ref().filter(|_| !taken(HOSTS_PATH, &mounts)) {
            mounts.push(file_mount(hosts, HOSTS_PATH));
        }
        let message_path = termination_message_path(container);
        if !taken(message_path, &mounts) {
            mounts.push(file_mount(&message, message_path));
        }
        let seccomp_dir = self.context.root_dir.join("seccomp").display().to_string();
        let inputs = ContainerInputs {
            restart_count,
            hash: container_hash(container),
            image,
            env,
            command,
            args,
            resources: container_resources(container),
            oom_score_adj: oom_score_adj(pod, container, self.context.memory_capacity_bytes),
            cgroups: &self.context.container_cgroups,
            mounts,
            seccomp_dir: &seccomp_dir,
            seccomp_default: self.context.seccomp_default,
        };
        container_config(pod, container, inputs).map_err(Failure::config)
    }
}

/// kubelet's word.
pub(super) const fn container_type(kind: ContainerKind) -> &'static str {
    match kind {
        ContainerKind::Regular => "container",
        ContainerKind::Init => "init_container",
        ContainerKind::Ephemeral => "ephemeral_container",
    }
}

/// The id of the container whose processes an ephemeral one is to see.
fn target_of(pod: &Pod, name: &str, status: &PodRuntimeStatus) -> Result<Option<String>, String> {
    let mut ephemeral = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    let target = ephemeral.find(|c| c.name == name).and_then(|c| c.target_container_name.as_deref());
    let Some(target) = target.filter(|target| !target.is_empty()) else { return Ok(None) };
    match status.container(target) {
        Some(container) => Ok(Some(container.id.clone())),
        None => Err(format!("unable to find target container {target}")),
    }
}

fn share_processes(config: &mut cri::ContainerConfig, target_id: String) {
    let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    if let Some(options) = security.and_then(|context| context.namespace_options.as_mut()) {
        options.pid = cri::NamespaceMode::Target as i32;
        options.target_id = target_id;
    }
}

fn volume_mount(m: VolumeMount) -> cri::Mount {
    let propagation = match m.propagation {
        Propagation::None => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        host_path: m.host_path.display().to_string(),
        container_path: m.container_path,
        readonly: m.read_only,
        recursive_read_only: m.recursive_read_only,
        propagation: propagation as i32,
        ..Default::default()
    }
}

fn file_mount(host_path: &std::path::Path, container_path: &str) -> cri::Mount {
    cri::Mount {
        host_path: host_path.display().to_string(),
        container_path: container_path.to_owned(),
        ..Default::default()
    }
}
