//! A real control plane on loopback, without nodes: etcd, kube-apiserver, kube-controller-manager and kube-scheduler of
//! one release, below one folder.
//!
//! - [`programs`], [`version`]: finding or building them; `pki`, `kubeconfig`, `layout`, `objects`: what they are given.
//! - [`ControlPlane`]: one that runs until it is dropped, for tests and demos.
//! - [`command`]: `cargo xtask control-plane`, which leaves one running.

pub mod command;
mod component;
pub(crate) mod go_module;
mod kubeconfig;
mod layout;
pub mod metrics_server;
pub(crate) mod objects;
mod pki;
pub mod programs;
pub mod version;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::NetNs;
use crate::process;
use crate::scratch::Scratch;
use component::Component;
use kubeconfig::Proof;
use layout::Layout;
use objects::BootstrapToken;
use pki::{Identity, Pki};
use programs::{Program, Programs, Source};

/// How long it may take until everything serves. Usually four seconds; many times that on an emulated CPU.
const READY: Duration = Duration::from_secs(180);
/// Who applies objects here, in their `managedFields`.
const FIELD_MANAGER: &str = "--field-manager=oomlet-xtask";

#[derive(Clone, Debug)]
pub struct Options {
    pub source: Source,
    pub controller_manager: bool,
    pub scheduler: bool,
    /// Writes down each request, for [`ControlPlane::audit_log`].
    pub audit: bool,
    /// More flags, such as `--feature-gates=…` and `--runtime-config=…`.
    pub api_server_flags: Vec<String>,
    pub controller_manager_flags: Vec<String>,
    /// Whose loopback it is on; `None`: this process's. Whoever talks to it must be in there too.
    pub netns: Option<Arc<NetNs>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            source: Source::default(),
            controller_manager: true,
            scheduler: true,
            audit: false,
            api_server_flags: Vec::new(),
            controller_manager_flags: Vec::new(),
            netns: None,
        }
    }
}

/// Runs until dropped. When its owner is killed it ends with the [`Scratch`] that it lives in.
#[derive(Debug)]
pub struct ControlPlane {
    layout: Layout,
    programs: Programs,
    pki: Pki,
    admin: PathBuf,
    audit: bool,
    netns: Option<Arc<NetNs>>,
    etcd: Component,
    api_server: Component,
    /// Controller-manager and scheduler.
    controllers: Vec<Component>,
    ends_on_drop: bool,
}

impl ControlPlane {
    /// Starts it in `scratch`/control-plane; returns when it serves and namespaces get their service account. Its programs
    /// must be there: `cargo xtask test` and `cargo xtask control-plane build` see to that.
    pub fn start(scratch: &Scratch, options: &Options) -> Result<ControlPlane> {
        let programs = Programs::find(&options.source, &Program::CONTROL_PLANE)?;
        ControlPlane::start_in(&scratch.create_dir("control-plane")?, programs, options)
    }

    fn start_in(dir: &Path, programs: Programs, options: &Options) -> Result<ControlPlane> {
        ensure!(layout::has_room_for_sockets(dir), "{} is too long a path for a unix socket", dir.display());
        let layout = Layout { dir: dir.to_owned(), port: layout::free_port()? };
        let pki = Pki::create(&layout.pki(), layout::KUBERNETES_SERVICE)?;
        let netns = options.netns.clone();
        let component = |program, args: Vec<String>| {
            let mut command = command_in(netns.as_deref(), &programs.path(program));
            command.args(args);
            Component::new(program.name(), command, layout.log(program))
        };
        let mut controllers = Vec::new();
        if options.controller_manager {
            let args = layout.controller_manager(&options.controller_manager_flags);
            controllers.push(component(Program::ControllerManager, args));
        }
        if options.scheduler {
            controllers.push(component(Program::Scheduler, layout.scheduler()));
        }
        let api_server = layout.api_server(options.audit, &options.api_server_flags);
        let mut control_plane = ControlPlane {
            etcd: component(Program::Etcd, layout.etcd()),
            api_server: component(Program::ApiServer, api_server),
            controllers,
            admin: layout.kubeconfig("admin"),
            audit: options.audit,
            netns: options.netns.clone(),
            layout,
            pki,
            programs,
            ends_on_drop: true,
        };
        control_plane.write_files()?;
        control_plane.bring_up()?;
        Ok(control_plane)
    }

    fn write_files(&self) -> Result<()> {
        for (name, user, groups) in [
            ("admin", "kubernetes-admin", &["system:masters"][..]),
            ("controller-manager", "system:kube-controller-manager", &[]),
            ("scheduler", "system:kube-scheduler", &[]),
        ] {
            self.client_kubeconfig(name, &self.pki.lasting_client(user, groups)?)?;
        }
        let policy = self.layout.audit_policy();
        std::fs::write(&policy, serde_json::to_vec(&objects::audit_policy())?)
            .with_context(|| format!("writing {}", policy.display()))
    }

    fn bring_up(&mut self) -> Result<()> {
        self.etcd.start()?;
        self.start_api_server()?;
        for controller in &mut self.controllers {
            controller.start()?;
        }
        self.apply(&objects::bindings())?;
        if self.runs(Program::ControllerManager) {
            // Without it no pod is admitted to the namespace.
            self.wait_until("the service account of the namespace `default`", |it| {
                it.kubectl(&["get", "serviceaccount", "default"]).is_ok()
            })?;
        }
        Ok(())
    }

    fn runs(&self, program: Program) -> bool {
        self.controllers.iter().any(|controller| controller.name == program.name())
    }

    /// Such as `https://127.0.0.1:20001`; stays when the API server is started again.
    #[must_use]
    pub fn server(&self) -> String {
        self.layout.server()
    }

    /// The same as an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.layout.address()
    }

    /// Of its programs, kubectl among them.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Its folder, with `<program>.log` of each program.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.layout.dir
    }

    /// `ca.crt` signs all of its certificates, and those that it gives to nodes.
    #[must_use]
    pub fn authority_path(&self) -> PathBuf {
        self.layout.pki().join("ca.crt")
    }

    /// Of a user who may do everything.
    #[must_use]
    pub fn kubeconfig_admin(&self) -> &Path {
        &self.admin
    }

    /// Of `system:node:NAME`, by a client certificate.
    pub fn node_kubeconfig(&self, node: &str) -> Result<PathBuf> {
        let identity = self.pki.lasting_client(&format!("system:node:{node}"), &["system:nodes"])?;
        self.client_kubeconfig(&format!("node-{node}"), &identity)
    }

    /// The same, by a certificate that expires. One of zero length has expired already.
    pub fn expiring_node_kubeconfig(&self, node: &str, validity: Duration) -> Result<PathBuf> {
        let identity = self.pki.client(&format!("system:node:{node}"), &["system:nodes"], validity)?;
        self.client_kubeconfig(&format!("node-{node}-expiring"), &identity)
    }

    /// Of any user, by a client certificate: the paths of certificate and key, as PEM.
    pub fn client_files(&self, user: &str, groups: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let identity = self.pki.lasting_client(user, groups)?;
        let file = |end: &str| self.layout.pki().join(format!("{}.{end}", user.replace([':', '/'], "-")));
        let (certificate, key) = (file("crt"), file("key"));
        pki::write_private(&certificate, &identity.certificate)?;
        pki::write_private(&key, &identity.key)?;
        Ok((certificate, key))
    }

    /// By a new bootstrap token, as `--bootstrap-kubeconfig` takes it: its client CSR is approved and signed by itself.
    pub fn bootstrap_kubeconfig(&self) -> Result<PathBuf> {
        let token = BootstrapToken::random()?;
        self.apply(&token.object()).context("making a bootstrap token")?;
        let text = token.text();
        let name = format!("bootstrap-{}", text.split('.').next().unwrap_or_default());
        self.kubeconfig(&name, &Proof::Token(&text))
    }

    fn client_kubeconfig(&self, name: &str, identity: &Identity) -> Result<PathBuf> {
        self.kubeconfig(name, &Proof::Certificate(identity))
    }

    fn kubeconfig(&self, name: &str, proof: &Proof<'_>) -> Result<PathBuf> {
        let path = self.layout.kubeconfig(name);
        kubeconfig::write(&path, &self.server(), &self.pki.authority(), proof)?;
        Ok(path)
    }

    /// `kubectl` as the administrator; its stdout.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_as(&self.admin, args)
    }

    /// `kubectl` as whoever the kubeconfig says.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<String> {
        process::output(self.kubectl_command(kubeconfig).args(args))
    }

    /// What `kubectl … --output=json` prints.
    pub fn kubectl_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[args, &["--output=json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("`kubectl {}` printed no JSON", args.join(" ")))
    }

    /// Server-side apply of an object or a `List`.
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.apply_as(&self.admin, object)
    }

    pub fn apply_as(&self, kubeconfig: &Path, object: &Value) -> Result<()> {
        let mut command = self.kubectl_command(kubeconfig);
        command.args(["apply", "--server-side", "--force-conflicts", FIELD_MANAGER, "--filename=-"]);
        process::output_of(&mut command, &serde_json::to_vec(object)?).map(drop)
    }

    /// For who may create but not patch, as a node its own Node: fails where the object is there already.
    pub fn create_as(&self, kubeconfig: &Path, object: &Value) -> Result<()> {
        let mut command = self.kubectl_command(kubeconfig);
        // What kubectl would check is the server's to check.
        command.args(["create", "--validate=false", FIELD_MANAGER, "--filename=-"]);
        process::output_of(&mut command, &serde_json::to_vec(object)?).map(drop)
    }

    /// kubectl of the same release, to be run: for what goes on for longer, such as a watch.
    #[must_use]
    pub fn kubectl_command(&self, kubeconfig: &Path) -> Command {
        let mut command = command_in(self.netns.as_deref(), &self.programs.path(Program::Kubectl));
        command.arg("--kubeconfig").arg(kubeconfig);
        command.arg("--cache-dir").arg(self.layout.dir.join("kubectl-cache"));
        command
    }

    /// SIGKILL to the API server alone: its clients see connections break and then be refused.
    pub fn stop_api_server(&mut self) -> Result<()> {
        self.api_server.kill()
    }

    /// On the same port and the same data; returns when it serves.
    pub fn start_api_server(&mut self) -> Result<()> {
        self.api_server.kill()?;
        self.api_server.start()?;
        self.wait_until("the API server's /readyz", |it| {
            it.kubectl(&["get", "--raw=/readyz", "--request-timeout=5s"]).is_ok_and(|said| said == "ok")
        })
    }

    /// What was asked of the API server until now, oldest first (audit.k8s.io/v1 Event); a last line that is still being
    /// written is left out.
    pub fn audit_log(&self) -> Result<Vec<Value>> {
        ensure!(self.audit, "this control plane was started without its audit log");
        let path = self.layout.audit_log();
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("an audit log line: {line:?}")))
            .collect()
    }

    /// The ends of all logs, for a failure's message.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        self.components().map(Component::log_tail).collect::<Vec<_>>().join("\n")
    }

    fn components(&self) -> impl Iterator<Item = &Component> {
        [&self.etcd, &self.api_server].into_iter().chain(&self.controllers)
    }

    /// Polls within [`READY`]; fails at once when one of the programs ends.
    fn wait_until(&mut self, what: &str, done: impl Fn(&ControlPlane) -> bool) -> Result<()> {
        let mut ended = None;
        let holds = process::holds_within(READY, || {
            ended = self.ended();
            ended.is_some() || done(self)
        });
        if let Some(said) = ended {
            bail!("waiting for {what}: {said}");
        }
        ensure!(holds, "not within {} s: {what}\n{}", READY.as_secs(), self.diagnosis());
        Ok(())
    }

    /// A program that has ended by itself, with the end of its log.
    fn ended(&mut self) -> Option<String> {
        let components = [&mut self.etcd, &mut self.api_server].into_iter().chain(&mut self.controllers);
        components.into_iter().find_map(|component| {
            let status = component.ended()?;
            Some(format!("{} ended with {status}; {}", component.name, component.log_tail()))
        })
    }

    /// Lets it outlive its owner.
    fn leave_running(mut self) {
        self.ends_on_drop = false;
    }
}

fn command_in(netns: Option<&NetNs>, program: &Path) -> Command {
    netns.map_or_else(|| Command::new(program), |netns| netns.command(program))
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if !self.ends_on_drop {
            return;
        }
        // Clients first, so that none of them logs that its server has gone.
        for component in self.controllers.iter_mut().rev().chain([&mut self.api_server, &mut self.etcd]) {
            if let Err(error) = component.kill() {
                eprintln!("{error:#}");
            }
        }
    }
}
