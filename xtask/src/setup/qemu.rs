//! Which QEMU fits this machine.

use std::process::Command;

use anyhow::{Context, Result};

pub const PACKAGE: &str = "qemu-system-x86";

/// QEMU's packages want each other in one version: where one of them came from backports, the release's own
/// qemu-system-x86 cannot be installed beside it.
pub fn wants_backports() -> Result<bool> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Abbrev} ${Version}\n", "qemu-*"]);
    // It fails where no such package is known at all.
    let out = query.output().context("starting dpkg-query")?;
    Ok(any_from_backports(&String::from_utf8_lossy(&out.stdout)))
}

/// `ii  1:10.0.2+ds-2+deb13u1~bpo12+1`: the version of a backport says so.
fn any_from_backports(packages: &str) -> bool {
    packages.lines().any(|line| line.starts_with('i') && line.contains("~bpo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_by_version() {
        for (text, expected) in [
            ("ii  1:10.0.2+ds-2+deb13u1~bpo12+1\nun  \n", true),
            ("ii  1:7.2+dfsg-7+deb12u18\n", false),
            ("rc  1:10.0.2+ds-2+deb13u1~bpo12+1\n", false),
            ("un  \n", false),
            ("", false),
        ] {
            assert_eq!(any_from_backports(text), expected, "{text:?}");
        }
    }
}
