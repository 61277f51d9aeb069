//! The suite and what its images are made of: Go programs of Kubernetes' own, built from `tests/conformance/go.mod`.
//!
//! They lie in the cache under the release and the hash of `go.sum`, as a control plane's do, with the two files of
//! Kubernetes' sources that an image holds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::control_plane::go_module::{self, Compiler, Tool};
use crate::control_plane::version::Version;
use crate::paths;

/// With its `go.sum` it says by content what is built.
const MODULE: &str = "tests/conformance";
const SUITE: &str = "k8s.io/kubernetes/test/e2e_node";
/// The certificate with which agnhost answers by TLS.
const CERTIFICATE: [&str; 2] = ["localhost.crt", "localhost.key"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// The tests; also etcd, API server and namespace controller in one process.
    Suite,
    Ginkgo,
    Agnhost,
    NoNewPrivs,
    SampleDevicePlugin,
}

impl Program {
    pub const ALL: [Program; 5] =
        [Program::Suite, Program::Ginkgo, Program::Agnhost, Program::NoNewPrivs, Program::SampleDevicePlugin];

    pub fn name(self) -> &'static str {
        match self {
            // ginkgo takes a file for a built suite by this ending.
            Program::Suite => "e2e_node.test",
            Program::Ginkgo => "ginkgo",
            Program::Agnhost => "agnhost",
            Program::NoNewPrivs => "nonewprivs",
            Program::SampleDevicePlugin => "sample-device-plugin",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Program::Suite => SUITE,
            Program::Ginkgo => "github.com/onsi/ginkgo/v2/ginkgo",
            Program::Agnhost => "k8s.io/kubernetes/test/images/agnhost",
            Program::NoNewPrivs => "k8s.io/kubernetes/test/images/nonewprivs",
            Program::SampleDevicePlugin => "k8s.io/kubernetes/test/images/sample-device-plugin",
        }
    }
}

/// A folder that has them all.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    dir: PathBuf,
}

impl Programs {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, program: Program) -> PathBuf {
        self.dir.join(program.name())
    }

    pub fn certificate(&self) -> [PathBuf; 2] {
        CERTIFICATE.map(|file| self.dir.join(file))
    }

    /// Where they are to be; builds nothing.
    pub fn find() -> Result<Programs> {
        let (module, version) = (paths::repository().join(MODULE), Version::of_the_repository()?);
        let hash =
            go_module::hash(&module)?.with_context(|| format!("{} has no go.sum", module.display()))?;
        Ok(Programs { dir: root()?.join(format!("{version}-{hash}")) })
    }

    /// Builds what is missing: minutes, once.
    pub fn ensure() -> Result<Programs> {
        let programs = Programs::find()?;
        if !programs.are_there() {
            let (module, version) = (paths::repository().join(MODULE), Version::of_the_repository()?);
            go_module::with_compiler(&root()?, &module, |compiler| programs.build(compiler, version))?;
        }
        Ok(programs)
    }

    pub fn are_there(&self) -> bool {
        Program::ALL.iter().all(|program| self.path(*program).is_file())
            && self.certificate().iter().all(|path| path.is_file())
    }

    fn build(&self, compiler: &Compiler, version: Version) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("creating {}", self.dir.display()))?;
        for (done, program) in Program::ALL.into_iter().enumerate() {
            let target = self.path(program);
            if target.is_file() {
                continue;
            }
            let tool = Tool {
                heading: format!("{} {version} ({} of {})", program.name(), done + 1, Program::ALL.len()),
                package: program.package().to_owned(),
                linker_flags: version.linker_flags(),
                says: None,
                target,
            };
            if program == Program::Suite { compiler.build_test(&tool)? } else { compiler.build(&tool)? }
        }
        let sources = compiler.package_dir(Program::Agnhost.package())?.join("porter");
        for (file, target) in CERTIFICATE.iter().zip(self.certificate()) {
            let source = sources.join(file);
            fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))?;
        }
        Ok(())
    }
}

fn root() -> Result<PathBuf> {
    Ok(paths::cache()?.join("conformance"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_of_the_release_that_the_control_plane_is_of() {
        let path = paths::repository().join(MODULE).join("go.mod");
        let module = fs::read_to_string(path).unwrap();
        let version = Version::of_the_repository().unwrap();
        assert!(module.contains(&format!("\n\tk8s.io/kubernetes {version}")), "{version}");
        for program in Program::ALL.into_iter().filter(|program| *program != Program::Suite) {
            assert!(module.contains(&format!("\n\t{}\n", program.package())), "{program:?}");
        }
    }
}
