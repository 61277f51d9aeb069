//! A release of Kubernetes, and the Go module that builds it.
//!
//! The release that the tests run against is the one of `tests/control-plane/go.mod`. For another one that module is
//! written anew, with its versions changed, into the cache; `go mod tidy` finds the rest.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// The module of the repository's own; with its `go.sum` it says by content what is built.
const MODULE: &str = include_str!("../../../tests/control-plane/go.mod");
/// Kubernetes itself; its staging modules have the same minor and patch under major 0.
const KUBERNETES: &str = "k8s.io/kubernetes";

/// Such as 1.37.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    /// That of the repository's module.
    pub fn of_the_repository() -> Result<Version> {
        let required = MODULE.lines().filter_map(|line| line.trim().strip_prefix(KUBERNETES));
        let version = required.map(str::trim).find_map(|rest| rest.split_whitespace().next());
        version.with_context(|| format!("tests/control-plane/go.mod requires no {KUBERNETES}"))?.parse()
    }

    /// What the linker stamps into the programs: without it they take themselves for version 0, and refuse flags and
    /// features of their own release.
    #[must_use]
    pub fn linker_flags(self) -> String {
        let Version { minor, .. } = self;
        let at = "k8s.io/component-base/version";
        format!("-s -w -X {at}.gitVersion={self} -X {at}.gitMajor=1 -X {at}.gitMinor={minor}")
    }

    /// The repository's go.mod for this release, before `go mod tidy`: the same tools and replacements, and nothing
    /// required but Kubernetes.
    pub fn go_mod(self) -> Result<String> {
        let Version { minor, patch } = self;
        let mut text = String::from("module oomlet.dev/control-plane\n\n");
        // `tool` lines came with Go 1.24. What Kubernetes itself needs is asked of Go by Kubernetes' own go.mod.
        text += &format!("go 1.24.0\n\nrequire {KUBERNETES} {self}\n\n");
        let blocks: Vec<&str> =
            MODULE.split("\n\n").filter(|b| b.starts_with("tool (") || b.starts_with("replace (")).collect();
        ensure!(
            blocks.len() == 2,
            "tests/control-plane/go.mod has not one block of tools and one of replacements"
        );
        let own = Version::of_the_repository()?;
        let staging = format!("v0.{}.{}", own.minor, own.patch);
        text += blocks.join("\n\n").replace(&staging, &format!("v0.{minor}.{patch}")).trim_end();
        text.push('\n');
        Ok(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1.{}.{}", self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Version> {
        let numbers: Vec<&str> = text.strip_prefix('v').unwrap_or(text).split('.').collect();
        if let ["1", minor, patch] = numbers[..]
            && let (Ok(minor), Ok(patch)) = (minor.parse(), patch.parse())
        {
            return Ok(Version { minor, patch });
        }
        bail!("{text:?} is no release of Kubernetes such as 1.37.2")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_written() {
        for (text, expected) in [
            ("1.37.2", Some("v1.37.2")),
            ("v1.34.4", Some("v1.34.4")),
            ("1.37", None),
            ("2.0.0", None),
            ("1.37.2-rc.1", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Version>().ok().map(|v| v.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn another_release_has_its_versions_in_every_replacement() {
        let own = Version::of_the_repository().unwrap();
        let module = "1.34.4".parse::<Version>().unwrap().go_mod().unwrap();
        assert!(module.contains("require k8s.io/kubernetes v1.34.4\n"), "{module}");
        assert!(module.contains("\tk8s.io/api => k8s.io/api v0.34.4\n"), "{module}");
        assert!(module.contains("\tk8s.io/kubernetes/cmd/kubelet\n"), "{module}");
        assert!(!module.contains("// indirect"), "{module}");
        assert!(!module.contains(&format!("v0.{}.{}", own.minor, own.patch)), "{module}");
        assert!(module.ends_with(")\n"), "{module}");
    }

    #[test]
    fn stamps() {
        let flags = "1.34.4".parse::<Version>().unwrap().linker_flags();
        for part in ["version.gitVersion=v1.34.4 ", "version.gitMajor=1 ", "version.gitMinor=34"] {
            assert!(flags.contains(part), "{flags}");
        }
    }
}
