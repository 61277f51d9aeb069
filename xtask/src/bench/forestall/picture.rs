//! The picture: usage over time of one run, with what was decided and done, beside the same leak with nobody watching. Pure.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::{Deserialize, Serialize};

use super::matrix::{CAP_MIB, PICTURED, THRESHOLD_MIB};
use super::outcome::mark_ms;
use super::watch::Watched;
use crate::node::manifest::is_pod_of;
use crate::node::trace::TraceRecord;

/// The leak has begun when usage is this much above what it was.
const BEGUN_MIB: f64 = 16.0;
/// What is shown before that, and after the end.
const MARGIN_MS: f64 = 40.0;
const SIZE: (u32, u32) = (960, 540);

/// Colours that are told apart in grey, too; the background is the picture's own, for pages that are light or dark.
const PAPER: RGBColor = RGBColor(250, 250, 247);
const INK: RGBColor = RGBColor(40, 40, 48);
const FAINT: RGBColor = RGBColor(215, 215, 210);
const WATCHED: RGBColor = RGBColor(0, 95, 170);
const ALONE: RGBColor = RGBColor(190, 60, 30);
const HELD: RGBColor = RGBColor(90, 160, 220);
const LIMIT: RGBColor = RGBColor(120, 120, 120);

/// Times in ms since the leak began, usage in MiB.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    pub usage: Vec<(f64, f64)>,
    pub events: Vec<Event>,
    /// From the decision until the pod was let run with its signal.
    pub frozen: Option<(f64, f64)>,
    /// Until it was let go.
    pub held: Option<(f64, f64)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub ms: f64,
    pub what: String,
}

impl Recording {
    pub fn of(watched: &Watched, trace: &[TraceRecord], pod: &str, mark: &str) -> Recording {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let base = watched.samples.first().map_or(0.0, |sample| mib(sample.used_bytes));
        let begun = watched.samples.iter().find(|sample| mib(sample.used_bytes) > base + BEGUN_MIB);
        let Some(zero_ns) = begun.map(|sample| sample.at_ns) else { return Recording::default() };
        let ms = |ns: i64| (ns - zero_ns) as f64 / 1e6;
        let usage = watched.samples.iter().map(|sample| (ms(sample.at_ns), mib(sample.used_bytes)));
        let own: Vec<&TraceRecord> = trace.iter().filter(|r| is_pod_of(r.pod_name(), pod)).collect();
        let at = |record: &TraceRecord| ms(i64::try_from(record.monotonic_ns).unwrap_or(i64::MAX));
        let mut events = Vec::new();
        let mut event = |ms: f64, what: &str| events.push(Event { ms, what: what.to_owned() });
        if let Some(decision) = own.iter().find(|r| r.kind == "Decision") {
            if let Some(us) = decision.number("signal_to_decision_us") {
                event(at(decision) - us as f64 / 1e3, "signal");
            }
            event(at(decision), "decision");
        }
        for (line, what) in [("sigterm received", "SIGTERM"), ("sigterm handled", "handler done")] {
            if let Some(at) = mark_ms(mark, line) {
                event(ms(at * 1_000_000), what);
            }
        }
        if let Some(ended) = watched.ended_ns {
            let killed = own.iter().any(|r| r.kind == "OomKill") && mark.is_empty();
            event(ms(ended), if killed { "killed by the kernel" } else { "exit" });
        }
        let brake = |reason: &[&str], from: f64| {
            let mut brakes = own.iter().filter(|r| r.kind == "Brake").map(|r| (at(r), r));
            brakes.find(|(ms, r)| *ms >= from && reason.contains(&r.reason.as_str()))
        };
        let held_at = brake(&["GrowthOutrunsGrace"], f64::MIN).map(|(ms, _)| ms);
        let ended = watched.ended_ns.map(ms);
        let until = |to: Option<f64>| held_at.zip(to.or(ended));
        let runs = held_at.and_then(|from| brake(&["StopSignalSent", "StopSignalAwaited"], from));
        let mut free =
            own.iter().filter(|r| r.kind == "Brake" && r.message.contains("let go")).map(|r| at(r));
        let held = until(free.next());
        Recording { usage: usage.collect(), events, frozen: until(runs.map(|(ms, _)| ms)), held }
    }

    fn end_ms(&self) -> f64 {
        self.events.iter().map(|event| event.ms).fold(0.0, f64::max)
    }
}

/// As SVG.
pub fn draw(watched: &Recording, alone: &Recording) -> Result<String> {
    let end = watched.end_ms().max(alone.end_ms()) + MARGIN_MS;
    let top = CAP_MIB as f64 * 1.3;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&PAPER)?;
        let font = |size: u32, color: RGBColor| ("sans-serif", size).into_font().color(&color);
        let title =
            format!("A leak of {} MiB/s: held and ended by oomlet, or killed by the kernel", PICTURED.name());
        let mut chart = ChartBuilder::on(&root)
            .caption(title, font(18, INK))
            .margin(14)
            .x_label_area_size(38)
            .y_label_area_size(58)
            .build_cartesian_2d(-MARGIN_MS..end, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(FAINT)
            .max_light_lines(1)
            .axis_style(INK)
            .label_style(font(13, INK))
            .axis_desc_style(font(14, INK))
            .x_desc("ms since the leak began")
            .y_desc("MiB of all pods")
            .y_label_formatter(&|mib| format!("{mib:.0}"))
            .x_label_formatter(&|ms| format!("{ms:.0}"))
            .draw()?;
        for ((from, to), share, name) in
            [(watched.held, 0.12, "held by the brake"), (watched.frozen, 0.35, "")]
                .into_iter()
                .filter_map(|(span, share, name)| Some((span?, share, name)))
        {
            let corners = [(from, 0.0), (to, CAP_MIB as f64)];
            chart.draw_series([Rectangle::new(corners, HELD.mix(share).filled())])?;
            chart.draw_series([Text::new(name, (from + 6.0, 70.0), font(13, WATCHED))])?;
        }
        for (mib, name) in [(CAP_MIB, "cap"), (CAP_MIB - THRESHOLD_MIB, "threshold")] {
            let level = mib as f64;
            chart.draw_series(LineSeries::new([(-MARGIN_MS, level), (end, level)], LIMIT))?;
            chart.draw_series([Text::new(
                format!("{name} {mib}"),
                (-MARGIN_MS + 4.0, level + 28.0),
                font(12, INK),
            )])?;
        }
        for (recording, color, first_line) in [(alone, ALONE, 5), (watched, WATCHED, 0)] {
            let shown = recording.usage.iter().copied().filter(|(ms, _)| (-MARGIN_MS..=end).contains(ms));
            chart.draw_series(LineSeries::new(shown, color.stroke_width(2)))?;
            for (line, event) in (first_line..).zip(&recording.events) {
                let mark = [(event.ms, 0.0), (event.ms, top * 0.985)];
                chart.draw_series(LineSeries::new(mark, color.mix(0.7)))?;
                let label = format!("{} {:.1}", event.what, event.ms);
                let (at, side) = label_at(event.ms, line, end, top);
                let style = font(12, color).pos(Pos::new(side, VPos::Top));
                chart.draw_series([Text::new(label, at, style)])?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}

/// Events that follow one another closely have their names on lines of their own, above the cap: beside their marks, on the
/// side where there is room.
fn label_at(ms: f64, line: u32, end: f64, top: f64) -> ((f64, f64), HPos) {
    let leftwards = ms + (end + MARGIN_MS) * 0.16 > end;
    let (x, side) = if leftwards { (ms - 4.0, HPos::Right) } else { (ms + 4.0, HPos::Left) };
    ((x, top * (0.985 - 0.032 * f64::from(line))), side)
}

#[cfg(test)]
mod tests {
    use super::super::watch::Sample;
    use super::*;

    fn recording() -> Recording {
        let trace: Vec<TraceRecord> = [
            (1_500, "Decision", "ForecastOutOfMemory", "m", r#""signal_to_decision_us":200"#),
            (1_500, "Brake", "GrowthOutrunsGrace", "stands still", ""),
            (1_505, "Brake", "StopSignalSent", "runs on a budget", ""),
            (2_020, "Brake", "Evicted", "the pod is let go", ""),
        ]
        .iter()
        .map(|(ms, kind, reason, message, numbers)| {
            let pod = r#"{"namespace":"default","name":"leak1-node","uid":"u"}"#;
            let ns = ms * 1_000_000;
            serde_json::from_str(&format!(
                r#"{{"monotonic_ns":{ns},"kind":"{kind}","reason":"{reason}","pod":{pod},"message":"{message}","numbers":{{{numbers}}}}}"#
            ))
            .unwrap()
        })
        .collect();
        let samples = (0..100i64)
            .map(|i| Sample { at_ns: (1_000 + i * 10) * 1_000_000, used_bytes: (40 + i as u64 * 8) << 20 });
        let watched = Watched {
            samples: samples.collect(),
            ended_ns: Some(2_010_000_000),
            others_ended_ns: Vec::new(),
        };
        Recording::of(&watched, &trace, "leak1", "sigterm received 1504\nsigterm handled 2004\n")
    }

    #[test]
    fn a_run_becomes_a_recording() {
        let recording = recording();
        // The leak has begun at 1030 ms.
        let events: Vec<String> =
            recording.events.iter().map(|e| format!("{:.1} {}", e.ms, e.what)).collect();
        assert_eq!(
            events,
            ["469.8 signal", "470.0 decision", "474.0 SIGTERM", "974.0 handler done", "980.0 exit"]
        );
        assert_eq!((recording.frozen, recording.held), (Some((470.0, 475.0)), Some((470.0, 990.0))));
        assert_eq!(recording.usage.len(), 100);
    }

    #[test]
    fn the_picture_says_what_happened() {
        let svg = draw(&recording(), &Recording::default()).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in ["signal 469.8", "decision", "SIGTERM", "exit", "threshold 924", "held by the brake"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn labels_stay_inside() {
        for (ms, line, leftwards) in [(0.0, 0, false), (800.0, 4, false), (1000.0, 5, true)] {
            let ((x, y), side) = label_at(ms, line, 1040.0, 1300.0);
            assert!((x < ms, matches!(side, HPos::Right)) == (leftwards, leftwards) && y > 900.0, "{x} {y}");
        }
    }
}
