//! The figures as they are written and read again: `target/bench/forestall.json`, and without single runs
//! `docs/forestall.json`. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::matrix::{Cell, Domain, Group, Shape, Speed, Tool, title};
use super::outcome::Run;
use super::picture::Recording;
use super::pods::Benign;
use crate::bench::quantile;

/// Of this machine; other places are machines of the lab.
pub const HOST: &str = "host";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// The few runs of `--quick`, or of a part of the matrix.
    pub quick: bool,
    pub cells: Vec<CellFigures>,
    pub benign: Vec<BenignFigures>,
    /// The runs in the picture: with oomlet, and with nobody.
    pub watched: Option<Recording>,
    pub alone: Option<Recording>,
    /// What each place is.
    pub machines: BTreeMap<String, Value>,
    /// The version of the one that was measured.
    pub kubelet: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellFigures {
    /// `host`, or the machine of the lab.
    pub place: String,
    pub tool: String,
    pub tier: Option<u8>,
    pub brake: Option<bool>,
    /// `v1` or `v2`.
    pub hierarchy: String,
    pub domain: Domain,
    pub shape: Shape,
    pub rate_mib_s: Speed,
    pub swap: bool,
    pub runs: usize,
    /// Attempts that ended without a result; not among the runs.
    pub failed_runs: usize,
    pub kernel_oom_runs: usize,
    pub wrong_victims: usize,
    /// Neighbours that ended, in all runs together.
    pub collateral: u32,
    pub evicted_runs: usize,
    pub sigterm_completed: usize,
    /// Runs in which the leak came to its own end.
    pub done_runs: usize,
    /// [`Run::in_order`], and [`Run::spared_others`].
    pub in_order_runs: usize,
    pub spared_runs: usize,
    pub warning_ms_p50: Option<i64>,
    pub overshoot_mib_p50: Option<i64>,
    pub wasted_mib_p50: Option<i64>,
    /// Not in what is kept with the sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<Run>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenignFigures {
    pub place: String,
    pub tool: String,
    pub tier: Option<u8>,
    pub shape: Benign,
    pub cap_mib: u64,
    pub runs: usize,
    pub false_evictions: usize,
    pub kernel_oom_runs: usize,
}

impl BenignFigures {
    /// `seen`: of each run, whether something was evicted, and how many the kernel killed.
    pub fn of(place: &str, tool: Tool, shape: Benign, cap_mib: u64, seen: &[(bool, u64)]) -> BenignFigures {
        BenignFigures {
            place: place.to_owned(),
            tool: tool.name(),
            tier: tool.tier(),
            shape,
            cap_mib,
            runs: seen.len(),
            false_evictions: seen.iter().filter(|(evicted, _)| *evicted).count(),
            kernel_oom_runs: seen.iter().filter(|(_, kills)| *kills > 0).count(),
        }
    }

    /// For who watches the bench.
    pub fn line(&self) -> String {
        format!(
            "{:24} {:16} {} runs: {} false evictions, {} OOM",
            title(&self.tool, self.tier, None),
            self.shape.name(),
            self.runs,
            self.false_evictions,
            self.kernel_oom_runs
        )
    }

    fn is_same(&self, other: &BenignFigures) -> bool {
        let key =
            |benign: &BenignFigures| (benign.place.clone(), benign.tool.clone(), benign.tier, benign.shape);
        key(self) == key(other)
    }
}

impl CellFigures {
    pub fn of(
        place: &str,
        hierarchy: &str,
        group: &Group,
        cell: Cell,
        each: Vec<Run>,
        failed: usize,
    ) -> Self {
        let count = |holds: fn(&Run) -> bool| each.iter().filter(|run| holds(run)).count();
        let median = |of: fn(&Run) -> Option<i64>| {
            let values: Vec<i64> = each.iter().filter_map(of).collect();
            (!values.is_empty()).then(|| quantile(&values, 50))
        };
        CellFigures {
            place: place.to_owned(),
            tool: group.tool.name(),
            tier: group.tool.tier(),
            brake: group.tool.brake(),
            hierarchy: hierarchy.to_owned(),
            domain: group.domain,
            shape: cell.shape,
            rate_mib_s: cell.speed,
            swap: group.swap,
            runs: each.len(),
            failed_runs: failed,
            kernel_oom_runs: count(|run| run.kernel_oom_kills > 0),
            wrong_victims: count(|run| run.wrong_victim),
            collateral: each.iter().map(|run| run.collateral).sum(),
            evicted_runs: count(|run| run.evicted),
            sigterm_completed: count(|run| run.sigterm_completed),
            done_runs: count(|run| run.done),
            in_order_runs: count(Run::in_order),
            spared_runs: count(Run::spared_others),
            // Whoever came to its own end had no warning and needed none.
            warning_ms_p50: median(|run| (!run.done).then_some(run.warning_ms)),
            overshoot_mib_p50: median(|run| run.overshoot_mib),
            wasted_mib_p50: median(|run| run.wasted_mib),
            each,
        }
    }

    fn is_same(&self, other: &CellFigures) -> bool {
        let key =
            |cell: &CellFigures| (cell.place.clone(), cell.title(), cell.domain, cell.shape, cell.rate_mib_s);
        key(self) == key(other)
    }

    /// The tool, how much of itself it uses, and whether there is swap.
    pub fn title(&self) -> String {
        let swap = if self.swap { ", swap" } else { "" };
        format!("{}{swap}", title(&self.tool, self.tier, self.brake))
    }

    /// For who watches the bench.
    pub fn line(&self) -> String {
        let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
        format!(
            "{:24} {:9} {:>5} MiB/s {:3} runs: {} OOM, {} handled, {} done, {} wrong, {} collateral, warning {} ms, \
             over {} MiB, wasted {} MiB{}",
            self.title(),
            self.shape.name(),
            self.rate_mib_s.name(),
            self.runs,
            self.kernel_oom_runs,
            self.sigterm_completed,
            self.done_runs,
            self.wrong_victims,
            self.collateral,
            number(self.warning_ms_p50),
            number(self.overshoot_mib_p50),
            number(self.wasted_mib_p50),
            if self.failed_runs > 0 { format!(", {} FAILED", self.failed_runs) } else { String::new() },
        )
    }
}

/// Whoever was measured first: oomlet, its peers, nobody.
fn rank(tool: &str) -> u8 {
    match tool {
        "oomlet" => 0,
        "nothing" => 2,
        _ => 1,
    }
}

impl Figures {
    /// Takes in what was measured: `whole` places are replaced, of others the cells that were measured again.
    pub fn take(&mut self, new: Figures, whole: bool) {
        let again = |place: &str| whole && new.machines.contains_key(place);
        self.cells.retain(|old| !again(&old.place) && !new.cells.iter().any(|cell| cell.is_same(old)));
        self.benign.retain(|old| !again(&old.place) && !new.benign.iter().any(|benign| benign.is_same(old)));
        let host_anew = again(HOST);
        self.quick = new.quick || (self.quick && !host_anew);
        for (kept, new) in [(&mut self.watched, &new.watched), (&mut self.alone, &new.alone)] {
            if new.is_some() || host_anew {
                kept.clone_from(new);
            }
        }
        self.add(Figures { watched: None, alone: None, ..new });
    }

    /// What tables are made of: no single run, and no recording.
    pub fn summed_up(&self) -> Figures {
        let cells = self.cells.iter().map(|cell| CellFigures { each: Vec::new(), ..cell.clone() });
        Figures { cells: cells.collect(), watched: None, alone: None, ..self.clone() }
    }

    /// Without what was measured on another machine than this `host`: such figures are not to stand beside new ones.
    pub fn of_host(mut self, host: &Value) -> Figures {
        let is_same = |key: &str| self.machines.get(HOST).is_none_or(|kept| kept[key] == host[key]);
        if !["cpu", "cpus", "cgroup"].into_iter().all(is_same) {
            self.cells.retain(|cell| cell.place != HOST);
            self.benign.retain(|benign| benign.place != HOST);
            self.machines.remove(HOST);
        }
        self
    }

    /// Those of another part of the matrix.
    pub fn add(&mut self, new: Figures) {
        self.cells.extend(new.cells);
        self.cells.sort_by_key(|cell| rank(&cell.tool));
        self.benign.extend(new.benign);
        self.benign.sort_by_key(|benign| rank(&benign.tool));
        self.machines.extend(new.machines);
        self.kubelet = new.kubelet.or(self.kubelet.take());
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::matrix::MIDDLE;
    use super::super::{report, summary};
    use super::*;

    pub fn cell(tool: Tool, speed: Speed, each: Vec<Run>) -> CellFigures {
        let group = Group { tool, domain: Domain::Kubepods, swap: false, cells: Vec::new() };
        let cell = Cell { shape: Shape::Anonymous, speed, runs: each.len() as u32 };
        CellFigures::of(HOST, "v1", &group, cell, each, 0)
    }

    #[test]
    fn runs_become_a_cell() {
        let good = Run {
            evicted: true,
            sigterm_completed: true,
            warning_ms: 500,
            overshoot_mib: Some(10),
            wasted_mib: Some(99),
            ..Run::default()
        };
        let killed = Run { kernel_oom_kills: 2, collateral: 1, wrong_victim: true, ..Run::default() };
        let done = Run { done: true, ..Run::default() };
        let cell = cell(Tool::OOMLET, MIDDLE, vec![good.clone(), killed, good, done]);
        assert_eq!((cell.runs, cell.kernel_oom_runs, cell.wrong_victims, cell.collateral), (4, 1, 1, 1));
        assert_eq!((cell.sigterm_completed, cell.evicted_runs, cell.done_runs), (2, 2, 1));
        assert_eq!(
            (cell.warning_ms_p50, cell.overshoot_mib_p50, cell.wasted_mib_p50),
            (Some(500), Some(10), Some(99))
        );
        assert_eq!((cell.in_order_runs, cell.spared_runs), (3, 3));
        assert!(cell.line().contains("oomlet tier 2") && cell.line().contains("1 OOM"), "{}", cell.line());
        let json = serde_json::to_value(&cell).unwrap();
        for key in
            ["tool", "tier", "brake", "hierarchy", "shape", "rate_mib_s", "swap", "runs", "kernel_oom_runs"]
        {
            assert!(!json[key].is_null(), "{key} in {json}");
        }
    }

    #[test]
    fn what_is_kept_makes_the_same_tables() {
        let good = Run { evicted: true, sigterm_completed: true, ..Run::default() };
        let figures = Figures {
            cells: vec![cell(Tool::OOMLET, MIDDLE, vec![good; 3])],
            machines: BTreeMap::from([(HOST.to_owned(), Value::Null)]),
            watched: Some(Recording::default()),
            ..Figures::default()
        };
        let json = serde_json::to_string(&figures.summed_up()).unwrap();
        assert!(!json.contains("each"), "{json}");
        let kept: Figures = serde_json::from_str(&json).unwrap();
        assert_eq!(report::markdown(&kept), report::markdown(&figures));
        assert_eq!(summary::markdown(&kept), summary::markdown(&figures));
        assert!(kept.watched.is_none() && !kept.cells.is_empty());
    }

    #[test]
    fn figures_of_another_machine_do_not_stand_beside_those_of_this_one() {
        let machine =
            |cpus: u64| serde_json::json!({ "cpu": "x", "cpus": cpus, "cgroup": "v2", "load": cpus });
        let in_lab = CellFigures { place: "lab".to_owned(), ..cell(Tool::OOMLET, MIDDLE, Vec::new()) };
        let figures = Figures {
            cells: vec![cell(Tool::OOMLET, MIDDLE, Vec::new()), in_lab],
            machines: BTreeMap::from([(HOST.to_owned(), machine(2)), ("lab".to_owned(), Value::Null)]),
            ..Figures::default()
        };
        for (cpus, left) in [(2, 2), (4, 1)] {
            let kept = figures.clone().of_host(&machine(cpus));
            assert_eq!((kept.cells.len(), kept.machines.len()), (left, left), "{cpus} CPUs");
            assert!(kept.cells.iter().any(|cell| cell.place == "lab"));
        }
    }

    #[test]
    fn what_is_not_measured_again_stays() {
        let figures = |place: &str, speeds: &[u64], quick| Figures {
            quick,
            cells: speeds
                .iter()
                .map(|speed| CellFigures {
                    place: place.to_owned(),
                    ..cell(Tool::Nothing, Speed::MibS(*speed), Vec::new())
                })
                .collect(),
            machines: BTreeMap::from([(place.to_owned(), Value::Null)]),
            ..Figures::default()
        };
        let mut all = Figures::default();
        let mut after = |new: Figures, whole| {
            all.take(new, whole);
            let cells = all.cells.iter().map(|c| format!("{} {}", c.place, c.rate_mib_s.name()));
            (cells.collect::<Vec<_>>().join(", "), all.quick)
        };
        for (new, whole, expected, quick) in [
            (figures(HOST, &[1, 10], true), false, "host 1, host 10", true),
            (figures("lab", &[1], false), true, "host 1, host 10, lab 1", true),
            (figures(HOST, &[1], false), false, "host 10, lab 1, host 1", true),
            (figures(HOST, &[50], false), true, "lab 1, host 50", false),
        ] {
            assert_eq!(after(new, whole), (expected.to_owned(), quick));
        }
    }
}
