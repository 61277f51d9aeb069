//! One run of the suite on one [`Machine`]: containerd with the images, upstream's own control plane of one process, the agent
//! under test, ginkgo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::images;
use super::machine::{self, Machine, write};
use super::programs::{Program, Programs};
use super::registry::Registry;
use crate::private_containerd::{Version, runc};
use crate::process::{self, holds_within};

const CONTAINERD: &str = "/run/containerd/containerd.sock";
const SERVER: &str = "https://127.0.0.1:6443";
/// In the suite's own token file, which makes it a member of system:masters.
const TOKEN: &str = "conformance";
const REGISTRY_PORT: u16 = 5001;
/// Of each part of the node, on a loaded machine.
const READY: Duration = Duration::from_secs(120);
/// Of the whole suite, its slow tests included.
const LIMIT: &str = "4h";

/// Which tests, and how.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    pub focus: Option<&'a str>,
    pub skip: Option<&'a str>,
    pub labels: &'a str,
    /// How many run at a time.
    pub processes: usize,
}

pub(super) struct Suite<'a> {
    machine: &'a Machine,
    programs: &'a Programs,
    bin: PathBuf,
    /// Killed with the machine.
    _children: Vec<Child>,
}

impl<'a> Suite<'a> {
    /// Starts all of it; returns when the node is Ready.
    pub fn start(machine: &'a Machine, programs: &'a Programs, agent: &Path) -> Result<Suite<'a>> {
        let archive = images::ensure(programs)?;
        let bin = Version::V2.bin_dir()?.context("containerd 2 is not here; run `cargo xtask setup`")?;
        let mut suite = Suite { machine, programs, bin, _children: Vec::new() };
        suite.start_containerd(&archive).context("containerd")?;
        suite.start_control_plane().context("the control plane")?;
        suite.start_agent(agent).context("the agent")?;
        Ok(suite)
    }

    fn start_containerd(&mut self, archive: &Path) -> Result<()> {
        Registry::open(archive)?.serve(self.machine.listen(REGISTRY_PORT)?);
        let state = self.machine.state();
        for dir in ["cni/conf", "cni/data", "opt", "certs.d/registry.k8s.io"] {
            let dir = state.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        write(&state.join("cni/conf/10-bridge.conflist"), &conflist(state).to_string())?;
        let registry = format!("http://127.0.0.1:{REGISTRY_PORT}");
        write(
            &state.join("certs.d/registry.k8s.io/hosts.toml"),
            &format!(
                "server = \"{registry}\"\n[host.\"{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            ),
        )?;
        write(&state.join("containerd.toml"), &containerd_config(state)?)?;
        // A cgroup of its own is what the node's numbers call the runtime.
        let enter = "for dir in /sys/fs/cgroup/cpu /sys/fs/cgroup/memory /sys/fs/cgroup/pids; do \
                     [ ! -d $dir ] || { mkdir -p $dir/containerd && echo $$ >$dir/containerd/cgroup.procs; }; done; \
                     echo $$ >\"$1\"; shift; exec \"$@\"";
        let mut command = self.machine.command("sh")?;
        command.args(["-c", enter, "sh"]).arg(self.pid_file()).arg("env").arg(self.path_variable());
        command.arg(self.bin.join("containerd")).arg("--config").arg(state.join("containerd.toml"));
        self.run(command, "containerd.log")?;
        let is_up =
            holds_within(READY, || self.ctr(&["plugins", "ls"]).is_ok_and(|said| said.contains("cri")));
        ensure!(is_up, "it does not serve; {}", process::file_tail(&state.join("containerd.log"), 20));
        self.ctr(&["images", "import", "--local", &archive.display().to_string()])?;
        for name in images::NAMES_OF_PAUSE {
            self.ctr(&["images", "tag", "--force", images::PAUSE, name])?;
            self.ctr(&[
                "images",
                "label",
                name,
                "io.cri-containerd.image=managed",
                "io.cri-containerd.pinned=pinned",
            ])?;
        }
        Ok(())
    }

    fn start_control_plane(&mut self) -> Result<()> {
        let dir = self.machine.state().join("services");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let mut command = self.machine.command("env")?;
        command.arg(format!("--chdir={}", dir.display())).arg(self.programs.path(Program::Suite));
        command.args(["--run-services-mode", &format!("--bearer-token={TOKEN}")]);
        self.run(command, "services.log")?;
        let is_up = holds_within(READY, || self.get("/readyz").is_ok());
        ensure!(
            is_up,
            "it does not answer; {}",
            process::file_tail(&self.machine.state().join("services.log"), 20)
        );
        Ok(())
    }

    fn start_agent(&mut self, agent: &Path) -> Result<()> {
        let (state, dir) = (self.machine.state(), self.dir());
        for below in ["kubelet.conf.d", "static-pods"] {
            let below = dir.join(below);
            fs::create_dir_all(&below).with_context(|| format!("creating {}", below.display()))?;
        }
        write(&dir.join("kubeconfig"), &kubeconfig().to_string())?;
        // Of this name in the folder that the suite runs in: tests read and rewrite it.
        write(&self.config_path(), &configuration(&dir).to_string())?;
        let suite = dir.join(Program::Suite.name());
        std::os::unix::fs::symlink(self.programs.path(Program::Suite), &suite)
            .with_context(|| format!("linking {}", suite.display()))?;
        write(&state.join("agent"), &self.agent_script(agent))?;
        let systemctl = state.join("bin/systemctl");
        process::output(self.machine.command(&systemctl)?.arg("start"))?;
        let begun = Instant::now();
        let mut running = true;
        let is_ready = holds_within(READY, || {
            let mut is_active = self.machine.command(&systemctl);
            running =
                is_active.as_mut().is_ok_and(|command| process::output(command.arg("is-active")).is_ok());
            !running || self.node_is_ready()
        });
        let log = || process::file_tail(&state.join("agent.log"), 30);
        if !running {
            bail!("{} has ended; {}", agent.display(), log());
        }
        ensure!(is_ready, "the node is not Ready after {} s; {}", READY.as_secs(), log());
        println!("node Ready {:.1} s after the agent's start", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Runs the tests to their end; the path of ginkgo's report.
    pub fn run_tests(&self, selection: &Selection<'_>) -> Result<PathBuf> {
        let (state, dir) = (self.machine.state(), self.dir());
        let report = state.join("report.json");
        let path = std::env::join_paths(
            std::iter::once(state.join("bin"))
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )?;
        let mut command = self.machine.command("env")?;
        command.arg(format!("PATH={}", path.to_string_lossy()));
        command.arg(self.programs.path(Program::Ginkgo)).arg("run");
        command.args(["--no-color", "--silence-skips", "--poll-progress-after=0", "--grace-period=30s"]);
        command.arg(format!("--nodes={}", selection.processes)).arg(format!("--timeout={LIMIT}"));
        command.arg(format!("--label-filter={}", selection.labels));
        command.args(selection.focus.map(|focus| format!("--focus={focus}")));
        command.args(selection.skip.map(|skip| format!("--skip={skip}")));
        command.arg(format!("--output-dir={}", state.display())).arg("--json-report=report.json");
        command.arg(dir.join(Program::Suite.name())).arg("--");
        command.args(["--start-services=false", "--stop-services=false", "--prepull-images=false"]);
        command.args([&format!("--bearer-token={TOKEN}"), &format!("--host={SERVER}")]);
        command.arg(format!("--container-runtime-endpoint=unix://{CONTAINERD}"));
        command.arg(format!("--container-runtime-pid-file={}", self.pid_file().display()));
        command.arg(format!("--config-dir={}", dir.join("kubelet.conf.d").display()));
        command.arg(format!("--kubelet-config-file={}", self.config_path().display()));
        command.arg(format!("--report-dir={}", state.join("suite-report").display()));
        let log = "suite.log";
        let status = self.machine.spawn(command, log)?.wait().context("waiting for ginkgo")?;
        if !report.is_file() {
            bail!(
                "ginkgo ended with {status} and left no report; {}",
                process::file_tail(&state.join(log), 40)
            );
        }
        Ok(report)
    }

    fn run(&mut self, command: Command, log: &str) -> Result<()> {
        self._children.push(self.machine.spawn(command, log)?);
        Ok(())
    }

    fn dir(&self) -> PathBuf {
        self.machine.state().join("suite")
    }

    fn config_path(&self) -> PathBuf {
        self.dir().join("kubelet-config")
    }

    fn pid_file(&self) -> PathBuf {
        self.machine.state().join("containerd.pid")
    }

    fn path_variable(&self) -> String {
        format!("PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.bin.display())
    }

    fn ctr(&self, args: &[&str]) -> Result<String> {
        let mut command = self.machine.command(self.bin.join("ctr"))?;
        process::output(command.args(["--namespace", "k8s.io"]).args(args))
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut command = self.machine.command("curl")?;
        let header = format!("Authorization: Bearer {TOKEN}");
        process::output(command.args(["-skf", "-H", &header, &format!("{SERVER}{path}")]))
    }

    fn node_is_ready(&self) -> bool {
        let nodes = self.get("/api/v1/nodes").ok().and_then(|said| serde_json::from_str::<Value>(&said).ok());
        let Some(nodes) = nodes.and_then(|list| list["items"].as_array().cloned()) else { return false };
        let ready = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        matches!(&nodes[..], [node] if ready(node))
    }

    /// The same for oomlet and kubelet: what the suite gives a kubelet that it starts itself.
    fn agent_script(&self, agent: &Path) -> String {
        let dir = self.dir();
        let args = [
            agent.display().to_string(),
            if agent.ends_with("oomlet") { "run".to_owned() } else { String::new() },
            format!("--kubeconfig={}", dir.join("kubeconfig").display()),
            "--root-dir=/var/lib/kubelet".to_owned(),
            "--v=4".to_owned(),
            format!("--config-dir={}", dir.join("kubelet.conf.d").display()),
            format!("--config={}", self.config_path().display()),
            format!("--container-runtime-endpoint=unix://{CONTAINERD}"),
            "--runtime-cgroups=/containerd".to_owned(),
        ];
        let quoted = args.iter().filter(|arg| !arg.is_empty()).map(|arg| format!("'{arg}'"));
        format!(
            "mkdir -p /sys/fs/cgroup/cpu/kubelet /sys/fs/cgroup/memory/kubelet /sys/fs/cgroup/pids/kubelet 2>/dev/null\n\
             exec env -i {} HOME=/root LANG=C.UTF-8 {}\n",
            self.path_variable(),
            quoted.collect::<Vec<_>>().join(" ")
        )
    }
}

/// What the suite would give the kubelet that it starts: its defaults and its overrides; and what this machine needs. Its disk may
/// be fuller than the suite's tenth that is to be free.
fn configuration(dir: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/",
        "podCIDR": "10.100.0.0/24",
        "volumeStatsAggPeriod": "10s",
        "fileCheckFrequency": "10s",
        "evictionPressureTransitionPeriod": "30s",
        "evictionHard": { "memory.available": "250Mi", "nodefs.available": "1Gi", "nodefs.inodesFree": "5%" },
        "evictionMinimumReclaim": { "nodefs.available": "500Mi", "nodefs.inodesFree": "5%" },
        "serializeImagePulls": false,
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "readOnlyPort": 10255,
        "staticPodPath": dir.join("static-pods"),
        "kubeletCgroups": "/kubelet",
        "systemCgroups": "/system",
        "failCgroupV1": false,
        "failSwapOn": false,
    })
}

fn kubeconfig() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "suite",
        "users": [{ "name": "agent", "user": { "token": TOKEN } }],
        "clusters": [{ "name": "suite", "cluster": { "server": SERVER, "insecure-skip-tls-verify": true } }],
        "contexts": [{ "name": "suite", "context": { "cluster": "suite", "user": "agent" } }],
    })
}

fn conflist(state: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": machine::NAME,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": state.join("cni/data"),
                    "ranges": [[{ "subnet": "10.100.0.0/24" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    })
}

/// At the paths that the suite expects. `test-handler` is the RuntimeClass handler of its tests.
fn containerd_config(state: &Path) -> Result<String> {
    let (runc, state, pause) = (runc()?, state.display(), images::PAUSE);
    let runtime = |name: &str| {
        format!(
            "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.{name}]\n\
             runtime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.{name}.options]\n\
             BinaryName = \"{}\"\nSystemdCgroup = false\n",
            runc.display()
        )
    };
    Ok(format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]

[grpc]
address = "{CONTAINERD}"

[plugins."io.containerd.internal.v1.opt"]
path = "{state}/opt"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{state}/certs.d"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
disable_apparmor = true
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni}"]
conf_dir = "{state}/cni/conf"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
{}{}"#,
        runtime("runc"),
        runtime("test-handler"),
        cni = crate::private_containerd::cni_bin_dir()
    ))
}
