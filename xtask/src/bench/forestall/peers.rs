//! The other tools, from Debian's packages: fetched here, unpacked into a machine of the lab by that machine itself, each
//! with the configuration that its package brings and with one that follows its documentation.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};

use super::matrix::Peer;
use crate::setup::apt::{Mirror, Suite};
use crate::{paths, process};

/// The lab's own release.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 3] = ["earlyoom", "nohang", "systemd-oomd"];
/// What every Debian has, or the lab's machines have: never unpacked over what runs there.
const THERE: [&str; 22] = [
    "libc6",
    "libgcc-s1",
    "gcc-14-base",
    "dpkg",
    "debconf",
    "systemd",
    "libsystemd-shared",
    "libsystemd0",
    "init-system-helpers",
    "libcrypt1",
    "zlib1g",
    "libzstd1",
    "liblzma5",
    "libbz2-1.0",
    "libtinfo6",
    "libuuid1",
    "libssl3t64",
    "libcap2",
    "mount",
    "util-linux",
    "tar",
    "procps",
];
/// Of this name among the test binaries that a machine gets.
pub const ARCHIVE: &str = "peers.tar";

/// Bytes of the archive's name that change when its content would.
const RECIPE: &str = "2";

/// The archive with the unpacked packages, from the cache or made anew.
pub fn fetch() -> Result<PathBuf> {
    let dir = paths::cache()?.join("lab");
    let path = dir.join(format!("peers-{SUITE}-{RECIPE}.tar"));
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    println!("-> {}: Debian {SUITE}'s packages, unpacked into the cache", PACKAGES.join(", "));
    let work = tempfile::tempdir_in(&dir)?;
    let suite = Suite::open(&Mirror::of_this_machine()?, SUITE, &work.path().join("apt"))?;
    let packages = closure(|package| suite.depends(package))?;
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let root = work.path().join("root");
    suite.unpack(&packages, &root)?;
    let made = work.path().join("made.tar");
    process::output(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&made).arg("."))?;
    fs::rename(&made, &path).with_context(|| format!("moving it to {}", path.display()))?;
    Ok(path)
}

/// The packages and all they need but what is there.
fn closure(depends: impl Fn(&str) -> Result<Vec<String>>) -> Result<BTreeSet<String>> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut open: VecDeque<String> = PACKAGES.map(str::to_owned).into();
    while let Some(package) = open.pop_front() {
        // Virtual packages are named in angle brackets, and so are real ones of any architecture.
        if package.starts_with('<') || THERE.contains(&package.as_str()) || !found.insert(package.clone()) {
            continue;
        }
        let needs = depends(&package).with_context(|| format!("asking what {package} needs"))?;
        open.extend(needs.into_iter().map(|name| real_name(&name)));
    }
    Ok(found)
}

/// `NAME`, `NAME:amd64` or `<NAME:any>`; `<NAME>` stays, for it is no package.
fn real_name(name: &str) -> String {
    let any = name.strip_prefix('<').and_then(|rest| rest.strip_suffix(":any>"));
    any.or_else(|| name.split(':').next()).unwrap_or(name).to_owned()
}

/// Unpacks the archive into the root of this machine of the lab.
pub fn install(archive: &Path) -> Result<()> {
    process::output(Command::new("tar").args(["-C", "/", "--keep-directory-symlink", "-xf"]).arg(archive))
        .map(drop)
}

/// A peer at work; ended when dropped.
#[derive(Debug)]
pub struct Daemon {
    /// `None`: a service of systemd's.
    child: Option<Child>,
    log: PathBuf,
}

impl Daemon {
    /// `pods` is the cgroup of all pods.
    pub fn start(peer: Peer, tuned: bool, pods: &Path, log: &Path) -> Result<Daemon> {
        let mut command = match peer {
            Peer::Earlyoom => earlyoom(tuned)?,
            Peer::Nohang => nohang(tuned, log)?,
            Peer::SystemdOomd => {
                start_oomd(tuned, pods)?;
                return Ok(Daemon { child: None, log: log.to_owned() });
            }
        };
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting `{}`", process::line(&command)))?;
        Ok(Daemon { child: Some(child), log: log.to_owned() })
    }

    /// `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    pub fn diagnosis(&self) -> String {
        process::file_tail(&self.log, 20)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        match &mut self.child {
            Some(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            None => {
                let _ = process::output(Command::new("systemctl").args(["stop", "systemd-oomd.service"]));
            }
        }
    }
}

/// What the package's service runs: its arguments come from /etc/default/earlyoom. Tuned: earlyoom(1)'s `-p`, and what its
/// README says under "Preferred Processes". The threshold stays at 10 %, which is about the others' here.
fn earlyoom(tuned: bool) -> Result<Command> {
    let mut command = Command::new("sh");
    if !tuned {
        command.args(["-c", ". /etc/default/earlyoom; eval exec earlyoom $EARLYOOM_ARGS"]);
        return Ok(command);
    }
    let mut command = Command::new("earlyoom");
    command.args(["-r", "3600", "-p", "--prefer", "^oomlet-workload$"]);
    command.args(["--avoid", "^(init.sh|systemd|containerd|containerd-shim|runc|oomlet|xtask)$"]);
    Ok(command)
}

fn nohang(tuned: bool, log: &Path) -> Result<Command> {
    const STOCK: &str = "/etc/nohang/nohang.conf";
    let mut config = PathBuf::from(STOCK);
    if tuned {
        let stock = fs::read_to_string(STOCK).with_context(|| format!("reading {STOCK}"))?;
        config = log.with_extension("conf");
        fs::write(&config, nohang_tuned(&stock)?).with_context(|| format!("writing {}", config.display()))?;
    }
    let mut command = Command::new("nohang");
    command.args(["--monitor", "--config"]).arg(config);
    Ok(command)
}

/// The thresholds that earlyoom has, PSI (sections 2, 5 and 6 of the file), and the node's own programs as the last to go
/// (section 7.2.5).
fn nohang_tuned(stock: &str) -> Result<String> {
    const VALUES: [(&str, &str); 3] = [
        ("psi_checking_enabled", "True"),
        ("soft_threshold_min_mem", "10 %"),
        ("hard_threshold_min_mem", "5 %"),
    ];
    let mut text = String::new();
    let mut set = 0;
    for line in stock.lines() {
        let key = line.split('=').next().unwrap_or_default().trim_end();
        match VALUES.iter().find(|(name, _)| *name == key) {
            Some((name, value)) => {
                set += 1;
                text.push_str(&format!("{name} = {value}\n"));
            }
            None => text.push_str(&format!("{line}\n")),
        }
    }
    ensure!(set == VALUES.len(), "nohang's configuration has {set} of the keys {VALUES:?}");
    text.push_str("@BADNESS_ADJ_RE_REALPATH -500 /// ^(/usr/bin/containerd.*|/usr/s?bin/runc|/oomlet/.*)$\n");
    Ok(text)
}

/// Stock: the service as it comes, which manages no cgroup. Tuned: the pods' slice is to be killed in, by pressure and by
/// swap (systemd.resource-control(5)), on less pressure and the shortest time that oomd.conf(5) allows.
fn start_oomd(tuned: bool, pods: &Path) -> Result<()> {
    ensure!(
        Path::new("/run/systemd/system").is_dir(),
        "systemd-oomd wants a machine that systemd runs: the lab's systemd profile"
    );
    let slice = pods.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let limits = Path::new("/run/systemd/oomd.conf.d/50-tuned.conf");
    let systemctl = |args: &[&str]| process::output(Command::new("systemctl").args(args));
    if tuned {
        let dir = limits.parent().context("a file without a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        fs::write(limits, "[OOM]\nDefaultMemoryPressureLimit=20%\nDefaultMemoryPressureDurationSec=1s\n")
            .with_context(|| format!("writing {}", limits.display()))?;
        let kill = ["ManagedOOMMemoryPressure=kill", "ManagedOOMSwap=kill"];
        systemctl(&[&["set-property", "--runtime", &slice][..], &kill].concat())?;
    }
    process::output(&mut Command::new("systemd-sysusers"))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["restart", "systemd-oomd.service"])?;
    // An error when it is not.
    systemctl(&["is-active", "systemd-oomd.service"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_found_once() {
        let depends = |package: &str| -> Result<Vec<String>> {
            let needs: &[&str] = match package {
                "nohang" => &["<python3:any>", "<virtual>", "libc6"],
                "python3" => &["python3.13", "libpython3-stdlib:amd64"],
                "python3.13" | "libpython3-stdlib" => &["python3", "zlib1g"],
                _ => &[],
            };
            Ok(needs.iter().map(|name| (*name).to_owned()).collect())
        };
        let found: Vec<String> = closure(depends).unwrap().into_iter().collect();
        assert_eq!(
            found,
            ["earlyoom", "libpython3-stdlib", "nohang", "python3", "python3.13", "systemd-oomd"]
        );
    }

    #[test]
    fn nohang_is_tuned_by_its_own_keys() {
        let stock = "psi_checking_enabled = False\n    Key: soft_threshold_min_mem\nsoft_threshold_min_mem = 5 %\nhard_threshold_min_mem = 2 %\nmax_sleep = 3\n";
        let tuned = nohang_tuned(stock).unwrap();
        for line in [
            "psi_checking_enabled = True",
            "soft_threshold_min_mem = 10 %",
            "hard_threshold_min_mem = 5 %",
            "max_sleep = 3",
        ] {
            assert!(tuned.lines().any(|l| l == line), "{line} in {tuned}");
        }
        assert!(tuned.contains("@BADNESS_ADJ_RE_REALPATH"));
        assert!(nohang_tuned("other = 1\n").is_err());
    }
}
