//! docs/conformance.md: what passes with kubelet and with oomlet, and why the rest does not.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use super::results::{KUBELET, OOMLET, Outcome, Reasons, Results};
use crate::paths;

const PAGE: &str = "docs/conformance.md";
const ABOUT: &str = "\
Kubernetes' own tests of a node, `test/e2e_node` of the release that [the control plane](control-plane.md) is of, those labelled
NodeConformance, against oomlet and against kubelet. Written by `cargo xtask conformance --record`; what became of each test is
kept in `tests/conformance`.

```sh
cargo xtask conformance                          # the part without slow and serial tests, eight at a time
cargo xtask conformance --focus 'Probing container'
cargo xtask conformance --labels 'NodeConformance && Serial && !Flaky' --processes 1
cargo xtask conformance --kubelet                # kubelet in the agent's place
```

It exits with 1 where a test that is kept as passed does not pass; `--record` keeps what became of those that ran. As root; it
builds the suite from `tests/conformance/go.mod` once (ten minutes on two cores, and 4 GB while it builds), makes every image that
the suite names (no registry is asked), and runs in namespaces of its own: the suite's `/var/lib/kubelet`, `/kubepods` and ports
are not the machine's. containerd is the newest that set-up has, the control plane is the suite's own. There is no systemd: one
test, which stops containerd through it, cannot pass.
";
const UNEXPLAINED: &str = "Not looked into yet.";

pub(super) fn write() -> Result<()> {
    let path = paths::repository().join(PAGE);
    fs::write(&path, text()?).with_context(|| format!("writing {}", path.display()))?;
    println!("written: {PAGE}");
    Ok(())
}

fn text() -> Result<String> {
    Ok(render(&Results::read(KUBELET)?, &Results::read(OOMLET)?, &Reasons::read()?))
}

#[derive(Default)]
struct Column {
    passed: usize,
    run: usize,
    seconds: Option<f64>,
}

impl Column {
    fn add(&mut self, outcome: Option<&Outcome>) {
        if let Some(outcome) = outcome {
            self.passed += usize::from(outcome.passed());
            self.run += 1;
            self.seconds =
                outcome.seconds.map_or(self.seconds, |more| Some(self.seconds.unwrap_or(0.0) + more));
        }
    }

    fn cells(&self) -> String {
        let seconds = self.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.0}"));
        format!("{} of {} | {seconds}", self.passed, self.run)
    }
}

fn render(kubelet: &Results, oomlet: &Results, reasons: &Reasons) -> String {
    let names: BTreeMap<&String, &str> =
        kubelet.0.iter().chain(&oomlet.0).map(|(name, one)| (name, one.area.as_str())).collect();
    let mut areas: BTreeMap<&str, [Column; 2]> = BTreeMap::new();
    let mut not_passed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, area) in &names {
        let outcomes = [kubelet, oomlet].map(|of| of.0.get(*name));
        for of in [*area, "all"] {
            let columns = areas.entry(of).or_default();
            columns.iter_mut().zip(outcomes).for_each(|(column, outcome)| column.add(outcome));
        }
        if !outcomes.iter().all(|outcome| outcome.is_some_and(Outcome::passed)) {
            let [a, b] = outcomes.map(|outcome| outcome.map_or("-", |one| one.state.as_str()));
            let why = reasons.of_test(name).unwrap_or(UNEXPLAINED);
            not_passed
                .entry(why)
                .or_default()
                .push(format!("| {} | {a} | {b} |\n", name.replace('|', "\\|")));
        }
    }
    let mut page = format!(
        "# Upstream's tests of a node\n\n{ABOUT}\n## What passes\n\n| tests of | {KUBELET} passes | in s | oomlet passes | in s \
         |\n|---|---|---|---|---|\n"
    );
    for (area, [a, b]) in &areas {
        let _ = writeln!(page, "| {area} | {} | {} |", a.cells(), b.cells());
    }
    page += "\n## What does not pass\n";
    for (why, rows) in &not_passed {
        let _ = write!(page, "\n{why}\n\n| test | kubelet | oomlet |\n|---|---|---|\n{}", rows.concat());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_was_recorded() {
        let path = paths::repository().join(PAGE);
        let page = fs::read_to_string(&path).unwrap();
        assert_eq!(page, text().unwrap(), "`cargo xtask conformance --page` writes it anew");
    }

    /// What passes with kubelet and not with oomlet has its reason, and whatever passes is told as such.
    #[test]
    fn nothing_is_lost_without_a_reason() {
        let (kubelet, oomlet, reasons) =
            (Results::read(KUBELET).unwrap(), Results::read(OOMLET).unwrap(), Reasons::read().unwrap());
        let passed = kubelet.0.iter().filter(|(_, one)| one.passed());
        let unexplained: Vec<&String> = passed
            .map(|(name, _)| name)
            .filter(|name| {
                oomlet.0.get(*name).is_some_and(|one| !one.passed()) && reasons.of_test(name).is_none()
            })
            .collect();
        assert!(unexplained.is_empty(), "{unexplained:#?}");
    }
}
