//! A containerd for one test: own folders, own socket, own network namespace, so that it neither sees nor disturbs
//! another one on the machine. Several can run side by side, each of another release.

mod config;
mod prepared;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cgroup_driver::CgroupDriver;
use crate::netns::NetNs;
use crate::scratch::Scratch;
use crate::setup::containerd_release::{self, RELEASES};
use crate::{images, paths, process};
pub(crate) use config::cni_bin_dir;
use prepared::Prepared;

/// How long containerd may take until its socket answers. Usually a fifth of a second; seconds on a loaded machine.
const READY: Duration = Duration::from_secs(120);

/// Of the scopes of containers that `ctr` runs.
const CTR_PREFIX: &str = "ctr";

/// The series of containerd. Which of them a machine has depends on its distribution: see [`Version::available`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V1_6,
    V1_7,
    V2,
}

impl Version {
    pub const ALL: [Version; 3] = [Version::V1_6, Version::V1_7, Version::V2];

    #[must_use]
    pub fn series(self) -> &'static str {
        match self {
            Version::V1_6 => "1.6",
            Version::V1_7 => "1.7",
            Version::V2 => "2",
        }
    }

    /// Those that the system has or set-up has put into the cache, oldest first.
    pub fn available() -> Result<Vec<Version>> {
        let mut found = Vec::new();
        for version in Version::ALL {
            if version.bin_dir()?.is_some() {
                found.push(version);
            }
        }
        Ok(found)
    }

    /// The system's own, else the oldest there is.
    pub fn of_the_system() -> Result<Version> {
        let installed = containerd_release::installed_version().unwrap_or_default();
        if let Some(version) =
            Version::ALL.into_iter().find(|v| installed.starts_with(&format!("{}.", v.series())))
        {
            return Ok(version);
        }
        let available = Version::available()?;
        available.first().copied().with_context(|| {
            format!(
                "no containerd that this fixture knows ({}) is here (the system's: {installed:?}); run `cargo xtask setup`",
                Version::ALL.map(Version::series).join(", ")
            )
        })
    }

    /// Where its programs are.
    pub(crate) fn bin_dir(self) -> Result<Option<PathBuf>> {
        if let Some(release) = RELEASES.iter().find(|r| r.series == self.series())
            && release.binary()?.is_some()
        {
            return release.bin_dir().map(Some);
        }
        let installed = containerd_release::installed_version().unwrap_or_default();
        if !installed.starts_with(&format!("{}.", self.series())) {
            return Ok(None);
        }
        Ok(paths::program("containerd").and_then(|path| path.parent().map(Path::to_owned)))
    }
}

/// Running until dropped. What it started is ended by the [`Scratch`] that it lives in.
#[derive(Debug)]
pub struct PrivateContainerd {
    version: Version,
    bin_dir: PathBuf,
    dir: PathBuf,
    cgroup_root: String,
    cgroup_driver: CgroupDriver,
    netns: Arc<NetNs>,
    child: Option<Child>,
}

impl PrivateContainerd {
    /// Starts it in `scratch`/containerd with the sample images; returns when its socket answers.
    pub fn start(version: Version, scratch: &Scratch) -> Result<PrivateContainerd> {
        let bin_dir = version.bin_dir()?.with_context(|| {
            format!("containerd {} is not on this machine; `cargo xtask setup` says why", version.series())
        })?;
        let dir = scratch.create_dir("containerd")?;
        let network = scratch.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        config::write(version, &dir, &network, scratch.cgroup_driver())?;
        let mut containerd = PrivateContainerd {
            version,
            bin_dir,
            dir,
            cgroup_root: scratch.cgroup_root().to_owned(),
            cgroup_driver: scratch.cgroup_driver(),
            netns: Arc::new(NetNs::new()?),
            child: None,
        };
        containerd.spawn_with_samples()?;
        Ok(containerd)
    }

    fn spawn_with_samples(&mut self) -> Result<()> {
        let (samples, root) = (images::samples()?, self.dir.join(config::ROOT));
        let prepared = Prepared::of(self.version, &samples)?;
        if prepared.copy_to(&root)? {
            return self.spawn();
        }
        let lock = prepared.lock()?;
        if !prepared.copy_to(&root)? {
            self.spawn()?;
            self.import_image(&samples)?;
            self.kill()?;
            prepared.keep(&root)?;
        }
        drop(lock);
        self.spawn()
    }

    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// For `--container-runtime-endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The namespace that the pods' addresses are in.
    #[must_use]
    pub fn netns(&self) -> &Arc<NetNs> {
        &self.netns
    }

    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("containerd.log")
    }

    /// While it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL to containerd alone: shims and containers run on.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("killing containerd")?;
            child.wait().context("waiting for containerd")?;
        }
        Ok(())
    }

    /// Starts it again on the same folders, killing it first if it runs; returns when its socket answers.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()
    }

    /// Injects a runtime that is slow to answer: from now on, while the file `hold` is there, the second start (of a pod's
    /// container, after its sandbox) is answered only once the file has gone; it goes with the scratch that it is in.
    pub fn hold_second_start(&mut self, hold: &Path) -> Result<()> {
        config::wrap_runc(&self.dir, hold)?;
        self.restart()
    }

    /// Imports an archive for CRI.
    pub fn import_image(&self, tar: &Path) -> Result<()> {
        process::output(self.ctr().args(["images", "import"]).arg(tar)).map(drop)
    }

    /// `ctr` of the same release on its socket, in CRI's namespace.
    #[must_use]
    pub fn ctr(&self) -> Command {
        let mut command = Command::new(self.bin_dir.join("ctr"));
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]);
        command
    }

    /// Runs an image to its end without CRI and returns its stdout.
    pub fn run_image(&self, image: &str, id: &str, args: &[&str]) -> Result<String> {
        process::output(self.ctr_run(id)?.args(["--rm", image, id]).args(args))
    }

    /// Starts an image without CRI and leaves it running.
    pub fn start_image(&self, image: &str, id: &str, args: &[&str]) -> Result<()> {
        process::output(self.ctr_run(id)?.args(["--detach", image, id]).args(args)).map(drop)
    }

    /// ctr's own defaults for runc's state and the fifos are the machine's, which containers of the same name in two
    /// containerds would share.
    fn ctr_run(&self, id: &str) -> Result<Command> {
        let mut command = self.ctr();
        command.args(["run", "--runc-binary"]).arg(runc()?);
        command.arg("--runc-root").arg(self.dir.join("runc"));
        command.arg("--fifo-dir").arg(self.dir.join("fifo"));
        match self.cgroup_driver {
            CgroupDriver::Cgroupfs => command.args(["--cgroup", &format!("{}/{id}", self.cgroup_root)]),
            CgroupDriver::Systemd => {
                let slice = self.cgroup_driver.path(&self.cgroup_root);
                // slice:prefix:name
                let cgroup = format!("{}:{CTR_PREFIX}:{id}", slice.display());
                command.args(["--runc-systemd-cgroup", "--cgroup", &cgroup])
            }
        };
        Ok(command)
    }

    /// Ids of the containers (and sandboxes) that have a running task.
    pub fn running_tasks(&self) -> Result<Vec<String>> {
        let text = process::output(self.ctr().args(["tasks", "list"]))?;
        Ok(text
            .lines()
            .filter(|line| line.contains("RUNNING"))
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect())
    }

    fn spawn(&mut self) -> Result<()> {
        let log =
            File::options().create(true).append(true).open(self.log_path()).context("opening the log")?;
        let mut path = vec![self.bin_dir.clone()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        path.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
        let child = self
            .netns
            .command(self.bin_dir.join("containerd"))
            .arg("--config")
            .arg(self.dir.join("config.toml"))
            // It looks for its shim on PATH first, and each release wants its own.
            .env("PATH", std::env::join_paths(path)?)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is for the program that owns it.
            .process_group(0)
            .spawn()
            .context("starting containerd by nsenter (util-linux)")?;
        self.child = Some(child);
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut ended = None;
        let ready = process::holds_within(READY, || {
            ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            // `plugins ls` asks the server; CRI's entry is `ok` when it serves.
            ended.is_some()
                || (self.socket().exists()
                    && process::output(self.ctr().args(["plugins", "ls"])).is_ok_and(|text| cri_is_up(&text)))
        });
        if let Some(status) = ended {
            bail!(
                "containerd {} ended with {status}; {}",
                self.version.series(),
                process::file_tail(&self.log_path(), 30)
            );
        }
        if !ready {
            bail!(
                "containerd {} does not serve CRI after {} s; {}",
                self.version.series(),
                READY.as_secs(),
                process::file_tail(&self.log_path(), 30)
            );
        }
        Ok(())
    }
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// `TYPE ID PLATFORMS STATUS`: up when CRI's services are there and ok.
fn cri_is_up(plugins: &str) -> bool {
    plugins.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("io.containerd.grpc.v1")
            && words.next() == Some("cri")
            && words.next_back() == Some("ok")
    })
}

/// One runc for every release: the system's.
pub(crate) fn runc() -> Result<PathBuf> {
    paths::program("runc").context("there is no runc; run `cargo xtask setup`")
}

#[cfg(test)]
mod tests;
