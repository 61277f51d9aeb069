//! What runs in which machine. Pure, but for asking the test binaries what tests they have.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::{Profile as BuildProfile, TestBinary};
use crate::lab::kernel::Kernel;
use crate::lab::machine::Profile;
use crate::lab::share;
use crate::process;

/// Test targets that run inside. `oomlet` is the agent's unit tests.
pub const BINARIES: [&str; 4] = ["oomlet", "kernel", "suite", "vm"];

/// The integration suite of one kernel and profile is spread over this many machines.
const SHARDS: usize = 2;

/// Leaves which programs the kernel takes; the tests run also when the command fails.
pub const CHECK: &str = "oomlet check --output json >\"$OOMLET_LAB_OUT/check.json\" || true";

/// How many tests of a binary run at a time. Of the suite's, one waits while the other computes.
#[must_use]
pub fn threads(binary: &str) -> usize {
    if binary == "suite" { 2 } else { 1 }
}

/// One machine's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub kernel: Kernel,
    pub profile: Profile,
    /// What it is about, as a file name.
    pub about: String,
    pub memory_mib: u64,
    /// For the kernel's command line.
    pub append: &'static str,
    /// For the guest's shell.
    pub command: String,
    /// What comes before the tests, and the one binary that they are in: failed ones can be run again by name.
    pub again: Option<(Vec<String>, &'static str)>,
}

impl Job {
    /// `6.1-fast-suite-1`
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.kernel.line(), self.profile.name(), self.about)
    }

    /// The same machine with these tests alone, one at a time.
    #[must_use]
    pub fn of_tests(&self, names: &[String]) -> Option<Job> {
        let (before, binary) = self.again.as_ref()?;
        let lines = [before.as_slice(), &[test(binary, 1, "--exact", names)]].concat();
        Some(Job {
            about: format!("{}-again", self.about),
            command: script(&lines),
            again: None,
            ..self.clone()
        })
    }
}

/// Tests by binary.
pub type Names = BTreeMap<String, Vec<String>>;

/// Asks each binary.
pub fn test_names(tests: &[TestBinary]) -> Result<Names> {
    let mut names = Names::new();
    for test in tests {
        let text = process::output(Command::new(&test.path).args(["--list", "--format", "terse"]))?;
        let found: Vec<String> =
            text.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect();
        ensure!(!found.is_empty(), "{} lists no test", test.path.display());
        names.insert(test.name.clone(), found);
    }
    Ok(names)
}

/// The machines for one kernel, those that take longest first.
pub fn of(kernel: Kernel, profiles: &[Profile], names: &Names) -> Result<Vec<Job>> {
    let suite = names.get("suite").context("the suite was not built")?;
    let mut jobs = Vec::new();
    for profile in profiles {
        let job = |about: &str, memory_mib, append, lines: &[String]| Job {
            kernel,
            profile: *profile,
            about: about.to_owned(),
            memory_mib,
            append,
            command: script(lines),
            again: None,
        };
        let vm = |about: &str, append, filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
            let job = job(about, 1024, append, &[test("vm", 1, "", &filters)]);
            Job { again: Some((Vec::new(), "vm")), ..job }
        };
        let driver = match profile {
            Profile::Fast => "cgroupfs",
            Profile::Systemd => "systemd",
        };
        for (number, shard) in shards(suite, SHARDS).iter().enumerate() {
            let driver = vec![format!("export OOMLET_TEST_CGROUP_DRIVER={driver}")];
            let lines = [driver.as_slice(), &[test("suite", threads("suite"), "--exact", shard)]].concat();
            let job = job(&format!("suite-{}", number + 1), 2048, "", &lines);
            jobs.push(Job { again: Some((driver, "suite")), ..job });
        }
        match profile {
            Profile::Fast => {
                let lines = [CHECK.to_owned()];
                let kernel_tests = [
                    test("kernel", threads("kernel"), "", &[]),
                    test("oomlet", 1, "", &["cgroup::".to_owned()]),
                ];
                jobs.push(job("kernel", 1024, "", &[lines.as_slice(), &kernel_tests].concat()));
                jobs.push(vm("node", "", &["node::", "oom_group::"]));
                jobs.push(vm("fallback", "", &["fallback::"]));
                jobs.push(vm("lockdown", "lockdown=confidentiality", &["lockdown::"]));
            }
            Profile::Systemd => {
                jobs.push(vm("service", "", &["service::"]));
            }
        }
    }
    Ok(jobs)
}

/// Every line runs, also after one that failed; the exit code tells whether one did.
#[must_use]
pub fn script(lines: &[String]) -> String {
    let mut text = "cd /tmp\nfailed=0\n".to_owned();
    for line in lines {
        text.push_str(line);
        text.push_str(" || failed=1\n");
    }
    text.push_str("exit $failed");
    text
}

/// A line that runs tests of a binary.
#[must_use]
pub fn test(binary: &str, threads: usize, option: &str, names: &[String]) -> String {
    let path = share::test_path(BuildProfile::Dev, binary);
    format!("{} --test-threads={threads} {option} {}", path.display(), names.join(" "))
}

/// Dealt out in turn, so that neighbours, which tend to be of one kind, are spread.
fn shards(names: &[String], count: usize) -> Vec<Vec<String>> {
    let mut shards = vec![Vec::new(); count];
    for (number, name) in names.iter().enumerate() {
        shards[number % count].push(name.clone());
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_test_is_in_one_shard() {
        for (all, count, expected) in [
            (&["a", "b", "c"][..], 2, vec![names(&["a", "c"]), names(&["b"])]),
            (&["a"], 2, vec![names(&["a"]), names(&[])]),
            (&[], 1, vec![names(&[])]),
        ] {
            assert_eq!(shards(&names(all), count), expected, "{all:?}");
        }
    }

    #[test]
    fn each_profile_has_its_own_machines() {
        let tests = Names::from([("suite".to_owned(), names(&["one", "two", "three"]))]);
        let about = |profiles: &[Profile]| -> Vec<String> {
            of(Kernel::V6_1, profiles, &tests).unwrap().iter().map(Job::name).collect()
        };
        let fast =
            ["suite-1", "suite-2", "kernel", "node", "fallback", "lockdown"].map(|n| format!("6.1-fast-{n}"));
        assert_eq!(about(&[Profile::Fast]), fast);
        let systemd = ["suite-1", "suite-2", "service"].map(|n| format!("6.1-systemd-{n}"));
        assert_eq!(about(&[Profile::Fast, Profile::Systemd]), [fast.as_slice(), &systemd].concat());
        let jobs = of(Kernel::V6_1, &[Profile::Systemd], &tests).unwrap();
        assert!(jobs[0].command.contains("OOMLET_TEST_CGROUP_DRIVER=systemd"), "{}", jobs[0].command);
        assert!(jobs[0].command.contains("--exact one three || failed=1\n"), "{}", jobs[0].command);
        let again = jobs[0].of_tests(&names(&["three"])).unwrap();
        assert_eq!(again.name(), "6.1-systemd-suite-1-again");
        assert!(again.command.contains("OOMLET_TEST_CGROUP_DRIVER=systemd"), "{}", again.command);
        assert!(again.command.contains("--exact three || failed=1\n"), "{}", again.command);
        assert!(again.of_tests(&names(&["three"])).is_none(), "there is no third try");
    }
}
