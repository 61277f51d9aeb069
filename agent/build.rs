//! Compiles the eBPF programs for their own target and leaves the object in `OUT_DIR`, from where
//! `kernel` embeds it.
//!
//! Toolchain: `OOMLET_EBPF_TOOLCHAIN` when set, else rustup's `nightly` when it has the library's source,
//! else the linked toolchain `oomlet-bpf` that `cargo xtask setup` makes.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain};

const LINKED_TOOLCHAIN: &str = "oomlet-bpf";
/// Tells the second run of this script (see [`run`]) which toolchain the first one chose.
const CHOSEN: &str = "OOMLET_EBPF_TOOLCHAIN_CHOSEN";

fn main() -> ExitCode {
    for name in ["OOMLET_EBPF_TOOLCHAIN", "XDG_CACHE_HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: cargo prints it under its own heading.
            println!("cargo::error=eBPF programs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// aya-build takes RUSTC_BOOTSTRAP and PATH from its own process. Setting them here would be `unsafe`, and
/// in cargo's configuration they would reach every crate; so the script runs itself once more with them.
fn run() -> anyhow::Result<()> {
    if let Some(toolchain) = env::var_os(CHOSEN) {
        return build(&toolchain.to_string_lossy());
    }
    let toolchain = choose_toolchain()?;
    let mut again = Command::new(env::current_exe().context("find this build script")?);
    again.env(CHOSEN, &toolchain.name).env("PATH", path_with_linker()?);
    if toolchain.stable {
        again.env("RUSTC_BOOTSTRAP", "1");
    }
    let output = again.stderr(Stdio::inherit()).output().context("run this build script again")?;
    let succeeded = output.status.success();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if !(succeeded && is_progress(line)) {
            println!("{line}");
        }
    }
    if !succeeded {
        bail!(
            "toolchain `{}` could not compile them (messages above); `cargo xtask setup` checks toolchain and linker",
            toolchain.name
        );
    }
    Ok(())
}

/// aya-build passes on all that the inner cargo prints as warnings, which cargo then repeats at every build.
fn is_progress(line: &str) -> bool {
    const PROGRESS: [&str; 8] = [
        "Compiling ",
        "Finished ",
        "Downloading ",
        "Downloaded ",
        "Updating ",
        "Locking ",
        "Blocking ",
        "info: ",
    ];
    line.strip_prefix("cargo:warning=")
        .is_some_and(|text| PROGRESS.iter().any(|word| text.trim_start().starts_with(word)))
}

fn build(toolchain: &str) -> anyhow::Result<()> {
    let package_dir = |name: &str| format!("{}/../{name}", env!("CARGO_MANIFEST_DIR"));
    let root_dir = package_dir("ebpf");
    aya_build::build_ebpf(
        [Package { name: "oomlet-ebpf", root_dir: &root_dir, ..Default::default() }],
        Toolchain::Custom(toolchain),
    )
}

struct Chosen {
    name: String,
    /// Needs RUSTC_BOOTSTRAP for `-Z build-std`.
    stable: bool,
}

fn choose_toolchain() -> anyhow::Result<Chosen> {
    let chosen = |name: String| {
        let stable = !name.starts_with("nightly");
        Chosen { name, stable }
    };
    if let Ok(name) = env::var("OOMLET_EBPF_TOOLCHAIN") {
        if !has_library_source(&name) {
            bail!(
                "OOMLET_EBPF_TOOLCHAIN={name}: rustup has no such toolchain, or it has no rust-src; run `cargo xtask setup` and unset it"
            );
        }
        return Ok(chosen(name));
    }
    ["nightly", LINKED_TOOLCHAIN]
        .into_iter()
        .find(|name| has_library_source(name))
        .map(|name| chosen(name.to_owned()))
        .context("no toolchain with rust-src found (looked for rustup's `nightly` and `oomlet-bpf`); run `cargo xtask setup`")
}

/// Whether rustup can run the toolchain's compiler and core's source lies beside it.
fn has_library_source(toolchain: &str) -> bool {
    // RUSTC and its wrappers stay out of it: `rustup run` must find the toolchain's own.
    let output = Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]).output();
    match output {
        Ok(output) if output.status.success() => {
            let sysroot = String::from_utf8_lossy(&output.stdout);
            Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
        }
        _ => false,
    }
}

/// PATH with the directory that set-up installs bpf-linker to, behind what the user has.
fn path_with_linker() -> anyhow::Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")));
    dirs.extend(cache.map(|cache| cache.join("oomlet/bpf-linker/bin")));
    if !dirs.iter().any(|dir| dir.join("bpf-linker").exists()) {
        bail!("bpf-linker is neither on PATH nor installed by set-up; run `cargo xtask setup`");
    }
    env::join_paths(dirs).context("a directory of PATH has a colon in its name")
}
