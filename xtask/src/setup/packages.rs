//! The package list (`vagrant/packages.txt`, shared with the virtual machines) and whether each is there.

use std::path::Path;

use anyhow::{Result, bail};

use super::role::Role;
use crate::{elf, paths};

const LIST: &str = include_str!("../../../vagrant/packages.txt");

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub role: Role,
    pub name: String,
    /// The package counts as there when one of these holds.
    marks: Vec<String>,
    pub why: String,
}

impl Package {
    #[must_use]
    pub fn present(&self) -> bool {
        self.marks.iter().any(|mark| mark_holds(mark))
    }
}

/// A program's name, an absolute path, or `static:PROGRAM`.
fn mark_holds(mark: &str) -> bool {
    if let Some(program) = mark.strip_prefix("static:") {
        return paths::program(program).is_some_and(|path| elf::is_static(&path).unwrap_or(false));
    }
    if mark.starts_with('/') {
        return Path::new(&mark.replace("@multiarch@", &multiarch())).exists();
    }
    paths::program(mark).is_some()
}

fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

pub fn all() -> Result<Vec<Package>> {
    parse(LIST)
}

fn parse(list: &str) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for (number, line) in list.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [role, name, marks, why] = fields[..] else {
            bail!("vagrant/packages.txt:{}: want `role | package | marks | why`, got {line:?}", number + 1);
        };
        let Some(role) = Role::of_packages(role) else {
            bail!("vagrant/packages.txt:{}: there is no role {role:?}", number + 1);
        };
        let marks = marks.split(',').map(|mark| mark.trim().to_owned()).collect();
        packages.push(Package { role, name: name.to_owned(), marks, why: why.to_owned() });
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_well_formed() {
        let all = all().unwrap();
        for role in
            [Role::Node, Role::Build, Role::Fixture, Role::Ebpf, Role::Lab, Role::Vagrant, Role::Guest]
        {
            assert!(all.iter().any(|p| p.role == role), "{role:?}");
        }
        for package in &all {
            assert!(!package.why.is_empty() && !package.marks.is_empty(), "{package:?}");
        }
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, said) in [("node | runc", ":1:"), ("\nsome | a | b | c", "\"some\"")] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn marks() {
        for (mark, expected) in [
            ("sh", true),
            ("no-such-program", false),
            ("/etc/passwd", true),
            ("/nonexistent", false),
            ("static:no-such-program", false),
        ] {
            assert_eq!(mark_holds(mark), expected, "{mark}");
        }
    }
}
