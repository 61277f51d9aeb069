//! `bench loop`: what the SyncLoop's core costs with so many pods, without a runtime. The measuring is done by
//! `core/examples/sync_loop.rs`, one JSON object a number of pods; this makes the table.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{build, paths, process};

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Numbers of pods, the smallest first: what an event costs there is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_value = "110,1000,5000")]
    pods: Vec<u32>,
    /// Puts the table into docs/bench.md.
    #[arg(long)]
    write: bool,
}

/// With one number of pods, as the example prints it.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Figures {
    pods: u32,
    bytes_a_pod: u64,
    event_us: BTreeMap<String, f64>,
    turn_at_rest_us: f64,
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(options.pods.iter().all(|pods| *pods > 0), "--pods: at least one pod");
    let mut command = build::cargo();
    command.args(["build", "--release", "--package", "oomlet-core", "--example", "sync_loop"]);
    process::run(command.arg("--target-dir").arg(paths::target()?))?;
    let program = paths::target()?.join("release/examples/sync_loop");
    let mut figures = Vec::new();
    for pods in &options.pods {
        // One process each: what one leaves of freed memory would be missing from the next one's count.
        let output = process::output(std::process::Command::new(&program).arg(pods.to_string()))?;
        figures.push(
            serde_json::from_str(&output)
                .with_context(|| format!("{} printed {output:?}", program.display()))?,
        );
    }
    let path = super::write("loop", json!({ "runs": figures }))?;
    let table = table(&figures);
    println!("{table}\nwritten: {}", super::shown(&path));
    if options.write { super::write_between(super::PAGE, "loop", &table) } else { Ok(()) }
}

fn table(figures: &[Figures]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let Some(first) = figures.first() else { return String::new() };
    let counts = figures.iter().map(|f| format!("{} pods", f.pods));
    let ratio = format!("{} : {}", figures.last().map_or(0, |f| f.pods), first.pods);
    table.set_header(["µs, median".to_owned()].into_iter().chain(counts).chain([ratio]));
    let mut row = |name: &str, of: &dyn Fn(&Figures) -> Option<f64>| {
        let values: Vec<Option<f64>> = figures.iter().map(of).collect();
        let cells = values.iter().map(|v| v.map_or("-".to_owned(), |v| format!("{v:.1}")));
        let ratio = match (values.first().copied().flatten(), values.last().copied().flatten()) {
            (Some(first), Some(last)) if first > 0.0 => format!("{:.1}", last / first),
            _ => "-".to_owned(),
        };
        table.add_row([name.to_owned()].into_iter().chain(cells).chain([ratio]));
    };
    for name in first.event_us.keys() {
        row(name, &|f| f.event_us.get(name).copied());
    }
    row("a turn at rest", &|f| Some(f.turn_at_rest_us));
    row("KiB of memory a pod", &|f| Some(f.bytes_a_pod as f64 / 1024.0));
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_event_is_a_row_and_the_ratio_its_last_cell() {
        let figures = |pods, us| Figures {
            pods,
            bytes_a_pod: 4096,
            event_us: BTreeMap::from([("report".to_owned(), us)]),
            turn_at_rest_us: 0.0,
        };
        let table = table(&[figures(110, 2.0), figures(5000, 3.0)]);
        let last = |name: &str| {
            let row = table.lines().find(|line| line.contains(name)).unwrap();
            row.trim_end_matches('|').rsplit('|').next().unwrap().trim().to_owned()
        };
        assert_eq!((last("report").as_str(), last("at rest").as_str()), ("1.5", "-"), "{table}");
    }
}
