//! What a person watches: trace lines as they come, how full kubepods is, and the table at the end.

use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::outcome::Outcome;
use crate::node::TestNode;

const EVERY: Duration = Duration::from_millis(500);
const BAR: u64 = 40;

#[derive(Debug)]
pub struct Watcher {
    cap_mib: u64,
    start: Instant,
    start_ns: Option<u64>,
    shown: usize,
    /// Signals and forecasts since the last bar: too many to print, and worth knowing of.
    signals: usize,
    last_bar: Option<Instant>,
    last_mib: u64,
}

impl Watcher {
    pub fn new(cap_mib: u64) -> Watcher {
        Watcher {
            cap_mib,
            start: Instant::now(),
            start_ns: None,
            shown: 0,
            signals: 0,
            last_bar: None,
            last_mib: 0,
        }
    }

    /// Prints what is new.
    pub fn show(&mut self, node: &TestNode) -> Result<()> {
        let trace = node.trace()?;
        for record in trace.iter().skip(self.shown) {
            if matches!(record.kind.as_str(), "Signal" | "Forecast") {
                self.signals += usize::from(record.kind == "Signal");
                continue;
            }
            let start_ns = *self.start_ns.get_or_insert(record.monotonic_ns);
            let at = Duration::from_nanos(record.monotonic_ns.saturating_sub(start_ns)).as_secs_f64();
            let who = record.pod_name();
            println!("{at:9.3} s  {:9} {:20} {who:24} {}", record.kind, record.reason, record.message);
        }
        self.shown = self.shown.max(trace.len());
        if self.last_bar.is_none_or(|last| last.elapsed() >= EVERY)
            && let Some((usage, _)) = node.kubepods_memory()?
        {
            self.last_bar = Some(Instant::now());
            let mib = usage >> 20;
            // A line only when something moves.
            if mib.abs_diff(self.last_mib) >= 4 {
                self.last_mib = mib;
                let signals = std::mem::take(&mut self.signals);
                let at = self.start.elapsed().as_secs_f64();
                println!("{at:9.3} s  {}  {signals} signals", bar(mib, self.cap_mib));
            }
        }
        Ok(())
    }
}

fn bar(mib: u64, cap_mib: u64) -> String {
    let full = (mib * BAR / cap_mib.max(1)).min(BAR) as usize;
    format!("kubepods  [{}{}] {mib} of {cap_mib} MiB", "#".repeat(full), " ".repeat(BAR as usize - full))
}

pub fn table(a: &Outcome, b: &Outcome) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["", "A: eviction off", "B: eviction on"]);
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
    let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
    type Row = (&'static str, fn(&Outcome) -> Shown);
    let rows: [Row; 8] = [
        ("kernel OOM kills", |o| Shown::Number(Some(o.kernel_oom_kills as i64))),
        ("killed by the kernel", |o| Shown::List(o.died.clone())),
        ("evicted", |o| Shown::List(o.evicted.clone())),
        ("SIGTERM handler ran to its end", |o| Shown::Yes(o.sigterm_handled)),
        ("neighbours live on", |o| Shown::Yes(o.neighbours_alive)),
        ("warning before death, ms", |o| Shown::Number(Some(o.warning_ms))),
        ("signal to decision, µs", |o| Shown::Number(o.signal_to_decision_us)),
        ("memory at decision or kill, MiB", |o| Shown::Number(o.usage_at_decision_mib)),
    ];
    for (name, of) in rows {
        let cell = |outcome| {
            let text = match of(outcome) {
                Shown::Number(n) => number(n),
                Shown::List(names) => list(&names),
                Shown::Yes(b) => yes(b),
            };
            Cell::new(text).set_alignment(CellAlignment::Right)
        };
        table.add_row([Cell::new(name), cell(a), cell(b)]);
    }
    let cap = |o: &Outcome| Cell::new(o.cap_mib).set_alignment(CellAlignment::Right);
    table.add_row([Cell::new("cap, MiB"), cap(a), cap(b)]);
    table
}

enum Shown {
    Number(Option<i64>),
    List(Vec<String>),
    Yes(bool),
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_bar_never_overflows() {
        for (mib, full) in [(0, 0), (200, 20), (400, 40), (500, 40)] {
            assert_eq!(super::bar(mib, 400).matches('#').count(), full);
        }
    }
}
