//! What became of each test: read from ginkgo's report, kept in `tests/conformance` for kubelet and for oomlet.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use crate::paths;

/// The release whose suite it is, and kubelet of that release.
pub(super) const KUBELET: &str = "kubelet-1.37.2";
pub(super) const OOMLET: &str = "oomlet";

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    /// `passed`, `failed`, `skipped` (by the test itself), `timedout`, `panicked`, `interrupted`, as ginkgo has it.
    pub state: String,
    /// `None` (`-` in the file): its time was not kept.
    pub seconds: Option<f64>,
    /// The test's source file, such as `e2e/common/node/pods`.
    pub area: String,
    /// What it says where it does not pass; not kept.
    pub message: String,
}

impl Outcome {
    pub fn passed(&self) -> bool {
        self.state == "passed"
    }
}

/// By the test's full name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Results(pub BTreeMap<String, Outcome>);

const HEADING: &str = "state\tseconds\tarea\tname";

impl Results {
    /// Of ginkgo's `--json-report`. A failure outside of any test is one of its own name.
    pub fn of_report(report: &Value) -> Results {
        let specs = report.as_array().into_iter().flatten();
        let specs = specs.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
        Results(specs.filter_map(of_spec).collect())
    }

    pub fn read(whose: &str) -> Result<Results> {
        let path = path(whose);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Results::parse(&text).with_context(|| format!("{}", path.display()))
    }

    fn parse(text: &str) -> Result<Results> {
        let mut lines = text.lines();
        ensure!(lines.next() == Some(HEADING), "the first line is not {HEADING:?}");
        let mut results = Results::default();
        for line in lines {
            let fields: Vec<&str> = line.split('\t').collect();
            let [state, seconds, area, name] = fields[..] else {
                anyhow::bail!("not four fields: {line:?}");
            };
            let seconds = match seconds {
                "-" => None,
                seconds => Some(seconds.parse().with_context(|| format!("not seconds: {line:?}"))?),
            };
            let (state, area) = (state.to_owned(), area.to_owned());
            results.0.insert(name.to_owned(), Outcome { state, seconds, area, message: String::new() });
        }
        Ok(results)
    }

    pub fn write(&self, whose: &str) -> Result<()> {
        let path = path(whose);
        fs::write(&path, self.text()).with_context(|| format!("writing {}", path.display()))
    }

    fn text(&self) -> String {
        let mut by_area: Vec<(&String, &Outcome)> = self.0.iter().collect();
        by_area.sort_by_key(|(name, one)| (one.area.as_str(), name.as_str()));
        let lines = by_area.into_iter().map(|(name, one)| {
            let seconds = one.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}"));
            format!("{}\t{seconds}\t{}\t{name}\n", one.state, one.area)
        });
        format!("{HEADING}\n{}", lines.collect::<String>())
    }

    /// Those of `recorded` that pass there and have run here without passing.
    pub fn lost<'a>(&'a self, recorded: &Results) -> Vec<&'a str> {
        let lost = |(name, one): &(&String, &Outcome)| {
            !one.passed() && recorded.0.get(*name).is_some_and(Outcome::passed)
        };
        self.0.iter().filter(lost).map(|(name, _)| name.as_str()).collect()
    }
}

fn path(whose: &str) -> PathBuf {
    dir().join(format!("{whose}.tsv"))
}

fn dir() -> PathBuf {
    paths::repository().join("tests/conformance")
}

fn of_spec(spec: &Value) -> Option<(String, Outcome)> {
    let state = spec["State"].as_str()?.to_owned();
    let message = spec["Failure"]["Message"].as_str().unwrap_or_default().to_owned();
    let seconds = spec["RunTime"].as_f64().map(|ns| ns / 1e9);
    let kind = spec["LeafNodeType"].as_str()?;
    let area = if kind == "It" {
        let file = spec["LeafNodeLocation"]["FileName"].as_str().unwrap_or_default();
        let file = file.rsplit_once("/test/").map_or(file, |(_, below)| below);
        file.trim_end_matches(".go").to_owned()
    } else {
        "suite".to_owned()
    };
    // Selected away: it has neither begun nor said why it skips.
    if state == "skipped" && message.is_empty() || kind != "It" && (state == "passed" || state == "skipped") {
        return None;
    }
    let texts = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let texts = texts.chain([&spec["LeafNodeText"]]).filter_map(Value::as_str);
    let name = texts.collect::<Vec<_>>().join(" ");
    let name = if kind == "It" { name } else { format!("[{kind}] {name}") };
    Some((name.split_whitespace().collect::<Vec<_>>().join(" "), Outcome { state, seconds, area, message }))
}

/// Why tests do not pass, for the page: `tests/conformance/reasons.yaml`.
#[derive(Debug, Deserialize)]
pub(super) struct Reason {
    /// A regular expression over the test's name.
    tests: String,
    pub why: String,
}

#[derive(Debug)]
pub(super) struct Reasons(Vec<(Regex, String)>);

impl Reasons {
    pub fn read() -> Result<Reasons> {
        Reasons::of(&dir().join("reasons.yaml"))
    }

    fn of(path: &Path) -> Result<Reasons> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let all: Vec<Reason> =
            serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
        let compiled = all.into_iter().map(|one| -> Result<(Regex, String)> {
            Ok((Regex::new(&one.tests).with_context(|| path.display().to_string())?, one.why))
        });
        Ok(Reasons(compiled.collect::<Result<_>>()?))
    }

    pub fn of_test(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(tests, _)| tests.is_match(name)).map(|(_, why)| why.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        let spec = |state: &str, text: &str, message: &str, kind: &str| {
            json!({
                "State": state,
                "RunTime": 1_500_000_000,
                "LeafNodeType": kind,
                "LeafNodeText": text,
                "ContainerHierarchyTexts": ["[sig-node] Pods"],
                "LeafNodeLocation": { "FileName": "k8s.io/kubernetes@v1/test/e2e/common/node/pods.go" },
                "Failure": { "Message": message },
            })
        };
        json!([{ "SpecReports": [
            spec("passed", "run", "", "It"),
            spec("failed", "end", "timed out", "It"),
            spec("skipped", "not selected", "", "It"),
            spec("skipped", "on Windows", "no Windows here", "It"),
            spec("passed", "", "", "SynchronizedBeforeSuite"),
            spec("failed", "", "no node", "SynchronizedBeforeSuite"),
        ] }])
    }

    #[test]
    fn a_report_is_read_and_kept() {
        let results = Results::of_report(&report());
        let told: Vec<(&str, &str)> =
            results.0.iter().map(|(name, one)| (name.as_str(), one.state.as_str())).collect();
        assert_eq!(
            told,
            [
                ("[SynchronizedBeforeSuite] [sig-node] Pods", "failed"),
                ("[sig-node] Pods end", "failed"),
                ("[sig-node] Pods on Windows", "skipped"),
                ("[sig-node] Pods run", "passed"),
            ]
        );
        assert_eq!(results.0["[sig-node] Pods run"].area, "e2e/common/node/pods");
        let again = Results::parse(&results.text()).unwrap();
        assert_eq!(again.text(), results.text());
        assert!(Results::parse("passed").is_err() && Results::parse(&format!("{HEADING}\na\tb")).is_err());
    }

    #[test]
    fn what_passed_once_and_does_not_now_is_lost() {
        let (now, mut then) = (Results::of_report(&report()), Results::of_report(&report()));
        assert!(now.lost(&then).is_empty());
        then.0.get_mut("[sig-node] Pods end").unwrap().state = "passed".to_owned();
        assert_eq!(now.lost(&then), ["[sig-node] Pods end"]);
        // One that was not selected is not lost.
        assert!(Results::default().lost(&then).is_empty());
    }
}
