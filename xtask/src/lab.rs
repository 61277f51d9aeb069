//! `cargo xtask lab`: virtual machines with the kernels that the agent supports, on cgroup v2.
//!
//! - [`kernel`]: Debian's kernels, unpacked; [`bzimage`]: the kernel in its package.
//! - [`root_fs`]: the machines' Debian; [`initrd`]: what comes before it; [`disk`]: images from folders.
//! - [`share`]: the agent, the tests and the sample images for the guest.
//! - [`accel`]: KVM or emulation; [`machine`]: one boot with one command.
//! - [`leftovers`]: folders of calls that were killed.
//! - [`suite`]: the whole test suite in many of them.
//! - `guest/`: the scripts that run inside.

mod accel;
mod bzimage;
mod disk;
mod initrd;
pub mod kernel;
mod leftovers;
pub mod machine;
mod root_fs;
mod share;
mod suite;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile as BuildProfile, TestBinary};
use crate::paths;
use crate::setup::apt::Mirror;
use crate::setup::{self, role};
use accel::Accel;
use kernel::Kernel;
use machine::{Machine, Output, Profile};
pub use share::test_path;

/// The test binaries that go along with a command.
const TESTS: [&str; 3] = ["kernel", "suite", "vm"];

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// 5.10, 6.1, 6.12, 7.2, or all, one after the other.
    #[arg(long, default_value = "6.1", value_parser = parse_kernels)]
    kernel: Kernels,
    /// Memory of each machine, such as 512M or 2G.
    #[arg(long, default_value = "1G", value_parser = parse_mib)]
    memory: u64,
    #[arg(long, default_value = "2")]
    cpus: usize,
    /// fast unless said otherwise; the suite runs in both.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// More words for the kernel's command line, such as lockdown=confidentiality.
    #[arg(long, default_value = "")]
    append: String,
    /// Seconds that the command may take.
    #[arg(long, default_value = "600")]
    timeout: u64,
    /// Run inside by a shell; without one, a shell is opened. `suite` runs the whole test suite, `selection` what
    /// `cargo xtask test` takes along, or those of its machines that are named behind it.
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kernels(Vec<Kernel>);

fn parse_kernels(text: &str) -> Result<Kernels, String> {
    if text == "all" {
        return Ok(Kernels(Kernel::ALL.to_vec()));
    }
    let kernel = text.parse().map_err(|error| format!("{error}, and all"))?;
    Ok(Kernels(vec![kernel]))
}

/// `512M`, `2G`, or MiB without a suffix.
fn parse_mib(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.trim_end_matches("iB").trim_end_matches('i') {
        t if t.ends_with(['G', 'g']) => (&t[..t.len() - 1], 1024),
        t if t.ends_with(['M', 'm']) => (&t[..t.len() - 1], 1),
        t => (t, 1),
    };
    let mib = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    // containerd alone takes a hundred.
    mib.filter(|mib| *mib >= 256).ok_or_else(|| format!("{text:?} is no memory size of 256M or more"))
}

/// What a virtual machine alone can show: what `cargo xtask test` takes along.
pub fn run_what_takes_a_machine() -> Result<()> {
    suite::run_selection(&[])
}

/// Why there can be no lab here, if there cannot.
pub fn is_possible() -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "the lab knows x86_64 machines only");
    if Kernel::V6_1.is_fetched()? {
        return Ok(());
    }
    Mirror::of_this_machine().map(drop)
}

pub fn run(options: &Options) -> Result<ExitCode> {
    is_possible()?;
    let profile = BuildProfile::Dev;
    build::agent(profile)?;
    build::workload()?;
    if options.command == ["suite"] {
        let both = [Profile::Fast, Profile::Systemd];
        let profiles = options.profile.as_ref().map_or(both.as_slice(), std::slice::from_ref);
        suite::run(&options.kernel.0, profiles)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let [word, machines @ ..] = options.command.as_slice()
        && word == "selection"
    {
        suite::run_selection(machines)?;
        return Ok(ExitCode::SUCCESS);
    }
    let lab = Lab::new(profile, &build::tests(&TESTS)?)?;
    let shell = options.command.is_empty();
    if shell {
        ensure!(options.kernel.0.len() == 1, "a shell wants one kernel");
        ensure!(std::io::stdin().is_terminal(), "a shell wants a terminal; or give a command behind `--`");
    }
    let mut worst = 0;
    for kernel in &options.kernel.0 {
        let machine = Machine {
            profile: options.profile.unwrap_or(Profile::Fast),
            memory_mib: options.memory,
            cpus: options.cpus,
            append: options.append.clone(),
            bound: Duration::from_secs(options.timeout),
            ..lab.machine(*kernel)?
        };
        let begun = Instant::now();
        let output = if shell { Output::Shell } else { Output::Inherit };
        let artifacts = lab.artifacts(&format!("{}-command", kernel.line()))?;
        let code = machine.run(&shell_line(&options.command), output, Some(&artifacts))?;
        eprintln!(
            "lab: Linux {} ({}, {}): exit code {code} after {:.1} s",
            machine.kernel.release()?,
            machine.profile.name(),
            lab.accel.name(),
            begun.elapsed().as_secs_f64()
        );
        worst = worst.max(code);
    }
    Ok(ExitCode::from(u8::try_from(worst).unwrap_or(1)))
}

/// What all machines of one call share. Its folder goes with it.
#[derive(Debug)]
pub struct Lab {
    accel: Accel,
    root: PathBuf,
    share: PathBuf,
    _dir: tempfile::TempDir,
}

impl Lab {
    /// Makes or fetches all but the kernels. `tests` go along with the agent of this profile.
    pub fn new(profile: BuildProfile, tests: &[TestBinary]) -> Result<Lab> {
        // Of a bench with machines nothing but this tells that it has any.
        setup::ensure(role::LAB)?;
        let root = root_fs::image()?;
        let dir = leftovers::folder(&paths::target()?, "oomlet-lab")?;
        let share = dir.path().join("share.ext4");
        share::write(&share, profile, tests).context("making the disk that the machines share")?;
        let mut lab = Lab { accel: Accel::Kvm, root, share, _dir: dir };
        lab.accel = Accel::choose(|| lab.boots_with_kvm())?;
        Ok(lab)
    }

    /// A machine with two CPUs and 1 GiB; callers change what they need.
    pub fn machine(&self, kernel: Kernel) -> Result<Machine> {
        Ok(Machine {
            kernel: kernel.fetch()?,
            profile: Profile::Fast,
            memory_mib: 1024,
            cpus: 2,
            root: self.root.clone(),
            share: self.share.clone(),
            accel: self.accel,
            append: String::new(),
            boot_bound: machine::BOOT_BOUND,
            bound: Duration::from_secs(600),
        })
    }

    fn accel(&self) -> Accel {
        self.accel
    }

    /// An error: it could not be tried.
    fn boots_with_kvm(&self) -> Result<bool> {
        let bound = Duration::from_secs(20);
        let machine = Machine { accel: Accel::Kvm, boot_bound: bound, bound, ..self.machine(Kernel::V6_1)? };
        let nowhere = std::fs::File::options().write(true).open("/dev/null").context("opening /dev/null")?;
        match machine.run("true", Output::File(nowhere), None) {
            // A disk that is full, or no QEMU. What the machine itself did is told without such a cause.
            Err(error) if error.downcast_ref::<std::io::Error>().is_some() => Err(error),
            ended => Ok(matches!(ended, Ok(0))),
        }
    }

    /// Where what a guest leaves is unpacked.
    pub fn artifacts(&self, name: &str) -> Result<PathBuf> {
        Ok(paths::target()?.join("lab").join(name))
    }
}

/// One word is a command line for the shell; several are a program and its arguments.
fn shell_line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => {
            words.iter().map(|w| format!("'{}'", w.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ")
        }
    }
}
