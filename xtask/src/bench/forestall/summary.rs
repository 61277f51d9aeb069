//! The figures in short, as they stand in README.md: in how many runs a leak ended in order, for whom and at which speed. Pure.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use super::figures::{CellFigures, Figures};
use super::matrix::{Shape, Speed};
use super::report;

/// What is shown beside it.
pub const PICTURE: &str = "docs/forestall.svg";
/// With every cell.
pub const WHOLE: &str = "docs/forestall.md";
/// What both are made of, [`Figures::summed_up`]: other machines add to it.
pub const KEPT: &str = "docs/forestall.json";

pub fn markdown(figures: &Figures) -> String {
    let mut text = String::new();
    for place in report::places(figures) {
        let cells: Vec<&CellFigures> = figures.cells.iter().filter(|cell| cell.place == place).collect();
        let _ = writeln!(text, "{}\n\n{}\n", report::introduction(figures, place), table(&cells));
    }
    let _ = writeln!(
        text,
        "Shown: runs in which the leak ended in order (its SIGTERM handler done, or its work; nobody killed by the kernel, no neighbour \
         lost), of all; and those in which the kernel killed. [{WHOLE}]({WHOLE}) has more of each: warning time, overshoot, what was \
         left, false evictions, and what cannot be compared.\n\n{}\n\n![Memory over time: a leak that oomlet holds and ends, and the \
         same leak killed by the kernel]({PICTURE})",
        report::aims_table(&report::aims(figures))
    );
    text
}

/// Tools by leaks.
fn table(cells: &[&CellFigures]) -> Table {
    let mut leaks: Vec<(Shape, Speed)> = Vec::new();
    let mut tools: Vec<String> = Vec::new();
    for cell in cells {
        let leak = (cell.shape, cell.rate_mib_s);
        if !leaks.contains(&leak) {
            leaks.push(leak);
        }
        if !tools.contains(&cell.title()) {
            tools.push(cell.title());
        }
    }
    leaks.sort_by_key(|(shape, speed)| (*shape != Shape::Anonymous, *speed));
    let mut table = Table::new();
    let names = leaks.iter().map(|(shape, speed)| report::leak_name(*shape, *speed));
    let header: Vec<String> = ["leak, MiB/s".to_owned()].into_iter().chain(names).collect();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    for tool in tools {
        let of = |leak: &(Shape, Speed)| {
            cells.iter().find(|c| c.title() == tool && (c.shape, c.rate_mib_s) == *leak).map(|c| ended(c))
        };
        let row = leaks.iter().map(|leak| of(leak).unwrap_or_else(|| "-".to_owned()));
        table.add_row([tool.clone()].into_iter().chain(row).collect::<Vec<_>>());
    }
    table
}

fn ended(cell: &CellFigures) -> String {
    let killed = match cell.kernel_oom_runs {
        0 => String::new(),
        killed => format!(" ({killed} OOM-killed)"),
    };
    let failed = if cell.failed_runs > 0 { format!(" ({} failed)", cell.failed_runs) } else { String::new() };
    format!("{} of {}{killed}{failed}", cell.in_order_runs, cell.runs)
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::cell;
    use super::super::matrix::{MIDDLE, Tool};
    use super::super::outcome::Run;
    use super::*;

    #[test]
    fn tools_by_leaks() {
        let good = Run { evicted: true, sigterm_completed: true, ..Run::default() };
        let costly = Run { collateral: 1, ..good.clone() };
        let killed = Run { kernel_oom_kills: 1, ..Run::default() };
        let cells = [
            cell(Tool::OOMLET, Speed::MAX, vec![good.clone(), costly]),
            cell(Tool::OOMLET, MIDDLE, vec![good; 3]),
            cell(Tool::Nothing, MIDDLE, vec![killed]),
        ];
        let text = table(&cells.iter().collect::<Vec<_>>()).to_string();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(rows[0][1..4], ["leak, MiB/s", "200", "max"]);
        assert_eq!(rows[2][1..4], ["oomlet tier 2", "3 of 3", "1 of 2"]);
        assert_eq!(rows[3][1..4], ["nothing", "0 of 1 (1 OOM-killed)", "-"]);
    }
}
