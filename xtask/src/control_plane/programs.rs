//! The programs of a control plane: where they are, and building those that are not there from the Go module proxy.
//!
//! Built ones are kept in the cache under the release and the hash of what they were built from, see [`go_module`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::go_module::{self, Compiler, Tool};
use super::version::Version;
use crate::paths;

/// envtest's convention: a folder with the programs.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    Kubectl,
    /// No part of a control plane: the peer that the agent is compared with.
    Kubelet,
}

impl Program {
    pub const ALL: [Program; 6] = [
        Program::Etcd,
        Program::ApiServer,
        Program::ControllerManager,
        Program::Scheduler,
        Program::Kubectl,
        Program::Kubelet,
    ];
    /// What runs a cluster without nodes.
    pub const CONTROL_PLANE: [Program; 5] =
        [Program::Etcd, Program::ApiServer, Program::ControllerManager, Program::Scheduler, Program::Kubectl];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Program::Etcd => "etcd",
            Program::ApiServer => "kube-apiserver",
            Program::ControllerManager => "kube-controller-manager",
            Program::Scheduler => "kube-scheduler",
            Program::Kubectl => "kubectl",
            Program::Kubelet => "kubelet",
        }
    }

    fn package(self) -> String {
        match self {
            Program::Etcd => "go.etcd.io/etcd/server/v3".to_owned(),
            program => format!("k8s.io/kubernetes/cmd/{}", program.name()),
        }
    }
}

/// Where to take them from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// `None`: that of the repository.
    pub version: Option<Version>,
    /// Has them all already. `None`: [`ASSETS_VARIABLE`], else they are built.
    pub bin_dir: Option<PathBuf>,
}

/// A folder that has those that were asked for.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn path(&self, program: Program) -> PathBuf {
        self.dir.join(program.name())
    }

    /// Those that are there; builds nothing.
    pub fn find(source: &Source, wanted: &[Program]) -> Result<Programs> {
        if let Some(given) = given_dir(source) {
            return in_given_dir(&given, wanted);
        }
        let version = source.version.map_or_else(Version::of_the_repository, Ok)?;
        let found = built_dir(version)?.map(|dir| Programs { dir });
        if let Some(programs) = found.filter(|programs| programs.missing(wanted).is_empty()) {
            return Ok(programs);
        }
        bail!("Kubernetes {version} is not built here; run `cargo xtask control-plane build`")
    }

    /// The same, and builds what is missing.
    pub fn ensure(source: &Source, wanted: &[Program]) -> Result<Programs> {
        if let Some(given) = given_dir(source) {
            return in_given_dir(&given, wanted);
        }
        build(source.version.map_or_else(Version::of_the_repository, Ok)?, wanted)
    }

    fn missing(&self, wanted: &[Program]) -> Vec<Program> {
        wanted.iter().copied().filter(|program| !self.path(*program).is_file()).collect()
    }
}

fn given_dir(source: &Source) -> Option<PathBuf> {
    let assets = || std::env::var_os(ASSETS_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    // Somebody who asks for a release does not want whatever happens to lie in the folder.
    source.bin_dir.clone().or_else(|| if source.version.is_none() { assets() } else { None })
}

fn in_given_dir(dir: &Path, wanted: &[Program]) -> Result<Programs> {
    let programs = Programs { dir: dir.to_owned() };
    let missing: Vec<&str> = programs.missing(wanted).into_iter().map(Program::name).collect();
    ensure!(
        missing.is_empty(),
        "{} (given by --bin-dir or {ASSETS_VARIABLE}) lacks {}; put them there, or name no folder to have them built",
        dir.display(),
        missing.join(", ")
    );
    Ok(programs)
}

pub(super) fn root() -> Result<PathBuf> {
    Ok(paths::cache()?.join("control-plane"))
}

/// The folder of the module that builds this release.
fn module_dir(version: Version) -> Result<PathBuf> {
    if version == Version::of_the_repository()? {
        return Ok(paths::repository().join("tests/control-plane"));
    }
    Ok(root()?.join("modules").join(version.to_string()))
}

/// `None` where it is not known yet what this release is built from.
fn built_dir(version: Version) -> Result<Option<PathBuf>> {
    let hash = go_module::hash(&module_dir(version)?)?;
    Ok(match hash {
        Some(hash) => Some(root()?.join(format!("{version}-{hash}"))),
        None => None,
    })
}

fn build(version: Version, wanted: &[Program]) -> Result<Programs> {
    let (root, module) = (root()?, module_dir(version)?);
    go_module::with_compiler(&root, &module, |compiler| {
        if built_dir(version)?.is_none() {
            make_module(compiler, version)?;
        }
        let dir = built_dir(version)?.context("`go mod tidy` has written no go.sum")?;
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let programs = Programs { dir };
        let missing = programs.missing(wanted);
        for (done, program) in missing.iter().enumerate() {
            let name = program.name();
            compiler.build(&Tool {
                heading: format!("{name} {version} ({} of {})", done + 1, missing.len()),
                package: program.package(),
                linker_flags: version.linker_flags(),
                // kubectl has a subcommand for it, and etcd a release of its own.
                says: (!matches!(program, Program::Kubectl | Program::Etcd)).then(|| version.to_string()),
                target: programs.path(*program),
            })?;
        }
        Ok(programs)
    })
}

fn make_module(compiler: &Compiler, version: Version) -> Result<()> {
    let dir = compiler.module();
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join("go.mod");
    fs::write(&path, version.go_mod()?).with_context(|| format!("writing {}", path.display()))?;
    compiler.tidy(&format!("modules of Kubernetes {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_folder_must_have_all() {
        let dir = tempfile::tempdir().unwrap();
        for program in [Program::Etcd, Program::ApiServer, Program::Kubectl] {
            fs::write(dir.path().join(program.name()), "").unwrap();
        }
        let source = Source { bin_dir: Some(dir.path().to_owned()), version: None };
        let found = Programs::find(&source, &[Program::Etcd, Program::Kubectl]).unwrap();
        assert_eq!(found.path(Program::Etcd), dir.path().join("etcd"));
        for look in [Programs::find, Programs::ensure] {
            let error = look(&source, &Program::CONTROL_PLANE).unwrap_err().to_string();
            assert!(error.contains("lacks kube-controller-manager, kube-scheduler;"), "{error}");
        }
    }

    #[test]
    fn a_release_that_nobody_built_says_how_to_get_it() {
        let source = Source { version: Some("1.2.3".parse().unwrap()), bin_dir: None };
        let error = Programs::find(&source, &Program::ALL).unwrap_err().to_string();
        assert!(error.contains("v1.2.3") && error.contains("control-plane build"), "{error}");
    }

    #[test]
    fn packages_are_the_modules_tools() {
        let module = include_str!("../../../tests/control-plane/go.mod");
        for program in Program::ALL {
            assert!(module.contains(&format!("\n\t{}\n", program.package())), "{program:?}");
        }
    }
}
