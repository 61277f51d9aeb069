//! apt-get: installing packages, and fetching a package of another Debian release without touching the machine's
//! own package state.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Installs into the system. Tried twice: apt-get at times fails with "Sub-process dpkg returned an error" and
/// succeeds when run again.
pub fn install(packages: &[&str]) -> Result<()> {
    ensure!(
        crate::paths::program("apt-get").is_some(),
        "there is no apt-get here; install by hand what these Debian packages hold: {}",
        packages.join(" ")
    );
    // A source that does not answer may be one that nothing here is in; what matters is said by the installation.
    if let Err(error) = twice(|| process::run(apt().arg("update"))) {
        println!("   {error:#}; going on with the package lists that are there");
    }
    twice(|| process::run(apt().args(["install", "--yes", "--no-install-recommends"]).args(packages)))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // On a new machine the daily update may hold the lock.
    command
        .args(["--quiet", "--quiet", "-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn twice(mut work: impl FnMut() -> Result<()>) -> Result<()> {
    work().or_else(|error| {
        println!("   {error:#}; once more");
        work()
    })
}

/// Where the machine gets its own Debian release from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub uri: String,
    pub keyring: Option<String>,
}

impl Mirror {
    /// The source of this machine's sources lists that names its release. An error on other distributions.
    pub fn of_this_machine() -> Result<Mirror> {
        let release = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let field = |name: &str| {
            release.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('=')).map(|v| v.trim_matches('"'))
        };
        ensure!(
            field("ID") == Some("debian"),
            "the mirror of {} has no Debian releases",
            field("PRETTY_NAME").unwrap_or("this system")
        );
        let codename = field("VERSION_CODENAME").unwrap_or("sid");
        for path in source_files()? {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            if let Some(mirror) = find_mirror(&text, codename) {
                return Ok(mirror);
            }
        }
        bail!("no source in /etc/apt names the release {codename}");
    }
}

fn source_files() -> Result<Vec<PathBuf>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        for entry in entries {
            files.push(entry?.path());
        }
    }
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

/// Reads both forms: deb822 paragraphs, and one-line `deb [options] uri suite component…` (sources.list(5)).
fn find_mirror(text: &str, codename: &str) -> Option<Mirror> {
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let suites = field("Suites").unwrap_or_default();
        if let (Some(uris), true) = (field("URIs"), suites.split_whitespace().any(|s| s == codename)) {
            let keyring = field("Signed-By").filter(|k| k.starts_with('/')).map(str::to_owned);
            return Some(Mirror { uri: uris.split_whitespace().next()?.to_owned(), keyring });
        }
    }
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let (options, rest) = match rest.trim().strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next())
            && suite == codename
        {
            let keyring =
                options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned);
            return Some(Mirror { uri: uri.to_owned(), keyring });
        }
    }
    None
}

/// Downloads `package` of `suite` with an apt state of its own under `state`, and unpacks it into `into`.
/// Signatures are checked as always.
pub fn unpack_from(mirror: &Mirror, suite: &str, package: &str, state: &Path, into: &Path) -> Result<()> {
    for dir in ["lists/partial", "cache/archives/partial", "sources", "deb"] {
        let dir = state.join(dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    std::fs::write(state.join("status"), "")?;
    let signed_by = mirror.keyring.as_ref().map(|k| format!("Signed-By: {k}\n")).unwrap_or_default();
    let source = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", mirror.uri);
    std::fs::write(state.join("sources/suite.sources"), source)?;
    let isolated = || {
        let mut command = apt();
        for (name, value) in [
            ("Dir::Etc::sourcelist", Path::new("/dev/null").to_owned()),
            ("Dir::Etc::sourceparts", state.join("sources")),
            ("Dir::State", state.to_owned()),
            ("Dir::State::lists", state.join("lists")),
            ("Dir::State::status", state.join("status")),
            ("Dir::Cache", state.join("cache")),
        ] {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        }
        // The sandbox user may not enter root's cache; nothing but package lists and one package is fetched.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]);
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        command
    };
    twice(|| process::run(isolated().arg("update")))
        .with_context(|| format!("reading the lists of {suite}"))?;
    let deb_dir = state.join("deb");
    twice(|| process::run(isolated().args(["download", package]).current_dir(&deb_dir)))?;
    let deb = std::fs::read_dir(&deb_dir)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt-get downloaded no {package} from {suite}"))?;
    process::run(Command::new("dpkg").arg("--extract").arg(&deb).arg(into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_found_in_both_forms() {
        let deb822 = "Types: deb\n# note\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://mirror/security\nSuites: bookworm-security\n";
        let mirror =
            |uri: &str, key: Option<&str>| Some(Mirror { uri: uri.into(), keyring: key.map(Into::into) });
        for (text, codename, expected) in [
            (deb822, "bookworm", mirror("http://mirror/debian", Some("/k.gpg"))),
            (deb822, "bookworm-security", mirror("http://mirror/security", None)),
            (deb822, "trixie", None),
            ("deb http://m/d trixie main\n", "trixie", mirror("http://m/d", None)),
            (
                "deb [arch=amd64 signed-by=/a.gpg] http://m/d trixie main",
                "trixie",
                mirror("http://m/d", Some("/a.gpg")),
            ),
            ("# deb http://m/d trixie main\ndeb-src http://m/d trixie main", "trixie", None),
            ("", "trixie", None),
        ] {
            assert_eq!(find_mirror(text, codename), expected, "{codename} in {text:?}");
        }
    }
}
