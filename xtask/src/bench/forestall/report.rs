//! From the figures to tables in Markdown with every cell, and to whether each aim is reached. Pure.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::figures::{CellFigures, Figures, HOST};
use super::matrix::{BALLAST_MIB, CAP_MIB, PICTURED, Shape, Speed, THRESHOLD_MIB, title};
use super::pods::{Benign, SIGTERM_MS};

/// The machine itself first.
pub fn places(figures: &Figures) -> Vec<&str> {
    let mut places: Vec<&str> = figures.machines.keys().map(String::as_str).collect();
    places.sort_by_key(|place| (*place != HOST, *place));
    places
}

/// The machine as a whole runs out of memory there, which is what all tools watch.
pub fn is_whole_machine(place: &str) -> bool {
    place != HOST && !place.contains(", ")
}

/// Every cell.
pub fn markdown(figures: &Figures) -> String {
    let mut text = format!("## Every cell\n\n{COLUMNS}\n\n");
    for place in places(figures) {
        let cells: Vec<&CellFigures> = figures.cells.iter().filter(|cell| cell.place == place).collect();
        let _ = writeln!(text, "{}\n", introduction(figures, place));
        let anonymous = |cell: &&CellFigures| cell.shape == Shape::Anonymous;
        let (ramps, shapes): (Vec<_>, Vec<_>) = cells.into_iter().partition(anonymous);
        for rows in [ramps, shapes] {
            if !rows.is_empty() {
                let _ = writeln!(text, "{}\n", cell_table(&rows));
            }
        }
        if let Some(table) = benign_table(figures, place) {
            let _ = writeln!(
                text,
                "False evictions, of runs of a pod that takes much memory and frees it again, or leaves enough:\n\n{table}\n"
            );
        }
    }
    let _ = writeln!(text, "## What cannot be compared\n\n{NOT_COMPARABLE} {}", kubelet(figures));
    text
}

fn kubelet(figures: &Figures) -> String {
    match &figures.kubelet {
        Some(version) if figures.cells.iter().any(|cell| cell.tool == "kubelet") => format!(
            "kubelet is {version} in oomlet's place, in the lab alone, since it sets sysctls of its whole machine; with the same pods and \
             the same threshold, at which it looks every ten seconds. To a pod over a hard threshold it gives no time for a handler."
        ),
        _ => {
            "kubelet is measured in the lab when it is given by `--kubelet PATH`; here it was not.".to_owned()
        }
    }
}

const COLUMNS: &str = "\
- tool: oomlet by sensing tier (2: BTF and fentry programs, 1: tracepoints and perf events, 0: no eBPF, the sampler alone); no brake: with
  `eviction.brake: false`, so that no pod is frozen or throttled. nothing: oomlet runs the pods and evicts none; the kernel's OOM killer acts.
- leak: anonymous memory, touched page by page; max: two threads, as fast as the machine can. tmpfs: a file on an emptyDir of medium Memory;
  dirty: a file on a disk, whose page cache must be written before it can be reclaimed; it ends by itself. fork-bomb: ever more
  processes with a little memory each.
- OOM-killed: runs in which the kernel's OOM killer acted. handler done: runs in which the leak's SIGTERM handler ran to its end, of
  those in which the leak did not come to its own end.
- warning: from SIGTERM until the handler was done or the process was gone. above threshold: by how much the use of memory rose above the
  eviction threshold. left at decision: memory that was available when the eviction was decided.
- wrong victim: runs in which another pod than the leak was the first to end. neighbours lost: other pods that ended, in all runs together.";

const NOT_COMPARABLE: &str = "\
earlyoom, nohang and systemd-oomd watch the machine and not a cap on its pods, and choose a process or a cgroup, not a
pod; so they meet the leak in the lab only, where the machine itself runs out, at what an emulated CPU can touch. Tuned means: earlyoom
with `-p`, `--prefer` the workload and `--avoid` what the node needs (README, \"Preferred Processes\"; earlyoom(1)); nohang with the
thresholds of earlyoom, 10 % and 5 %, PSI on and containerd's badness lowered (its configuration file, sections 2, 5, 6 and 7). What is over the threshold of `dirty` is page cache and not shown.";

pub fn introduction(figures: &Figures, place: &str) -> String {
    let machine = figures.machines.get(place);
    let say = |key: &str| machine.and_then(|m| m[key].as_str()).unwrap_or("?").to_owned();
    let number = |key: &str| machine.and_then(|m| m[key].as_u64()).unwrap_or(0);
    let quick = if figures.quick && place == HOST { " (`--quick`: few runs)" } else { "" };
    if place == HOST {
        return format!(
            "On {} CPUs ({}), Linux {}, cgroup {}, load {}{quick}: all pods share {CAP_MIB} MiB, the eviction threshold is \
             {THRESHOLD_MIB} MiB, and a leak goes on for the {SIGTERM_MS} ms that its SIGTERM handler takes. Where the leak is slow or \
             not of anonymous memory, an idle pod holds {BALLAST_MIB} MiB.",
            number("cpus"),
            say("cpu"),
            say("kernel"),
            say("cgroup"),
            say("load"),
        );
    }
    let (lab, capped) = place.split_once(", ").map_or((place, false), |(lab, _)| (lab, true));
    let what = if capped {
        format!("all pods share {CAP_MIB} MiB, as above.")
    } else {
        "the whole machine runs out of memory, which is what the other tools watch.".to_owned()
    };
    format!(
        "In a virtual machine ({lab}: {} MiB, {} {}, Linux {}, cgroup v2): {what}",
        number("memory_mib"),
        number("cpus"),
        if machine.is_some_and(|m| m["emulated"] == true) { "emulated CPUs" } else { "CPUs" },
        say("kernel"),
    )
}

fn markdown_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    table
}

/// Only what is not anonymous memory says so.
pub fn leak_name(shape: Shape, speed: Speed) -> String {
    match shape {
        Shape::Anonymous => speed.name(),
        shape => format!("{} {}", shape.name(), speed.name()),
    }
}

fn cell_table(cells: &[&CellFigures]) -> Table {
    let mut table = markdown_table([
        "tool",
        "leak, MiB/s",
        "runs",
        "OOM-killed",
        "handler done",
        "warning p50",
        "above threshold p50",
        "left at decision p50",
        "wrong victim",
        "neighbours lost",
    ]);
    let unit = |n: Option<i64>, unit: &str| n.map_or("-".to_owned(), |n| format!("{n} {unit}"));
    for cell in cells {
        let handled = match cell.runs - cell.done_runs {
            0 if cell.runs > 0 => "- (ended by itself)".to_owned(),
            ended => format!("{} of {ended}", cell.sigterm_completed),
        };
        let runs = match cell.failed_runs {
            0 => cell.runs.to_string(),
            failed => format!("{} ({failed} failed)", cell.runs),
        };
        table.add_row([
            cell.title(),
            leak_name(cell.shape, cell.rate_mib_s),
            runs,
            cell.kernel_oom_runs.to_string(),
            handled,
            unit(cell.warning_ms_p50, "ms"),
            unit(cell.overshoot_mib_p50, "MiB"),
            unit(cell.wasted_mib_p50, "MiB"),
            cell.wrong_victims.to_string(),
            cell.collateral.to_string(),
        ]);
    }
    table
}

/// Tools side by side; `None` when there is nothing to show.
fn benign_table(figures: &Figures, place: &str) -> Option<Table> {
    let of: Vec<_> = figures.benign.iter().filter(|benign| benign.place == place).collect();
    let mut tools: Vec<String> = Vec::new();
    for benign in &of {
        let tool = title(&benign.tool, benign.tier, None);
        if !tools.contains(&tool) {
            tools.push(tool);
        }
    }
    let cap = of.first()?.cap_mib;
    let mut table = Table::new();
    let header = [format!("{cap} MiB for all pods")].into_iter().chain(tools.iter().cloned());
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header.collect::<Vec<_>>());
    for shape in Benign::ALL {
        let mut row = vec![format!("{}: {}", shape.name(), shape.what())];
        for tool in &tools {
            let found = of.iter().find(|b| b.shape == shape && title(&b.tool, b.tier, None) == *tool);
            row.push(found.map_or("-".to_owned(), |b| {
                let killed = match b.kernel_oom_runs {
                    0 => String::new(),
                    runs => format!(" ({runs} OOM-killed)"),
                };
                format!("{} of {}{killed}", b.false_evictions, b.runs)
            }));
        }
        table.add_row(row);
    }
    Some(table)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aim {
    pub what: &'static str,
    pub reached: bool,
    pub seen: String,
}

/// Runs of tiers 1 and 2 that the aims rest on, at least, of each.
const RUNS: usize = 200;

/// What is promised of oomlet with its brake, wherever it was measured. A run that came to no result is not one that went well.
pub fn aims(figures: &Figures) -> Vec<Aim> {
    let own = |tiers: &'static [u8], speeds: fn(Speed) -> bool| -> Vec<&CellFigures> {
        let is_own = |cell: &&CellFigures| {
            cell.brake == Some(true)
                && cell.tier.is_some_and(|tier| tiers.contains(&tier))
                && speeds(cell.rate_mib_s)
        };
        figures.cells.iter().filter(is_own).collect()
    };
    let mut aims = Vec::new();
    // `least`: the share of the runs, in per cent.
    let mut aim = |what,
                   cells: &[&CellFigures],
                   least: usize,
                   good: fn(&CellFigures) -> usize,
                   of: fn(&CellFigures) -> usize| {
        let (good, of) =
            (cells.iter().map(|c| good(c)).sum::<usize>(), cells.iter().map(|c| of(c)).sum::<usize>());
        aims.push(Aim {
            what,
            reached: of > 0 && good * 100 >= of * least,
            seen: format!("{good} of {of} runs"),
        });
    };
    let runs = |cell: &CellFigures| cell.runs + cell.failed_runs;
    let ended = |cell: &CellFigures| cell.runs + cell.failed_runs - cell.done_runs;
    let alive = |cell: &CellFigures| cell.runs - cell.kernel_oom_runs;
    let handled = |cell: &CellFigures| cell.sigterm_completed;
    let alone = |cell: &CellFigures| cell.spared_runs;
    aim("tiers 1 and 2: no kernel OOM kill", &own(&[1, 2], |_| true), 100, alive, runs);
    aim(
        "tiers 1 and 2, up to 1000 MiB/s: the SIGTERM handler is done",
        &own(&[1, 2], up_to_1000),
        100,
        handled,
        ended,
    );
    aim("tiers 1 and 2, faster: done in 95 %", &own(&[1, 2], |s| !up_to_1000(s)), 95, handled, ended);
    aim("tiers 1 and 2: the leak alone is ended", &own(&[1, 2], |_| true), 100, alone, runs);
    aim("tier 0, up to 1000 MiB/s: no kernel OOM kill", &own(&[0], up_to_1000), 100, alive, runs);
    let least = [1, 2].map(|tier| {
        figures.cells.iter().filter(|c| c.tier == Some(tier) && c.brake == Some(true)).map(|c| c.runs).sum()
    });
    let least: usize = least.into_iter().min().unwrap_or(0);
    aims.push(Aim {
        what: "tiers 1 and 2: runs of each, which this rests on",
        reached: least >= RUNS,
        seen: format!("{least}, {RUNS} or more are wanted"),
    });
    let benign = figures.benign.iter().filter(|benign| benign.tier.is_some());
    let (evicted, of) = benign.fold((0, 0), |(evicted, of), b| (evicted + b.false_evictions, of + b.runs));
    aims.push(Aim {
        what: "no false eviction",
        reached: of > 0 && evicted == 0,
        seen: format!("{evicted} in {of} runs"),
    });
    aims
}

fn up_to_1000(speed: Speed) -> bool {
    speed <= PICTURED
}

pub fn aims_table(aims: &[Aim]) -> Table {
    let mut table = markdown_table(["aim", "seen", ""]);
    for aim in aims {
        table.add_row([aim.what, &aim.seen, if aim.reached { "reached" } else { "**not reached**" }]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::super::figures::BenignFigures;
    use super::super::figures::tests::cell;
    use super::super::matrix::{MIDDLE, Tool};
    use super::super::outcome::Run;
    use super::*;

    fn good() -> Run {
        Run { evicted: true, sigterm_completed: true, warning_ms: 502, ..Run::default() }
    }

    fn figures(fast: Vec<Run>, evicted: usize) -> Figures {
        let tier_0 = Tool::Oomlet { tier: 0, brake: true };
        let benign = BenignFigures {
            place: HOST.to_owned(),
            tool: "oomlet".to_owned(),
            tier: Some(2),
            shape: Benign::Heap,
            cap_mib: 512,
            runs: 3,
            false_evictions: evicted,
            kernel_oom_runs: 0,
        };
        Figures {
            cells: vec![
                cell(Tool::OOMLET, MIDDLE, vec![good(); 2]),
                cell(Tool::OOMLET, Speed::MAX, fast),
                cell(tier_0, MIDDLE, vec![good()]),
                cell(Tool::Nothing, MIDDLE, vec![Run { kernel_oom_kills: 1, ..Run::default() }]),
            ],
            benign: vec![benign],
            machines: BTreeMap::from([(HOST.to_owned(), Value::Null)]),
            ..Figures::default()
        }
    }

    #[test]
    fn aims_are_reached_or_not() {
        let cut = Run { sigterm_completed: false, ..good() };
        let killed = Run { kernel_oom_kills: 1, collateral: 1, ..cut.clone() };
        let mostly = [vec![good(); 19], vec![cut.clone()]].concat();
        for (fast, evicted, expected) in [
            (vec![good(); 20], 0, [true; 6]),
            (mostly, 1, [true, true, true, true, true, false]),
            (vec![cut], 0, [true, true, false, true, true, true]),
            (vec![killed], 0, [false, true, false, false, true, true]),
        ] {
            let mut aims = aims(&figures(fast.clone(), evicted));
            assert!(!aims.remove(5).reached, "there are too few runs for anything");
            let reached: Vec<bool> = aims.iter().map(|aim| aim.reached).collect();
            assert_eq!(reached, expected, "{fast:?} {aims:?}");
        }
        assert!(aims(&Figures::default()).iter().all(|aim| !aim.reached), "nothing is reached by no runs");
    }

    #[test]
    fn tables_hold_what_was_measured() {
        let figures = figures(vec![good()], 0);
        let text = markdown(&figures);
        let row = |start: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(start))
                .unwrap_or_else(|| panic!("{start}: {text}"));
            line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(row("| oomlet tier 2")[2..7], ["200", "2", "0", "2 of 2", "502 ms"]);
        assert_eq!(row("| nothing")[2..6], ["200", "1", "1", "0 of 1"]);
        assert_eq!(row("| heap")[2], "0 of 3");
        assert!(text.contains("here it was not"), "{text}");
        assert!(aims_table(&aims(&figures)).to_string().contains("| 3 of 3 runs"), "{:?}", aims(&figures));
    }

    #[test]
    fn what_failed_did_not_go_well() {
        let mut figures = figures(vec![good(); RUNS], 0);
        let tier_1 = Tool::Oomlet { tier: 1, brake: true };
        figures.cells.push(cell(tier_1, MIDDLE, vec![good(); RUNS]));
        assert!(aims(&figures).iter().all(|aim| aim.reached), "{:?}", aims(&figures));
        figures.cells[0].failed_runs = 1;
        assert_eq!(aims(&figures).iter().filter(|aim| !aim.reached).count(), 3, "{:?}", aims(&figures));
    }

    #[test]
    fn kubelet_is_named_where_it_was_measured() {
        let mut figures = figures(vec![good()], 0);
        figures.cells.push(cell(Tool::Kubelet, MIDDLE, vec![good()]));
        figures.kubelet = Some("v1.20.2".to_owned());
        assert!(markdown(&figures).contains("kubelet is v1.20.2"));
    }
}
