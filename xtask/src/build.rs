//! `cargo xtask build`: the agent (its build script compiles the eBPF programs) and the static workload.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{elf, paths, process, progress};

/// The eBPF crate builds for its own target only; agent/build.rs does that.
pub const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "oomlet-ebpf"];

/// Which of cargo's profiles.
///
/// `test` and `demo` take `Dev`: the test build compiles every crate in it anyway, this program's own crates too, and it
/// is the one that is quickest to compile. `bench` and `build` take `Release`: their figures are what users get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Dev,
    Release,
}

impl Profile {
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        }
    }

    /// The profile that the running program was built in.
    #[must_use]
    pub fn of_this_program() -> Profile {
        if cfg!(debug_assertions) { Profile::Dev } else { Profile::Release }
    }
}

/// A cargo that is not confused by the variables that the cargo which started this program has set.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::repository());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    // `cargo run` puts its toolchain's libraries there; the eBPF programs are compiled by another toolchain.
    if let (Some(libraries), Ok(target)) = (std::env::var_os("LD_LIBRARY_PATH"), paths::target()) {
        let users = std::env::split_paths(&libraries).filter(|dir| {
            !dir.starts_with(&target) && !dir.components().any(|part| part.as_os_str() == "toolchains")
        });
        match std::env::join_paths(users) {
            Ok(users) if !users.is_empty() => command.env("LD_LIBRARY_PATH", users),
            _ => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
    command
}

/// Where [`agent`] puts the agent.
pub fn agent_path(profile: Profile) -> Result<PathBuf> {
    Ok(paths::target()?.join(profile.directory()).join("oomlet"))
}

/// Where the tests' build and [`Selection::Compare`]'s put the proxy that records what a runtime is asked for.
pub fn recorder_path(profile: Profile) -> Result<PathBuf> {
    Ok(paths::target()?.join(profile.directory()).join("oomlet-cri-recorder"))
}

/// Where [`workload`] puts the workload.
pub fn workload_path() -> Result<PathBuf> {
    Ok(paths::target()?.join(target_triple()).join("release/oomlet-workload"))
}

/// Which packages and targets cargo compiles: it unifies the features of a call's packages, and another selection may
/// compile a crate once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The agent's program and what is in it.
    Agent,
    /// That, and the proxy before a runtime's socket.
    Compare,
    /// Everything that `cargo xtask test` runs.
    Tests,
}

impl Selection {
    fn arguments(self) -> Vec<&'static str> {
        match self {
            Selection::Agent => vec!["--package", "oomlet"],
            Selection::Compare => vec!["--package", "oomlet", "--package", "oomlet-cri-recorder"],
            Selection::Tests => [&WORKSPACE[..], &TEST_TARGETS].concat(),
        }
    }
}

/// All that is tested. There are no documentation tests, and examples are compiled by the lints.
pub const TEST_TARGETS: [&str; 2] = ["--bins", "--tests"];

/// As the other commands of this profile build it.
pub fn agent(profile: Profile) -> Result<PathBuf> {
    agent_of(profile, if profile == Profile::Dev { Selection::Tests } else { Selection::Agent })
}

pub fn agent_of(profile: Profile, selection: Selection) -> Result<PathBuf> {
    let mut command = cargo();
    command.arg("build").args(selection.arguments());
    match profile {
        Profile::Release => {
            command.arg("--release");
        }
        // Somebody waits for it: it is compiled once, as is quickest. The tests' own settings are in Cargo.toml.
        Profile::Dev if selection != Selection::Tests => {
            command
                .args(["--config", "profile.dev.package.oomlet.opt-level=0"])
                .args(["--config", "profile.dev.package.oomlet-core.opt-level=0"])
                .args(["--config", "profile.dev.package.\"*\".opt-level=0"])
                .env("CARGO_INCREMENTAL", "0");
        }
        Profile::Dev => {}
    }
    command.arg("--target-dir").arg(paths::target()?);
    let heading = format!("agent and its eBPF programs\n   {}", cargo_line(&command));
    progress::step(&heading, |step| step.cargo(&mut command))?;
    agent_path(profile)
}

/// Linked statically, so that its image needs no C library.
pub fn workload() -> Result<PathBuf> {
    static_program("oomlet-workload")
}

/// A release build of a package's program of the same name, linked statically. Naming a target keeps the flag away from
/// build scripts.
pub fn static_program(package: &str) -> Result<PathBuf> {
    let triple = target_triple();
    let mut command = cargo();
    command
        .args(["build", "--release", "--package", package, "--target", &triple, "--config"])
        .arg(format!("target.{triple}.rustflags=[\"-C\",\"target-feature=+crt-static\"]"))
        .arg("--target-dir")
        .arg(paths::target()?)
        // Would override the flag above.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let heading = format!("{package}, linked statically\n   {}", cargo_line(&command));
    progress::step(&heading, |step| step.cargo(&mut command))?;
    let path = paths::target()?.join(&triple).join("release").join(package);
    ensure!(
        elf::is_static(&path)?,
        "{} was linked dynamically although crt-static was asked for; is the C library's static form there (libc6-dev)?",
        path.display()
    );
    Ok(path)
}

/// As one would type it: the path of rustup's cargo says nothing.
fn cargo_line(command: &Command) -> String {
    let line = process::line(command);
    line.split_once(' ').map_or(line.clone(), |(_, arguments)| format!("cargo {arguments}"))
}

/// Both. The workload is always optimised: its fault loop is a measure.
pub fn all(profile: Profile, selection: Selection) -> Result<()> {
    let agent = agent_of(profile, selection).context("building the agent")?;
    let workload = workload().context("building the workload")?;
    println!("agent:    {}\nworkload: {}", agent.display(), workload.display());
    Ok(())
}

/// A test binary as cargo has built it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestBinary {
    /// The test target's name, or the package's for its unit tests.
    pub name: String,
    pub path: PathBuf,
}

/// Builds the test targets of these names; `oomlet` stands for the agent's unit tests.
pub fn tests(names: &[&str]) -> Result<Vec<TestBinary>> {
    let mut command = cargo();
    // The same selection as `cargo xtask test`, so that nothing is compiled twice.
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(WORKSPACE);
    for name in names {
        match *name {
            "oomlet" => command.arg("--lib"),
            name => command.args(["--test", name]),
        };
    }
    command.arg("--target-dir").arg(paths::target()?).stderr(std::process::Stdio::inherit());
    let built = built_tests(&process::output(&mut command)?)?;
    names
        .iter()
        .map(|name| built.iter().find(|test| test.name == *name).cloned())
        .collect::<Option<_>>()
        .with_context(|| format!("cargo built {built:?}, not all of {names:?}"))
}

/// cargo's messages, one JSON object a line (Cargo book, "External tools").
fn built_tests(messages: &str) -> Result<Vec<TestBinary>> {
    #[derive(serde::Deserialize)]
    struct Message {
        reason: String,
        executable: Option<PathBuf>,
        target: Option<Target>,
        profile: Option<CompiledFor>,
    }
    #[derive(serde::Deserialize)]
    struct CompiledFor {
        test: bool,
    }
    #[derive(serde::Deserialize)]
    struct Target {
        name: String,
    }
    let mut found = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).with_context(|| format!("cargo said {line:?}"))?;
        if let ("compiler-artifact", Some(path), Some(target)) =
            (message.reason.as_str(), message.executable, message.target)
            // The programs that integration tests run are built along with them.
            && message.profile.is_some_and(|profile| profile.test)
        {
            found.push(TestBinary { name: target.name, path });
        }
    }
    Ok(found)
}

fn target_triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","package_id":"p","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","package_id":"p","target":{"name":"suite"},"profile":{"test":true},"executable":"/t/debug/deps/suite-1"}
{"reason":"compiler-artifact","package_id":"p","target":{"name":"oomlet"},"profile":{"test":false},"executable":"/t/debug/oomlet"}
{"reason":"build-finished","success":true}"#;
        let expected = TestBinary { name: "suite".to_owned(), path: "/t/debug/deps/suite-1".into() };
        assert_eq!(built_tests(messages).unwrap(), [expected]);
        assert!(built_tests("no JSON").is_err());
    }
}
