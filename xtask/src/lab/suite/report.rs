//! What came out of the machines: lines and tables for people, `target/lab/suite.json` for machines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::{Accel, Job, process};
use crate::lab::kernel::Kernel;

#[derive(Debug)]
pub struct Outcome {
    pub job: Job,
    /// `Err`: there was no machine, or it ended without a result.
    pub ran: Result<Ran, String>,
    /// Tests that failed at first and passed when they were run once more.
    pub second_try: Vec<String>,
    pub log: PathBuf,
    pub took: Duration,
}

/// What the tests of one machine said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    pub exit_code: i32,
    pub passed: usize,
    pub failed: Vec<String>,
    /// As libtest counts them, over all binaries that came to their end.
    counted_failed: usize,
    binaries: usize,
}

impl Ran {
    /// libtest's lines: `test NAME ... ok`, `test NAME ... FAILED`.
    #[must_use]
    pub fn read(output: &str, exit_code: i32) -> Ran {
        let mut ran = Ran { exit_code, ..Ran::default() };
        for line in output.lines() {
            // A test that prints past libtest's capture leaves its verdict on a line of its own; the totals count it.
            let count = |text: &str, word: &str| -> Option<usize> {
                text.split(&[';', '.'][..])
                    .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
            };
            if let Some(totals) = line.strip_prefix("test result: ") {
                ran.passed += count(totals, "passed").unwrap_or(0);
                ran.counted_failed += count(totals, "failed").unwrap_or(0);
                ran.binaries += 1;
            } else if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED"))
            {
                ran.failed.push(name.to_owned());
            }
        }
        ran
    }

    /// One binary ran to its end, and every test that failed is known by name: nothing else is wrong with the machine.
    #[must_use]
    pub fn failed_by_name_only(&self) -> bool {
        self.binaries == 1 && !self.failed.is_empty() && self.failed.len() == self.counted_failed
    }

    /// With the verdicts of a second run of what had failed.
    #[must_use]
    pub fn with_second_try(&self, second: &Ran) -> Ran {
        Ran {
            exit_code: second.exit_code,
            passed: self.passed + second.passed,
            failed: second.failed.clone(),
            counted_failed: second.counted_failed,
            binaries: second.binaries,
        }
    }

    fn is_good(&self) -> bool {
        self.exit_code == 0 && self.failed.is_empty() && self.counted_failed == 0 && self.passed > 0
    }
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.ran.as_ref().is_ok_and(Ran::is_good)
    }

    /// One line for the one who waits.
    #[must_use]
    pub fn line(&self) -> String {
        let verdict = match &self.ran {
            Ok(ran) if ran.is_good() && self.second_try.is_empty() => {
                format!("ok      {} passed", ran.passed)
            }
            Ok(ran) if ran.is_good() => {
                format!(
                    "ok      {} passed, of which at the second try: {}",
                    ran.passed,
                    self.second_try.join(", ")
                )
            }
            Ok(ran) => format!(
                "FAILED  {} passed, {} failed: {}",
                ran.passed,
                ran.failed.len(),
                ran.failed.join(", ")
            ),
            Err(error) => format!("FAILED  {error}"),
        };
        format!("lab: {:24} {:5.0} s  {verdict}", self.job.name(), self.took.as_secs_f64())
    }
}

/// Prints the tables and the failures, and writes the JSON. An error when anything failed.
pub fn write(outcomes: &[Outcome], accel: Accel, took: Duration, dir: &Path) -> Result<()> {
    let mut outcomes: Vec<&Outcome> = outcomes.iter().collect();
    outcomes.sort_by_key(|outcome| outcome.job.name());
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_good()) {
        println!("\n---- {} ({})", outcome.job.name(), outcome.log.display());
        println!("{}", process::file_tail(&outcome.log, 60));
    }
    let checks = checks(dir, &outcomes);
    println!("\n{}\n\n{}\n", programs_table(&checks), results_table(&outcomes));
    let path = dir.join("suite.json");
    let json = json!({
        "accel": accel.name(),
        "seconds": took.as_secs(),
        "machines": outcomes.iter().map(|outcome| machine_json(outcome)).collect::<Vec<_>>(),
        "programs": checks.iter().map(|(k, check)| (k.line(), check["programs"].clone())).collect::<BTreeMap<_, _>>(),
    });
    fs::write(&path, serde_json::to_string_pretty(&json)? + "\n")
        .with_context(|| format!("writing {}", path.display()))?;
    let passed: usize = outcomes.iter().filter_map(|o| o.ran.as_ref().ok()).map(|ran| ran.passed).sum();
    let failed: usize = outcomes.iter().map(|o| o.ran.as_ref().map_or(1, |ran| ran.failed.len())).sum();
    println!("written: {} ({:.1} min)", path.display(), took.as_secs_f64() / 60.0);
    println!("lab: {passed} passed, {failed} failed");
    let bad: Vec<String> = outcomes.iter().filter(|o| !o.is_good()).map(|o| o.job.name()).collect();
    if !bad.is_empty() {
        bail!("failed in the lab: {}", bad.join(", "));
    }
    Ok(())
}

fn machine_json(outcome: &Outcome) -> Value {
    let job = &outcome.job;
    json!({
        "kernel": job.kernel.line(),
        "profile": job.profile.name(),
        "about": job.about,
        "seconds": outcome.took.as_secs(),
        "passed": outcome.ran.as_ref().map_or(0, |ran| ran.passed),
        "second_try": outcome.second_try,
        "failed": outcome.ran.as_ref().map_or_else(|error| vec![error.clone()], |ran| ran.failed.clone()),
    })
}

/// What `oomlet check --output json` said in each kernel.
fn checks(dir: &Path, outcomes: &[&Outcome]) -> BTreeMap<Kernel, Value> {
    let of = |outcome: &&Outcome| {
        let text = fs::read_to_string(dir.join(outcome.job.name()).join("check.json")).ok()?;
        Some((outcome.job.kernel, serde_json::from_str(&text).ok()?))
    };
    outcomes.iter().filter_map(of).collect()
}

/// Kernel × program: the tier of the variant in use, or why there is none.
fn programs_table(checks: &BTreeMap<Kernel, Value>) -> Table {
    let mut table = markdown();
    let mut header = vec!["program".to_owned()];
    header.extend(checks.keys().map(|kernel| kernel.line().to_owned()));
    table.set_header(header);
    let mut names: Vec<&str> = Vec::new();
    for program in checks.values().filter_map(|check| check["programs"].as_array()).flatten() {
        names.extend(program["name"].as_str());
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    for name in names {
        let mut row = vec![format!("`{name}`")];
        row.extend(checks.values().map(|check| state_of(check, name)));
        table.add_row(row);
    }
    table
}

fn state_of(check: &Value, name: &str) -> String {
    let program = check["programs"].as_array().and_then(|all| all.iter().find(|p| p["name"] == name));
    match program {
        Some(program) if program["state"] == "loaded" => {
            let hook = program["hook"].as_str().unwrap_or_default();
            format!("tier {} ({})", program["tier"], hook.split(':').next().unwrap_or_default())
        }
        Some(_) => "–".to_owned(),
        None => String::new(),
    }
}

fn results_table(outcomes: &[&Outcome]) -> Table {
    let mut table = markdown();
    table.set_header([
        "kernel",
        "profile",
        "what",
        "passed",
        "of these at the second try",
        "failed",
        "seconds",
    ]);
    for outcome in outcomes {
        let (passed, failed) = match &outcome.ran {
            Ok(ran) => (ran.passed.to_string(), ran.failed.len().to_string()),
            Err(_) => ("–".to_owned(), "no result".to_owned()),
        };
        let job = &outcome.job;
        let seconds = outcome.took.as_secs().to_string();
        let second = outcome.second_try.len().to_string();
        table.add_row([
            job.kernel.line(),
            job.profile.name(),
            &job.about,
            &passed,
            &second,
            &failed,
            &seconds,
        ]);
    }
    table
}

fn markdown() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_from_libtests_lines() {
        let output = "running 2 tests\ntest a ... ok\ntest b::c ... FAILED\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.00s\n\
                      running 1 test\ntest d ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        let ran = Ran::read(output, 1);
        let failed = vec!["b::c".to_owned()];
        assert_eq!(ran, Ran { exit_code: 1, passed: 2, failed, counted_failed: 1, binaries: 2 });
        assert!(!ran.is_good() && !ran.failed_by_name_only(), "two binaries");
        let one = "test b::c ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        assert!(Ran::read(one, 1).failed_by_name_only());
        let second = Ran::read("test b::c ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n", 0);
        let both = Ran::read(one, 1).with_second_try(&second);
        assert!(both.is_good() && both.passed == 2, "{both:?}");
        for (what, output) in [
            ("the binary died", "test a ... FAILED\n"),
            (
                "a verdict on a line of its own",
                "test a ... said\nFAILED\ntest b ... FAILED\ntest result: FAILED. 1 passed; 2 failed; 0 ignored\n",
            ),
            ("no test is to blame", "test result: ok. 1 passed; 0 failed; 0 ignored\n"),
        ] {
            assert!(!Ran::read(output, 1).failed_by_name_only(), "{what}");
        }
        for (output, code, good) in [
            ("test result: ok. 3 passed; 0 failed; 0 ignored\n", 0, true),
            ("test result: ok. 0 passed; 0 failed; 0 ignored\n", 0, false),
            ("test result: ok. 3 passed; 0 failed; 0 ignored\n", 1, false),
            ("FAILED\ntest result: FAILED. 3 passed; 1 failed; 0 ignored\n", 0, false),
            ("", 0, false),
        ] {
            assert_eq!(Ran::read(output, code).is_good(), good, "{output:?} {code}");
        }
    }

    #[test]
    fn a_program_shows_its_tier_and_hook() {
        let check = json!({ "programs": [
            { "name": "a", "tier": 2, "hook": "tp_btf:a", "state": "loaded" },
            { "name": "b", "tier": 2, "hook": "fentry:b", "state": { "unavailable": "no" } },
        ]});
        for (name, expected) in [("a", "tier 2 (tp_btf)"), ("b", "–"), ("c", "")] {
            assert_eq!(state_of(&check, name), expected);
        }
    }
}
