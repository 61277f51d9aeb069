//! The same in a machine of the lab, beside the peers: this program boots it, goes along, and brings the figures back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::figures::Figures;
use super::matrix::Part;
use super::peers::{self, ARCHIVE};
use super::{Kept, Options, kubelet};
use crate::build::{Profile as BuildProfile, TestBinary};
use crate::lab::kernel::Kernel;
use crate::lab::machine::{Machine, Output, Profile};
use crate::lab::{Lab, test_path};
use crate::process;

/// This program inside.
const PROGRAM: &str = "xtask";
/// Where a guest leaves its figures.
const OUT: &str = "OOMLET_LAB_OUT";
const FILE: &str = "forestall.json";
/// All of it, on emulated CPUs that others use as well.
const BOUND: Duration = Duration::from_secs(3 * 3600);
const MEMORY_MIB: u64 = 1024;
/// Of one whose pods share a gigabyte.
const CAPPED_MEMORY_MIB: u64 = 2048;
const SWAP_MIB: u64 = 512;

/// Boots one machine after the other. What one has left is kept also when its command failed.
pub(super) fn run(kernel: Kernel, options: &Options, kept: &Kept) -> Result<()> {
    let archive = peers::fetch().context("fetching earlyoom, nohang and systemd-oomd")?;
    let own = std::env::current_exe().context("finding the path of this program")?;
    let kubelet = options.kubelet.clone();
    let kubelet_version = kubelet.as_deref().map(kubelet::version).transpose()?;
    let along = [(PROGRAM, own), (ARCHIVE, archive)].into_iter();
    let along = along.chain(kubelet.map(|path| (kubelet::PROGRAM, path)));
    let along: Vec<TestBinary> =
        along.map(|(name, path)| TestBinary { name: name.to_owned(), path }).collect();
    let lab = Lab::new(BuildProfile::Release, &along)?;
    let mut figures = Figures::default();
    for part in Part::ALL {
        let cells = !options.chosen(part.groups(options.quick)).is_empty();
        let benign = options.wants_benign() && !part.benign().is_empty();
        if !(cells || benign) || (part == Part::Kubelet && options.kubelet.is_none()) {
            continue;
        }
        let profile = if part == Part::Systemd { Profile::Systemd } else { Profile::Fast };
        let memory_mib = if part == Part::Capped { CAPPED_MEMORY_MIB } else { MEMORY_MIB };
        let machine = Machine { profile, memory_mib, bound: BOUND, ..lab.machine(kernel)? };
        let artifacts = lab.artifacts(&format!("forestall-{}-{}", kernel.line(), part.name()))?;
        let code = machine.run(&command(options, kernel.line(), part), Output::Inherit, Some(&artifacts))?;
        let left = artifacts.join(FILE);
        if left.is_file() {
            let mut new = read(&left)?;
            if let (Part::Kubelet, Some(version)) = (part, &kubelet_version) {
                new.kubelet = Some(version.clone());
            }
            figures.add(new);
            kept.write(&figures, false)?;
        }
        ensure!(code == 0, "the machine's command ended with exit code {code}; its output says why");
    }
    kept.write(&figures, !options.is_partial())
}

fn command(options: &Options, line: &str, part: Part) -> String {
    let program = test_path(BuildProfile::Release, PROGRAM).display().to_string();
    let mut words = vec![program, format!("bench forestall --here {line}/{}", part.name())];
    if part == Part::Systemd {
        // systemd-oomd knows cgroups that systemd manages.
        words.insert(0, "OOMLET_TEST_CGROUP_DRIVER=systemd".to_owned());
    }
    if options.quick {
        words.push("--quick".to_owned());
    }
    if let Some(runs) = options.runs {
        words.push(format!("--runs {runs}"));
    }
    if let Some(only) = &options.only {
        words.push(format!("--only '{}'", only.replace('\'', "")));
    }
    words.join(" ")
}

/// Inside: what is there of the peers.
pub fn install_peers() -> Result<()> {
    peers::install(&test_path(BuildProfile::Release, ARCHIVE))
}

/// Inside: a swap file.
pub fn swap_on() -> Result<()> {
    let file = "/swapfile";
    let count = format!("count={SWAP_MIB}");
    let steps: [&[&str]; 4] = [
        &["dd", "if=/dev/zero", "of=/swapfile", "bs=1M", &count],
        &["chmod", "600", file],
        &["mkswap", file],
        &["swapon", file],
    ];
    for step in steps {
        process::output(Command::new(step[0]).args(&step[1..]))?;
    }
    Ok(())
}

/// Inside: leaves the figures for the host.
pub fn leave(figures: &Figures) -> Result<()> {
    let dir = std::env::var_os(OUT).with_context(|| format!("{OUT} is not set: not a machine of the lab"))?;
    let path = Path::new(&dir).join(FILE);
    std::fs::write(&path, serde_json::to_vec(figures)?).with_context(|| format!("writing {}", path.display()))
}

fn read(path: &Path) -> Result<Figures> {
    let text = std::fs::read(path)
        .with_context(|| format!("reading what the machine left in {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}
