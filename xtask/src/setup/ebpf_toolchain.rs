//! The compiler of the eBPF programs and its linker. agent/build.rs makes the same choice.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Step;
use crate::{paths, process};

/// rustup's name for Debian's rustc.
pub const LINKED_NAME: &str = "oomlet-bpf";
/// The release whose LLVM bindings match Debian's rustc-web.
const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
pub const USE_NIGHTLY: &str = "if this system has no such packages: `rustup toolchain install nightly --component rust-src`, then set up again";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// One of rustup's, with rust-src: `nightly`, or what OOMLET_EBPF_TOOLCHAIN names.
    Named(String),
    /// Debian's rustc-web and rust-web-src, linked as [`LINKED_NAME`].
    Debian,
}

impl Toolchain {
    /// OOMLET_EBPF_TOOLCHAIN if it is set, else nightly if it has its source, else Debian's.
    pub fn choose() -> Result<Toolchain> {
        match std::env::var("OOMLET_EBPF_TOOLCHAIN") {
            Ok(name) if name == LINKED_NAME => return Ok(Toolchain::Debian),
            Ok(name) if !name.is_empty() => return Ok(Toolchain::Named(name)),
            _ => {}
        }
        Ok(if has_source("nightly")? { Toolchain::Named("nightly".to_owned()) } else { Toolchain::Debian })
    }
}

/// Whether rustup's toolchain of that name (with or without the host's triple) is there with rust-src.
pub fn has_source(name: &str) -> Result<bool> {
    let host = format!("{name}-{}-unknown-linux-gnu", std::env::consts::ARCH);
    let toolchains = toolchains()?;
    Ok([name, &host]
        .iter()
        .any(|dir| toolchains.join(dir).join("lib/rustlib/src/rust/library/core").exists()))
}

pub fn is_linked() -> Result<bool> {
    Ok(toolchains()?.join(LINKED_NAME).exists())
}

fn toolchains() -> Result<PathBuf> {
    let rustup = match std::env::var_os("RUSTUP_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => paths::home()?.join(".rustup"),
    };
    Ok(rustup.join("toolchains"))
}

pub fn link() -> Result<()> {
    process::run(Command::new("rustup").args(["toolchain", "link", LINKED_NAME, "/usr"])).context(
        "rustup gives cargo to the linked toolchain, so it is needed even where Rust came from elsewhere (rustup.rs)",
    )
}

/// Ours in the cache, or one that is on PATH.
pub fn linker() -> Result<Option<PathBuf>> {
    let ours = linker_root()?.join("bin/bpf-linker");
    Ok(if ours.is_file() { Some(ours) } else { paths::program("bpf-linker") })
}

fn linker_root() -> Result<PathBuf> {
    Ok(paths::cache()?.join("bpf-linker"))
}

/// The command that builds it.
pub fn linker_command(toolchain: &Toolchain) -> Result<Command> {
    let mut command = Command::new("cargo");
    command.args(["install", "bpf-linker"]);
    // It leaves the work to LLVM, which is compiled already: what is quickest to compile links as fast.
    command.args(["--config", "profile.release.opt-level=0", "--config", "profile.release.debug=false"]);
    if *toolchain == Toolchain::Debian {
        command.args(["--version", LINKER_VERSION, "--no-default-features", "--features", "llvm-22"]);
        command.env("LLVM_PREFIX", LLVM_PREFIX);
    }
    command.arg("--root").arg(linker_root()?);
    Ok(command)
}

pub fn install_linker(toolchain: &Toolchain, step: &Step) -> Result<()> {
    let mut command = linker_command(toolchain)?;
    step.cargo(command.current_dir(Path::new("/")))
}
