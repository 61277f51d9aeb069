//! The program: where it is, and building it from `tests/metrics-server`, a Go module of its own since it wants other
//! releases of Kubernetes' libraries than a control plane.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::NAME;
use crate::control_plane::go_module::{self, Tool};
use crate::control_plane::programs;
use crate::paths;

/// With its `go.sum` it says by content what is built.
const MODULE: &str = include_str!("../../../../tests/metrics-server/go.mod");
const PATH: &str = "sigs.k8s.io/metrics-server";
const PACKAGE: &str = "sigs.k8s.io/metrics-server/cmd/metrics-server";

/// Such as `v0.8.0`.
fn version() -> Result<&'static str> {
    let mut required = MODULE.lines().filter_map(|line| line.trim().strip_prefix(PATH)?.strip_prefix(' '));
    let version = required.find_map(|rest| rest.split_whitespace().next());
    version.with_context(|| format!("tests/metrics-server/go.mod requires no {PATH}"))
}

fn module() -> PathBuf {
    paths::repository().join("tests/metrics-server")
}

/// What is built; in the folder of [`programs::ASSETS_VARIABLE`] where that has one.
fn place() -> Result<PathBuf> {
    let assets = std::env::var_os(programs::ASSETS_VARIABLE).map(|dir| PathBuf::from(dir).join(NAME));
    if let Some(given) = assets.filter(|path| path.is_file()) {
        return Ok(given);
    }
    let hash = go_module::hash(&module())?.context("tests/metrics-server has no go.sum")?;
    Ok(programs::root()?.join(format!("{NAME}-{}-{hash}", version()?)).join(NAME))
}

/// Builds nothing.
pub fn find() -> Result<PathBuf> {
    let place = place()?;
    if !place.is_file() {
        bail!(
            "metrics-server {} is not built here; run `cargo xtask control-plane build --metrics-server`",
            version()?
        );
    }
    Ok(place)
}

/// The same, and builds it where it is missing.
pub fn ensure() -> Result<PathBuf> {
    let target = place()?;
    if target.is_file() {
        return Ok(target);
    }
    let (root, version) = (programs::root()?, version()?);
    go_module::with_compiler(&root, &module(), |compiler| {
        let dir = target.parent().context("a place has a folder")?;
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        compiler.build(&Tool {
            heading: format!("metrics-server {version}"),
            package: PACKAGE.to_owned(),
            // As its own Makefile stamps it.
            linker_flags: format!("-s -w -X k8s.io/client-go/pkg/version.gitVersion={version}"),
            says: Some(version.to_owned()),
            target: target.clone(),
        })
    })?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_the_modules_tool() {
        assert!(MODULE.contains(&format!("tool {PACKAGE}\n")), "{MODULE}");
        assert!(version().unwrap().starts_with("v0."), "{:?}", version());
        assert!(place().unwrap().to_string_lossy().contains(version().unwrap()));
    }
}
