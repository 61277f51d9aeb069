//! apt-get: installing packages, and fetching a package of another Debian release without touching the machine's
//! own package state.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process;
use crate::progress::Step;

/// Installs into the system. Tried twice: apt-get at times fails with "Sub-process dpkg returned an error" and
/// succeeds when run again.
pub fn install(step: &Step, packages: &[&str]) -> Result<()> {
    ensure!(
        crate::paths::program("apt-get").is_some(),
        "there is no apt-get here; install by hand what these Debian packages hold: {}",
        packages.join(" ")
    );
    update(step);
    twice(|| step.run(apt().args(["install", "--yes", "--no-install-recommends"]).args(packages)))
}

/// Reads the package lists anew.
pub fn update(step: &Step) {
    // A source that does not answer may be one that nothing here is in; what matters is said by the installation.
    if let Err(error) = twice(|| step.run(apt().arg("update"))) {
        step.say(&format!("   {error:#}; going on with the package lists that are there"));
    }
}

/// Downloads a package of this machine's own release to `dir`, which the caller deletes, and unpacks it into `into`: nothing
/// is installed, no script of its runs and no service is started. What it depends on is not looked at.
pub fn unpack(step: &Step, package: &str, dir: &Path, into: &Path) -> Result<()> {
    ensure!(
        crate::paths::program("apt-get").is_some(),
        "there is no apt-get here; install by hand what the Debian package {package} holds"
    );
    update(step);
    twice(|| step.run(apt().args(LISTS_OF_OUR_OWN).args(["download", package]).current_dir(dir)))?;
    let debs = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut debs = debs.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let deb = debs.find(|path| path.extension().is_some_and(|e| e == "deb"));
    let deb = deb.with_context(|| format!("apt-get download {package} has left no package"))?;
    step.run(Command::new("dpkg").arg("--extract").arg(deb).arg(into))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // On a new machine the daily update may hold the lock.
    command.args(["--quiet", "-o", "DPkg::Lock::Timeout=300"]).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn twice<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
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
        if let Some(uri) = std::env::var(MIRROR_VARIABLE).ok().filter(|uri| !uri.is_empty()) {
            let keyring = Some(DEBIAN_KEYRING).filter(|path| Path::new(path).exists()).map(str::to_owned);
            return Ok(Mirror { uri, keyring });
        }
        ensure!(
            os_release("ID")?.as_deref() == Some("debian"),
            "the mirror of {} has no Debian releases; install debian-archive-keyring and name one in {MIRROR_VARIABLE}",
            os_release("PRETTY_NAME")?.as_deref().unwrap_or("this system")
        );
        let codename = os_release("VERSION_CODENAME")?.unwrap_or_else(|| "sid".to_owned());
        for path in source_files()? {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            if let Some(mirror) = find_mirror(&text, &codename) {
                return Ok(mirror);
            }
        }
        bail!(
            "no source in /etc/apt names the release {codename}; name a Debian mirror in {MIRROR_VARIABLE}"
        );
    }

    /// A deb822 source of these suites.
    fn source(&self, suites: &[&str]) -> String {
        self.source_of("deb", suites)
    }

    fn source_of(&self, kind: &str, suites: &[&str]) -> String {
        let signed_by = self.keyring.as_ref().map(|k| format!("Signed-By: {k}\n")).unwrap_or_default();
        format!(
            "Types: {kind}\nURIs: {}\nSuites: {}\nComponents: main\n{signed_by}",
            self.uri,
            suites.join(" ")
        )
    }
}

/// For systems whose own mirror is not Debian's.
const MIRROR_VARIABLE: &str = "OOMLET_DEBIAN_MIRROR";
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A field of /etc/os-release (os-release(5)).
fn os_release(field: &str) -> Result<Option<String>> {
    let text = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('='));
    Ok(value.map(|v| v.trim_matches('"').to_owned()))
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

/// Another Debian release, read through an apt state of its own: the machine's package lists and its installed
/// packages stay as they are. Signatures are checked as always.
#[derive(Debug)]
pub struct Suite {
    name: String,
    state: PathBuf,
}

impl Suite {
    /// Reads the package lists of `suite` into `state`, which the caller deletes.
    pub fn open(mirror: &Mirror, suite: &str, state: &Path) -> Result<Suite> {
        Suite::open_kind(mirror, "deb", suite, state)
    }

    fn open_kind(mirror: &Mirror, kind: &str, suite: &str, state: &Path) -> Result<Suite> {
        for dir in ["lists/partial", "cache/archives/partial", "sources"] {
            let dir = state.join(dir);
            std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        std::fs::write(state.join("status"), "")?;
        std::fs::write(state.join("sources/suite.sources"), mirror.source_of(kind, &[suite]))?;
        let suite = Suite { name: suite.to_owned(), state: state.to_owned() };
        twice(|| process::output(suite.isolated(apt()).arg("update")))
            .with_context(|| format!("reading the lists of {}", suite.name))?;
        Ok(suite)
    }

    /// Names of the packages that `package` depends on directly.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.isolated(Command::new("apt-cache"));
        let text = process::output(command.args(["depends", package]))?;
        let depends =
            text.lines().filter_map(|line| line.trim().trim_start_matches('|').split_once("epends: "));
        Ok(depends.map(|(_, name)| name.to_owned()).collect())
    }

    /// Downloads the packages and unpacks them into `into`; nothing is installed and no script of theirs runs.
    pub fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        let debs = self.state.join("deb");
        std::fs::create_dir_all(&debs).with_context(|| format!("creating {}", debs.display()))?;
        twice(|| process::output(self.isolated(apt()).arg("download").args(packages).current_dir(&debs)))?;
        let mut unpacked = 0;
        for entry in std::fs::read_dir(&debs)? {
            let deb = entry?.path();
            process::run(Command::new("dpkg").arg("--extract").arg(&deb).arg(into))?;
            std::fs::remove_file(&deb)?;
            unpacked += 1;
        }
        ensure!(
            unpacked >= packages.len(),
            "apt-get downloaded {unpacked} of {} packages of {}: {}",
            packages.len(),
            self.name,
            packages.join(" ")
        );
        Ok(())
    }

    fn isolated(&self, mut command: Command) -> Command {
        for (name, path) in [
            ("Dir::Etc::sourcelist", Path::new("/dev/null").to_owned()),
            ("Dir::Etc::sourceparts", self.state.join("sources")),
            ("Dir::State", self.state.clone()),
            ("Dir::State::lists", self.state.join("lists")),
            ("Dir::State::status", self.state.join("status")),
            ("Dir::Cache", self.state.join("cache")),
        ] {
            command.arg("-o").arg(format!("{name}={}", path.display()));
        }
        command.args(LISTS_OF_OUR_OWN);
        command
    }
}

/// The same for source packages.
#[derive(Debug)]
pub struct Sources(Suite);

impl Sources {
    /// As [`Suite::open`].
    pub fn open(mirror: &Mirror, suite: &str, state: &Path) -> Result<Sources> {
        Suite::open_kind(mirror, "deb-src", suite, state).map(Sources)
    }

    /// The files of a source package, into `dir`; nothing is unpacked.
    pub fn download(&self, package: &str, dir: &Path) -> Result<()> {
        let mut command = || {
            let mut command = self.0.isolated(apt());
            command.args(["source", "--download-only", package]).current_dir(dir);
            process::output(&mut command)
        };
        twice(&mut command).map(drop).with_context(|| format!("downloading the source of {package}"))
    }
}

/// The sandbox user may not enter root's cache; nothing but package lists and packages is fetched.
const LISTS_OF_OUR_OWN: [&str; 6] = [
    "-o",
    "APT::Sandbox::User=root",
    "-o",
    "Acquire::Languages=none",
    "-o",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
];

/// Installs a package into the system from the backports of this machine's release: where parts of it are installed
/// from there already, the release's own version does not fit beside them.
pub fn install_from_backports(step: &Step, package: &str) -> Result<()> {
    let mirror = Mirror::of_this_machine()?;
    let codename = os_release("VERSION_CODENAME")?.context("this system has no release, so no backports")?;
    let backports = format!("{codename}-backports");
    let state = tempfile::tempdir()?;
    let (sources, lists) = (state.path().join("sources"), state.path().join("lists"));
    std::fs::create_dir_all(&sources)?;
    std::fs::create_dir_all(lists.join("partial"))?;
    std::fs::write(sources.join("backports.sources"), mirror.source(&[&codename, &backports]))?;
    let with_backports = || {
        let mut command = apt();
        command.args(["-o", "Dir::Etc::sourcelist=/dev/null"]);
        command.arg("-o").arg(format!("Dir::Etc::sourceparts={}", sources.display()));
        command.arg("-o").arg(format!("Dir::State::lists={}", lists.display()));
        command.args(LISTS_OF_OUR_OWN);
        command
    };
    twice(|| step.run(with_backports().arg("update")))?;
    let install = ["install", "--yes", "--no-install-recommends", "--target-release", &backports, package];
    twice(|| step.run(with_backports().args(install)))
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
