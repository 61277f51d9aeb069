//! Programs built from a Go module of the repository's own, which names them as its tools and by its `go.sum` says by content
//! what they are built from.
//!
//! Each program is moved to its place when it is complete, so a build that was cut short goes on where it was. The Go
//! compiler's own caches, several GB, lie beside them while it works and are removed afterwards.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::process;
use crate::progress;
use crate::setup::go;

/// Of the module's `go.sum`, short; `None` where it has none yet.
pub fn hash(module: &Path) -> Result<Option<String>> {
    let sums = module.join("go.sum");
    if !sums.is_file() {
        return Ok(None);
    }
    let text = fs::read(&sums).with_context(|| format!("reading {}", sums.display()))?;
    Ok(Some(Sha256::digest(&text).iter().take(6).map(|byte| format!("{byte:02x}")).collect()))
}

/// Below `root` one at a time.
pub fn with_compiler<T>(root: &Path, module: &Path, work: impl FnOnce(&Compiler) -> Result<T>) -> Result<T> {
    fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
    let compiler = Compiler { module: module.to_owned(), caches: root.join("go") };
    let path = root.join("lock");
    let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    lock.lock().with_context(|| format!("locking {}", path.display()))?;
    let made = work(&compiler)?;
    if compiler.caches.exists() {
        fs::remove_dir_all(&compiler.caches)
            .with_context(|| format!("removing {}", compiler.caches.display()))?;
    }
    Ok(made)
}

#[derive(Debug)]
pub struct Compiler {
    module: PathBuf,
    /// Go's modules and compiled packages; there while it works.
    caches: PathBuf,
}

/// One program.
#[derive(Debug)]
pub struct Tool {
    pub heading: String,
    pub package: String,
    pub linker_flags: String,
    /// In its answer to `--version`; `None`: it has no such flag.
    pub says: Option<String>,
    pub target: PathBuf,
}

impl Compiler {
    #[must_use]
    pub fn module(&self) -> &Path {
        &self.module
    }

    fn go(&self) -> Result<Command> {
        let program = go::program()?
            .with_context(|| format!("there is no Go from {} on; run `cargo xtask setup`", go::OLDEST))?;
        let mut command = Command::new(program);
        command
            .current_dir(&self.module)
            .env("CGO_ENABLED", "0")
            .env("GOCACHE", self.caches.join("build"))
            .env("GOMODCACHE", self.caches.join("mod"))
            // Fetches the release of Go that a go.mod asks for, where this one is older.
            .env("GOTOOLCHAIN", "auto")
            .env("GOWORK", "off")
            // Its modules are read-only otherwise, and could not be removed.
            .env("GOFLAGS", "-modcacherw");
        Ok(command)
    }

    /// Writes the module's go.sum.
    pub fn tidy(&self, heading: &str) -> Result<()> {
        let heading = format!("{heading}\n   go mod tidy");
        progress::step(&heading, |step| step.run(self.go()?.args(["mod", "tidy"])))
    }

    /// Where a package's sources are, while the compiler's caches are there.
    pub fn package_dir(&self, package: &str) -> Result<PathBuf> {
        let said = process::output(self.go()?.args(["list", "-mod=readonly", "-f", "{{.Dir}}", package]))?;
        Ok(PathBuf::from(said.trim()))
    }

    pub fn build(&self, tool: &Tool) -> Result<()> {
        self.build_by(&["build"], tool)
    }

    /// The tests of a package as a program.
    pub fn build_test(&self, tool: &Tool) -> Result<()> {
        self.build_by(&["test", "-c"], tool)
    }

    fn build_by(&self, subcommand: &[&str], tool: &Tool) -> Result<()> {
        let name = tool.target.file_name().unwrap_or_default().to_string_lossy();
        let partial = tool.target.with_file_name(format!(".{name}.partial"));
        let mut command = self.go()?;
        // go.sum says what is built: it is read and never changed. `-v` names what is being compiled.
        command.args(subcommand);
        command.args(["-v", "-mod=readonly", "-trimpath", "-ldflags", &tool.linker_flags]);
        command.arg("-o").arg(&partial).arg(&tool.package);
        let heading = format!("{}\n   go {} {}", tool.heading, subcommand.join(" "), tool.package);
        progress::step(&heading, |step| step.run(&mut command))?;
        if let Some(version) = &tool.says {
            let said = process::output(Command::new(&partial).arg("--version"))?;
            ensure!(said.contains(version), "{} says {said:?}", partial.display());
        }
        fs::rename(&partial, &tool.target).with_context(|| format!("moving {name} into place"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_known_by_its_sums() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hash(dir.path()).unwrap(), None);
        let of = |text: &str| {
            fs::write(dir.path().join("go.sum"), text).unwrap();
            hash(dir.path()).unwrap().unwrap()
        };
        let one = of("example.com/a v1.0.0 h1:x=\n");
        assert_eq!(one.len(), 12);
        assert_ne!(one, of("example.com/a v1.0.1 h1:y=\n"));
    }
}
