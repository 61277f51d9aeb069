//! A machine made of namespaces (mount, network, process ids, hostname, IPC, cgroup) for a suite that takes the paths and
//! ports of one for its own: `/var/lib/kubelet`, `/var/log/pods`, `/kubepods`, ports 6443, 10248, 10250. Nothing of the real
//! machine's is touched, and dropping it ends all of it.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::NetNs;
use crate::process::{self, holds_within};
use crate::scratch::Scratch;

const INIT: &str = include_str!("machine/init.sh");
const SYSTEMCTL: &str = include_str!("machine/systemctl.sh");
/// The suite asks for more rights than it has as root.
const SUDO: &str = "#!/bin/sh\nexec \"$@\"\n";

pub(super) const NAME: &str = "conformance-node";
/// From a block for tests (RFC 5737), with a router that is the machine's own neighbour.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
const SETTLED: Duration = Duration::from_secs(30);
/// A node that has just been started has seen some traffic, which a test of its numbers asserts.
const TRAFFIC_BYTES: usize = 3_000_000;

#[derive(Debug)]
pub(super) struct Machine {
    /// unshare; its child is the machine's first process and dies with it.
    outer: Child,
    /// From here; the machine itself knows it as 1.
    first: u32,
    network: NetNs,
    _router: NetNs,
    scratch: Scratch,
}

impl Machine {
    pub fn start() -> Result<Machine> {
        let scratch = Scratch::new("conformance")?;
        let state = scratch.path();
        for dir in [
            "var/lib/kubelet",
            "var/lib/containerd",
            "var/log/pods",
            "var/log/containers",
            "suite",
            "etc",
            "bin",
        ] {
            scratch.create_dir(dir)?;
        }
        write(&state.join("etc/hosts"), &format!("127.0.0.1 localhost\n{ADDRESS} {NAME}\n"))?;
        write(&state.join("etc/resolv.conf"), &format!("nameserver {ADDRESS}\n"))?;
        write(&state.join("init"), INIT)?;
        for (name, script) in [("systemctl", SYSTEMCTL), ("sudo", SUDO)] {
            let path = state.join("bin").join(name);
            write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("making {} a program", path.display()))?;
        }
        make_cgroups(&scratch)?;
        let (network, router) = (NetNs::new()?, NetNs::new()?);
        connect(&network, &router)?;
        let mut command = inside_cgroups(&scratch)?;
        command.arg("nsenter").arg(format!("--net={}", network.path().display()));
        command.args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child"]);
        command.args(["--propagation=private", "sh"]).arg(state.join("init")).arg(state).arg(NAME);
        let log = fs::File::create(state.join("init.log")).context("creating the log of init")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let outer = command.spawn().context("starting unshare (util-linux)")?;
        let mut machine = Machine { outer, first: 0, network, _router: router, scratch };
        machine.wait_ready()?;
        Ok(machine)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (ready, pid) = (self.state().join("ready"), self.outer.id());
        let is_up =
            holds_within(SETTLED, || ready.exists() || self.outer.try_wait().is_ok_and(|end| end.is_some()));
        ensure!(
            is_up && ready.exists(),
            "the node's namespaces were not made; {}",
            process::file_tail(&self.state().join("init.log"), 20)
        );
        let children = format!("/proc/{pid}/task/{pid}/children");
        let said = fs::read_to_string(&children).with_context(|| format!("reading {children}"))?;
        self.first = said.trim().parse().with_context(|| format!("{children} says {said:?}"))?;
        Ok(())
    }

    /// What is in here has the same path inside.
    pub fn state(&self) -> &Path {
        self.scratch.path()
    }

    /// `program`, to be run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = inside_cgroups(&self.scratch)?;
        command.args(["nsenter", &format!("--target={}", self.first)]);
        command.args(["--mount", "--net", "--pid", "--uts", "--cgroup", "--ipc", "--"]).arg(program);
        Ok(command)
    }

    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        self.network.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Runs it inside for as long as the machine is there; its output goes to this file of the state folder.
    pub fn spawn(&self, mut command: Command, log: &str) -> Result<Child> {
        let path = self.state().join(log);
        let file = fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let shown = process::line(&command);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        command.spawn().with_context(|| format!("starting `{shown}`"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

/// The node's cgroup in each hierarchy. On v1 a new cpuset is empty, and no process may enter it.
fn make_cgroups(scratch: &Scratch) -> Result<()> {
    for dir in scratch.cgroup_dirs()? {
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let parent = dir.parent().context("a cgroup root is below its mount")?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (parent.join(file), dir.join(file));
            if from.is_file() && to.is_file() {
                fs::copy(&from, &to).with_context(|| format!("filling {}", to.display()))?;
            }
        }
    }
    Ok(())
}

/// A shell that enters the node's cgroups and becomes the program that is to follow.
fn inside_cgroups(scratch: &Scratch) -> Result<Command> {
    let enter = scratch.cgroup_dirs()?.iter().fold(String::new(), |mut script, dir| {
        script += &format!("echo $$ >'{}/cgroup.procs' || exit 1; ", dir.display());
        script
    });
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{enter}exec \"$@\""), "sh"]);
    Ok(command)
}

fn connect(network: &NetNs, router: &NetNs) -> Result<()> {
    network.sh(&format!(
        "ip link add eth0 type veth peer name uplink netns {} && ip address add {ADDRESS}/24 dev eth0 && \
         ip link set eth0 up",
        router.path().display()
    ))?;
    router.sh(&format!(
        "ip address add {ROUTER}/24 dev uplink && ip link set uplink up && ip route add default via {ADDRESS}"
    ))?;
    network.sh(&format!("ip route add default via {ROUTER} dev eth0"))?;
    let listener = network.listen(SocketAddr::from((ADDRESS, 0)))?;
    let mut stream = router.connect(listener.local_addr()?)?;
    let reader = std::thread::spawn(move || -> std::io::Result<u64> {
        let (mut stream, _) = listener.accept()?;
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    stream.write_all(&vec![0; TRAFFIC_BYTES])?;
    drop(stream);
    let read = reader.join().map_err(|_| anyhow::anyhow!("the thread that reads has panicked"))?;
    read.context("reading what was sent over the node's link").map(drop)
}

pub(super) fn write(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
