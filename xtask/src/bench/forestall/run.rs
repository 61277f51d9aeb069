//! One run: a pod is put, watched to its end, and judged.

use std::time::Duration;

use anyhow::Result;

use super::matrix::{Cell, Domain, Shape, Tool};
use super::outcome::{Kills, Run, Seen, mark_ms};
use super::picture::Recording;
use super::pods::{self, Benign};
use super::session::{SOON, Session};
use super::watch::{Watch, Watched};
use crate::node::manifest::is_pod_of;
use crate::node::trace::TraceRecord;

/// Between two samples: of a cgroup's counter, and of /proc/meminfo on a machine that may be emulated.
const PERIOD: Duration = Duration::from_millis(1);
const NODE_PERIOD: Duration = Duration::from_millis(10);
/// Until the trace tells what was seen already.
const TOLD: Duration = Duration::from_secs(3);
/// A benign pod ends by itself after some ten seconds; on an emulated CPU it takes longer.
const BENIGN: Duration = Duration::from_secs(240);

/// A leak to its end.
pub fn leak(session: &mut Session, cell: Cell) -> Result<(Run, Recording)> {
    session.settle()?;
    session.set_ballast(cell.wants_ballast(session.setting.domain))?;
    let name = session.next_name("leak");
    let start_mib = cell.start_mib(session.room_mib()?);
    let manifest = pods::leaking(&name, cell, start_mib, session.marks());
    // Thrice of what it should take, and what is needed for a machine that is not as fast as asked for.
    let bound = SOON + Duration::from_secs_f64(3.0 * cell.seconds(session.setting.domain));
    let (seen, mark) = watched(session, &name, &manifest, cell.shape, bound)?;
    let run = Run::of(&seen.as_seen(&name, &mark));
    if run.wrong_victim || run.collateral > 0 {
        println!("{name}: others than the leak were ended: {}", decided(&seen.trace));
    }
    let recording = Recording::of(&seen.watched, &seen.trace, &name, &mark);
    session.remove(&name)?;
    Ok((run, recording))
}

/// What must be left alone, to its end. The first: why it was not, if it was not. The second: OOM kills of the kernel.
pub fn benign(session: &mut Session, benign: Benign) -> Result<(Option<String>, u64)> {
    session.settle()?;
    let name = session.next_name("benign");
    let manifest = benign.pod(&name, session.setting.cap_mib, session.marks());
    let (seen, mark) = watched(session, &name, &manifest, Shape::Anonymous, BENIGN)?;
    let run = Run::of(&seen.as_seen(&name, &mark));
    session.remove(&name)?;
    let ended_early = mark_ms(&mark, "done").is_none();
    if !(run.evicted || run.collateral > 0 || (ended_early && run.kernel_oom_kills == 0)) {
        return Ok((None, run.kernel_oom_kills));
    }
    Ok((Some(decided(&seen.trace)), run.kernel_oom_kills))
}

/// Who was to be evicted and why, as the agent tells it.
fn decided(trace: &[TraceRecord]) -> String {
    let decisions = trace.iter().filter(|r| r.kind == "Decision");
    let told = decisions.map(|r| {
        let domain = r.domain.as_deref().unwrap_or_default();
        format!("{} for {domain}, {}: {} {:?}", r.pod_name(), r.reason, r.message, r.numbers)
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "nobody says why".to_owned() } else { told.join("; ") }
}

/// What a run leaves.
struct Observed {
    shape: Shape,
    trace: Vec<TraceRecord>,
    watched: Watched,
    limit_bytes: u64,
    peak_bytes: Option<u64>,
    kills: Kills,
}

impl Observed {
    fn as_seen<'a>(&'a self, pod: &'a str, mark: &'a str) -> Seen<'a> {
        Seen {
            pod,
            shape: self.shape,
            trace: &self.trace,
            mark,
            watched: &self.watched,
            limit_bytes: self.limit_bytes,
            peak_bytes: self.peak_bytes,
            kills: self.kills,
        }
    }
}

/// Runs the pod until its process has ended; also returns what is in its mark.
fn watched(
    session: &mut Session,
    name: &str,
    manifest: &serde_json::Value,
    shape: Shape,
    bound: Duration,
) -> Result<(Observed, String)> {
    let (limit_bytes, before) = (session.gauge.level()?.limit, session.kills()?);
    session.gauge.reset_peak()?;
    // Whatever the trace says from here on is about this run.
    session.news()?;
    let period = if session.setting.domain == Domain::Node { NODE_PERIOD } else { PERIOD };
    let watch = Watch::start(session.gauge.clone(), session.neighbours(), period);
    session.put(name, manifest)?;
    let inside = pods::mark_of(name);
    let pid = session.wait(&format!("{name} runs"), SOON, |session| session.process_with(&inside))?;
    watch.follow(pid)?;
    session.wait(&format!("{name} has ended"), bound, |_| Ok(watch.is_over().then_some(())))?;
    let watched = watch.finish()?;
    let path = session.marks().join(format!("{name}.mark"));
    let mark = std::fs::read_to_string(&path).unwrap_or_default();
    let kills = since(before, session.kills()?);
    let mut trace = Vec::new();
    let orderly = mark_ms(&mark, "done").is_some();
    let oomlet = matches!(session.setting.tool, Tool::Oomlet { .. });
    let killed = matches!(kills, Kills::Here(1..) | Kills::Machine(1..));
    if (oomlet || killed) && !orderly {
        // What it does not tell by then is judged without it.
        let _ = session.wait("the trace tells of the end", TOLD, |session| {
            trace.extend(session.news()?);
            let told = |r: &TraceRecord| {
                matches!(r.kind.as_str(), "Decision" | "OomKill") && is_pod_of(r.pod_name(), name)
            };
            Ok(trace.iter().any(told).then_some(()))
        });
    }
    trace.extend(session.news()?);
    let peak_bytes = session.gauge.peak();
    Ok((Observed { shape, trace, watched, limit_bytes, peak_bytes, kills }, mark))
}

fn since(before: Kills, after: Kills) -> Kills {
    match (before, after) {
        (Kills::Here(before), Kills::Here(after)) => Kills::Here(after.saturating_sub(before)),
        (Kills::Machine(before) | Kills::Here(before), Kills::Machine(after) | Kills::Here(after)) => {
            Kills::Machine(after.saturating_sub(before))
        }
    }
}

/// What the machine is, for figures that come from several. The lab says whether it emulates, by how much slower it is.
pub fn machine() -> Result<serde_json::Value> {
    let mut machine = serde_json::to_value(crate::bench::machine::describe()?)?;
    machine["emulated"] = std::env::var("OOMLET_TEST_SLOWDOWN").is_ok_and(|slowdown| slowdown != "1").into();
    Ok(machine)
}
