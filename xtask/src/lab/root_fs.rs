//! The root file system of the lab's machines: a small Debian with what a node needs, made by mmdebstrap and the
//! provisioning script that Vagrant's boxes run too.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{disk, leftovers};
use crate::paths;
use crate::progress::{self, Step};
use crate::setup::apt::Mirror;

const SUITE: &str = "trixie";
const PROVISION: &str = include_str!("../../../vagrant/provision.sh");
const PACKAGES: &str = include_str!("../../../vagrant/packages.txt");
/// What is not in the two files above; a change of it makes a new image.
const RECIPE: &str = "1";
/// For containers and logs. The file is sparse, and machines write to a copy.
const FREE_MIB: u64 = 6144;

/// From the cache, made first where it is not there or where its recipe has changed.
pub fn image() -> Result<PathBuf> {
    let recipe = [RECIPE, PROVISION, PACKAGES].join("\0");
    let key: String = Sha256::digest(recipe).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let dir = paths::cache()?.join("lab");
    let path = dir.join(format!("root-{key}.ext4"));
    if path.is_file() {
        fs::File::open(&path)?
            .set_modified(SystemTime::now())
            .with_context(|| format!("touching {}", path.display()))?;
        return Ok(path);
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let heading = format!(
        "root file system of the lab: Debian {SUITE} with containerd, runc, CNI plugins and systemd, by mmdebstrap"
    );
    progress::step(&heading, |step| {
        let work = leftovers::folder(&dir, "making")?;
        let root = work.path().join("root");
        make(&root, step).context("making the root file system")?;
        let image = work.path().join("image");
        step.doing("mke2fs");
        disk::from_folder(&root, &image, FREE_MIB)?;
        remove_older(&dir)?;
        fs::rename(&image, &path).with_context(|| format!("moving it to {}", path.display()))
    })?;
    Ok(path)
}

fn make(root: &std::path::Path, step: &Step) -> Result<()> {
    let mirror = Mirror::of_this_machine()?;
    let provision = paths::repository().join("vagrant");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--include=ca-certificates"]);
    for left_out in ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"] {
        command.arg(format!("--dpkgopt=path-exclude={left_out}"));
    }
    if let Some(keyring) = &mirror.keyring {
        command.arg(format!("--keyring={keyring}"));
    }
    // The script sees what a machine's would: its own copy, run as root.
    for hook in [
        "mkdir -p \"$1/tmp/provision\" && cp -r \"$OOMLET_PROVISION\"/. \"$1/tmp/provision\"",
        "echo oomlet-lab >\"$1/etc/hostname\"",
        "chroot \"$1\" bash /tmp/provision/provision.sh /tmp/provision/packages.txt node fixture guest",
        "printf '127.0.0.1 localhost\\n127.0.1.1 oomlet-lab\\n' >\"$1/etc/hosts\"; rm -rf \"$1/tmp/provision\"",
        // Nobody waits for a network that is not there, and for a login.
        "chroot \"$1\" systemctl --quiet mask getty@tty1.service serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-networkd-wait-online.service",
    ] {
        command.arg(format!("--customize-hook={hook}"));
    }
    command.arg(SUITE).arg(root).arg(&mirror.uri).env("OOMLET_PROVISION", provision);
    step.run(&mut command)
}

/// Another checkout may have another recipe and use its image now: what nobody has asked for this long goes.
const KEPT_UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);

fn remove_older(dir: &std::path::Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_unused = || -> Result<bool> {
            Ok(path.metadata()?.modified()?.elapsed().is_ok_and(|unused| unused > KEPT_UNUSED))
        };
        if name.starts_with("root-") && name.ends_with(".ext4") && is_unused()? {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}
