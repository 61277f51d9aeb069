//! The figures in short: in how many runs a leak ended in order, for which tool and at which speed. One table for README.md, and
//! one for each place at the head of docs/forestall.md. Pure.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::figures::{CellFigures, Figures, HOST};
use super::matrix::{Shape, Speed};
use super::report;

/// What README.md shows: this machine's runs, what became of the other tools, and the aims. A leak a row, so that the table is
/// narrow enough to be read.
pub fn readme(figures: &Figures) -> String {
    let cells: Vec<&CellFigures> = figures.cells.iter().filter(|cell| cell.place == HOST).collect();
    let mut text = String::new();
    if !cells.is_empty() {
        let _ = writeln!(
            text,
            "{} Shown: in how many runs of all the leak ended in order.\n\n{}\n",
            report::introduction(figures, HOST),
            by_leak(&cells)
        );
    }
    for place in report::places(figures).into_iter().filter(|place| report::is_whole_machine(place)) {
        let _ = writeln!(
            text,
            "{} In order at all speeds measured there: {}.\n",
            report::introduction(figures, place),
            in_order_by_tool(figures, place)
        );
    }
    let _ = writeln!(text, "The aims, and what was seen:\n");
    for aim in report::aims(figures) {
        let reached = if aim.reached { "" } else { ", **not reached**" };
        let _ = writeln!(text, "- {} — {}{reached}", aim.what, aim.seen);
    }
    text
}

/// Of each tool without swap: `earlyoom 5 of 10, kubelet 0 of 10 (10 OOM-killed)`.
fn in_order_by_tool(figures: &Figures, place: &str) -> String {
    let cells: Vec<&CellFigures> = figures.cells.iter().filter(|c| c.place == place && !c.swap).collect();
    let of = |tool: String| {
        let of: Vec<&&CellFigures> = cells.iter().filter(|cell| cell.title() == tool).collect();
        let sum = |what: fn(&CellFigures) -> usize| of.iter().map(|cell| what(cell)).sum();
        let (good, runs) = (sum(|cell| cell.in_order_runs), sum(|cell| cell.runs));
        let version = figures.kubelet.as_ref().filter(|_| tool == "kubelet");
        let version = version.map_or(String::new(), |version| format!(" {version}"));
        format!("{tool}{version} {}", counted(good, runs, sum(|c| c.kernel_oom_runs), sum(|c| c.failed_runs)))
    };
    titles(&cells).into_iter().map(of).collect::<Vec<_>>().join(", ")
}

/// The head of docs/forestall.md: a table for each place, the aims and the picture.
pub fn markdown(figures: &Figures) -> String {
    let mut text = "## In short\n\nIn how many runs of all the leak ended in order: its SIGTERM handler ran to its end, or the leak came to \
                    its own end; the kernel killed nothing, and no other pod ended. In brackets the runs in which the kernel's OOM \
                    killer acted.\n\n"
        .to_owned();
    for place in report::places(figures) {
        let cells: Vec<&CellFigures> = figures.cells.iter().filter(|cell| cell.place == place).collect();
        let _ = writeln!(text, "{}\n\n{}\n", report::introduction(figures, place), by_tool(&cells));
    }
    let _ = writeln!(
        text,
        "{}\n\n![Memory over time: a leak that oomlet freezes, throttles and ends, and the same leak killed by the \
         kernel]({})\n\nThe picture: the dark band is the time for which the pod was frozen, from the decision until it had its SIGTERM; \
         in the light band (\"held by the brake\") it ran on a budget and was frozen whenever it ran ahead of that.",
        report::aims_table(&report::aims(figures)),
        super::page::PICTURE.trim_start_matches("docs/"),
    );
    text
}

/// The tools, in the order in which they were measured.
fn titles(cells: &[&CellFigures]) -> Vec<String> {
    let mut tools: Vec<String> = Vec::new();
    for cell in cells {
        if !tools.contains(&cell.title()) {
            tools.push(cell.title());
        }
    }
    tools
}

/// Anonymous memory first, and slow ones before fast ones.
fn leaks(cells: &[&CellFigures]) -> Vec<(Shape, Speed)> {
    let mut leaks: Vec<(Shape, Speed)> = Vec::new();
    for cell in cells {
        let leak = (cell.shape, cell.rate_mib_s);
        if !leaks.contains(&leak) {
            leaks.push(leak);
        }
    }
    leaks.sort_by_key(|(shape, speed)| (*shape != Shape::Anonymous, *speed));
    leaks
}

fn of(cells: &[&CellFigures], tool: &str, leak: (Shape, Speed)) -> String {
    let cell = cells.iter().find(|c| c.title() == tool && (c.shape, c.rate_mib_s) == leak);
    cell.map_or("-".to_owned(), |c| counted(c.in_order_runs, c.runs, c.kernel_oom_runs, c.failed_runs))
}

fn markdown_table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    table
}

/// A row a leak.
fn by_leak(cells: &[&CellFigures]) -> Table {
    let tools = titles(cells);
    let mut table = markdown_table(["leak, MiB/s".to_owned()].into_iter().chain(tools.clone()).collect());
    for leak in leaks(cells) {
        let row = tools.iter().map(|tool| of(cells, tool, leak));
        table.add_row([report::leak_name(leak.0, leak.1)].into_iter().chain(row).collect::<Vec<_>>());
    }
    table
}

/// A row a tool.
fn by_tool(cells: &[&CellFigures]) -> Table {
    let leaks = leaks(cells);
    let names = leaks.iter().map(|(shape, speed)| report::leak_name(*shape, *speed));
    let mut table = markdown_table(["leak, MiB/s".to_owned()].into_iter().chain(names).collect());
    for tool in titles(cells) {
        let row = leaks.iter().map(|leak| of(cells, &tool, *leak));
        table.add_row([tool.clone()].into_iter().chain(row).collect::<Vec<_>>());
    }
    table
}

fn counted(in_order: usize, runs: usize, killed: usize, failed: usize) -> String {
    let killed = if killed > 0 { format!(" ({killed} OOM-killed)") } else { String::new() };
    let failed = if failed > 0 { format!(" ({failed} failed)") } else { String::new() };
    format!("{in_order} of {runs}{killed}{failed}")
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::cell;
    use super::super::matrix::{MIDDLE, Tool};
    use super::super::outcome::Run;
    use super::*;

    #[test]
    fn tools_by_leaks_and_leaks_by_tools() {
        let good = Run { evicted: true, sigterm_completed: true, ..Run::default() };
        let costly = Run { collateral: 1, ..good.clone() };
        let killed = Run { kernel_oom_kills: 1, ..Run::default() };
        let cells = [
            cell(Tool::OOMLET, Speed::MAX, vec![good.clone(), costly]),
            cell(Tool::OOMLET, MIDDLE, vec![good; 3]),
            cell(Tool::Nothing, MIDDLE, vec![killed]),
        ];
        let cells: Vec<&CellFigures> = cells.iter().collect();
        let rows = |text: &str| -> Vec<Vec<String>> {
            text.lines().map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
        };
        let turned = rows(&by_leak(&cells).to_string());
        let rows = rows(&by_tool(&cells).to_string());
        assert_eq!(rows[0][1..4], ["leak, MiB/s", "200", "max"]);
        assert_eq!(rows[2][1..4], ["oomlet tier 2", "3 of 3", "1 of 2"]);
        assert_eq!(rows[3][1..4], ["nothing", "0 of 1 (1 OOM-killed)", "-"]);
        for (row, line) in turned.iter().enumerate().filter(|(row, _)| *row != 1) {
            for (column, cell) in line[1..4].iter().enumerate() {
                let row = if row == 0 { 0 } else { row - 1 };
                assert_eq!(*cell, rows[if column == 0 { 0 } else { column + 1 }][row + 1], "{row} {column}");
            }
        }
    }

    #[test]
    fn other_tools_are_counted_over_all_speeds_without_swap() {
        let killed = Run { kernel_oom_kills: 1, ..Run::default() };
        let good = Run { evicted: true, sigterm_completed: true, ..Run::default() };
        let in_lab = |cell: CellFigures| CellFigures { place: "lab 6.12".to_owned(), ..cell };
        let swapping = |cell: CellFigures| CellFigures { swap: true, ..cell };
        let figures = Figures {
            cells: vec![
                in_lab(cell(Tool::Kubelet, MIDDLE, vec![good.clone(), killed.clone()])),
                in_lab(cell(Tool::Kubelet, Speed::MAX, vec![killed.clone()])),
                swapping(in_lab(cell(Tool::Nothing, MIDDLE, vec![good]))),
                in_lab(cell(Tool::Nothing, MIDDLE, vec![killed])),
            ],
            kubelet: Some("v1.36.0".to_owned()),
            ..Figures::default()
        };
        let text = in_order_by_tool(&figures, "lab 6.12");
        assert_eq!(text, "kubelet v1.36.0 1 of 3 (2 OOM-killed), nothing 0 of 1 (1 OOM-killed)");
    }
}
