//! `cargo xtask setup`: what the machine needs, what is there, and installing the rest.
//!
//! Reads the machine (files, PATH, rustup's folder), never guesses from package lists what a file can tell: a
//! program that is there is left alone, whoever put it there.

pub mod apt;
pub mod containerd_release;
pub mod ebpf_toolchain;
pub mod packages;
pub mod qemu;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};

use crate::{paths, process, root};
use containerd_release::Release;
use ebpf_toolchain::Toolchain;
use packages::Package;

/// One thing that the machine needs.
#[derive(Debug)]
pub struct Need {
    pub name: String,
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
    RustComponents,
    ByHand,
}

/// Reads the machine; installs nothing, needs no root.
pub fn needs() -> Result<Vec<Need>> {
    let toolchain = Toolchain::choose()?;
    let mut needs: Vec<Need> = Vec::new();
    for package in packages::all()? {
        match package.role {
            packages::Role::Ebpf if toolchain != Toolchain::Debian => continue,
            packages::Role::Guest => continue,
            _ => {}
        }
        needs.push(Need {
            present: package.present(),
            name: package.name.clone(),
            why: package.why.clone(),
            how: format!("apt-get install {}", package.name),
            optional: package.role == packages::Role::Vagrant,
            install: Install::Package(package),
        });
    }
    needs.push(Need {
        name: "rustfmt, clippy".to_owned(),
        why: "`cargo xtask test` checks format and lints".to_owned(),
        how: "rustup component add rustfmt clippy".to_owned(),
        present: paths::program("cargo-fmt").is_some() && paths::program("cargo-clippy").is_some(),
        optional: false,
        install: Install::RustComponents,
    });
    match &toolchain {
        Toolchain::Debian => needs.push(Need {
            name: format!("toolchain {}", ebpf_toolchain::LINKED_NAME),
            why: "gives rustup a name for Debian's rustc, for the build script of the agent".to_owned(),
            how: format!("rustup toolchain link {} /usr", ebpf_toolchain::LINKED_NAME),
            present: ebpf_toolchain::is_linked()?,
            optional: false,
            install: Install::LinkToolchain,
        }),
        Toolchain::Named(name) => needs.push(Need {
            name: format!("toolchain {name} with rust-src"),
            why: "compiles the eBPF programs".to_owned(),
            how: format!("rustup toolchain install {name} --component rust-src"),
            present: ebpf_toolchain::has_source(name)?,
            optional: false,
            install: Install::ByHand,
        }),
    }
    needs.push(Need {
        name: "bpf-linker".to_owned(),
        why: "links the eBPF programs; its LLVM must be the compiler's".to_owned(),
        how: process::line(&ebpf_toolchain::linker_command(&toolchain)?),
        present: ebpf_toolchain::linker()?.is_some(),
        optional: false,
        install: Install::BpfLinker(toolchain),
    });
    let installed = containerd_release::installed_version();
    for release in containerd_release::RELEASES {
        // Not offered where the system has it, nor where the mirror is not Debian's: that would fail each time.
        if release.is_series_of(installed.as_deref()) || !release.is_within_reach()? {
            continue;
        }
        needs.push(Need {
            name: format!("containerd {}", release.series),
            why: release.why.to_owned(),
            how: format!("Debian {}'s package, unpacked into the cache", release.suite),
            present: release.binary()?.is_some(),
            optional: true,
            install: Install::Containerd(release),
        });
    }
    Ok(needs)
}

/// Prints the table. Ok(true) when nothing but optional things is missing.
pub fn check() -> Result<bool> {
    let needs = needs()?;
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
pub fn run() -> Result<()> {
    let start = Instant::now();
    let needs = needs()?;
    let missing: Vec<&Need> = needs.iter().filter(|n| !n.present).collect();
    if missing.is_empty() {
        println!("set-up: all {} needs are met ({:.2} s)", needs.len(), start.elapsed().as_secs_f64());
        return Ok(());
    }
    root::require("set-up installs packages")?;
    println!("{}", table(&needs));
    install_packages(&missing)?;
    let mut left_out = Vec::new();
    for need in missing {
        if matches!(need.install, Install::Package(_)) && !need.optional {
            continue;
        }
        say(&need.name, &need.why, &need.how);
        let begun = Instant::now();
        let result = match &need.install {
            Install::LinkToolchain => ebpf_toolchain::link(),
            Install::BpfLinker(toolchain) => ebpf_toolchain::install_linker(toolchain),
            Install::Containerd(release) => release.fetch(),
            Install::RustComponents => process::run(std::process::Command::new("rustup").args([
                "component",
                "add",
                "rustfmt",
                "clippy",
            ])),
            Install::Package(package) => apt::install(&[&package.name]),
            Install::ByHand => {
                bail!("{} is missing; install it by: {}", need.name, need.how)
            }
        };
        match result {
            Ok(()) => println!("   done in {:.1} s", begun.elapsed().as_secs_f64()),
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
            "set-up: done ({took:.1} s); left out, tests that need them will say so: {}",
            left_out.join(", ")
        );
    }
    Ok(())
}

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
    for package in &packages {
        say(&package.name, &package.why, "apt-get install");
    }
    let begun = Instant::now();
    let mut names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    if names.contains(&qemu::PACKAGE) && qemu::wants_backports()? {
        names.retain(|name| *name != qemu::PACKAGE);
        apt::install_from_backports(qemu::PACKAGE).context("installing QEMU")?;
    }
    if names.is_empty() {
        println!("   done in {:.1} s", begun.elapsed().as_secs_f64());
        return Ok(());
    }
    apt::install(&names).map_err(|error| {
        if packages.iter().any(|p| p.role == packages::Role::Ebpf) {
            error.context(format!("installing packages; {}", ebpf_toolchain::USE_NIGHTLY))
        } else {
            error.context("installing packages")
        }
    })?;
    println!("   done in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn say(name: &str, why: &str, how: &str) {
    println!("-> {name}: {why}\n   {how}");
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
