use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::pod::probe::Check;
use ProbeKind::{Liveness, Readiness, Startup};

const S: u64 = 1000;

fn spec(delay_s: u64, success_threshold: u32, failure_threshold: u32) -> ProbeSpec {
    ProbeSpec {
        check: Check::Exec { command: Vec::new() },
        initial_delay: Duration::from_secs(delay_s),
        timeout: Duration::from_secs(1),
        period: Duration::from_secs(10),
        success_threshold,
        failure_threshold,
    }
}

fn running(id: &str, since_s: u64, started: bool, ready: bool) -> Option<Running> {
    Some(Running { id: id.into(), since: Mono::from_millis(since_s * S), started, ready })
}

/// Kind, initial delay, container, seen at second → first run at second. The ticks are at 100, 110, 120 …
#[test]
fn the_first_run() {
    for (kind, delay_s, container, seen_s, due_s) in [
        (Startup, 0, running("a", 103, false, false), 103, Some(110)),
        (Startup, 9, running("a", 103, false, false), 103, Some(120)),
        (Startup, 0, running("a", 103, true, false), 103, None),
        (Liveness, 0, running("a", 103, true, false), 103, Some(110)),
        (Liveness, 0, running("a", 103, false, false), 103, None),
        (Liveness, 0, running("a", 90, true, false), 91, Some(100)),
        (Readiness, 0, running("a", 103, true, false), 103, Some(103)),
        (Readiness, 4, running("a", 103, true, false), 104, Some(107)),
        // It was ready before the agent started: nothing is urgent.
        (Readiness, 0, running("a", 50, true, true), 103, Some(110)),
        (Readiness, 0, running("a", 103, false, false), 103, None),
        (Readiness, 0, None, 103, None),
    ] {
        let mut state = ProbeState::new(kind, Mono::from_millis(100 * S));
        state.observe(&spec(delay_s, 1, 3), container.clone(), Mono::from_millis(seen_s * S));
        let due = state.due_at().map(|at| at.0 / 1_000_000_000);
        assert_eq!(due, due_s, "{kind} {delay_s} {container:?}");
    }
}

/// Letters of results: success, failure, error → verdict changes, told messages, on hold at the end.
#[test]
fn results_and_verdicts() {
    for (kind, thresholds, results, expected, told, asked) in [
        (Readiness, (1, 3), "s", "+", "0", true),
        (Readiness, (2, 3), "ss", ".+", "00", true),
        (Readiness, (2, 3), "sfss", "...+", "0100", true),
        (Readiness, (1, 3), "sff", "+..", "011", true),
        // Once the verdict stands, the same failure is not told again.
        (Readiness, (1, 3), "sffff", "+..-.", "01110", true),
        (Readiness, (1, 1), "fffsf", "-..+-", "10001", true),
        (Liveness, (1, 3), "s", ".", "0", true),
        (Liveness, (1, 3), "ffsff", ".....", "11011", true),
        (Liveness, (1, 3), "fff", "..-", "111", false),
        (Liveness, (1, 1), "e", ".", "1", true),
        // What could not be asked counts for nothing, and is told once.
        (Liveness, (1, 2), "feef", "...-", "1101", false),
        (Startup, (1, 2), "ff", ".-", "11", false),
        (Startup, (1, 2), "fs", ".+", "10", true),
    ] {
        let what = format!("{kind} {thresholds:?} {results}");
        let spec = spec(0, thresholds.0, thresholds.1);
        let mut state = ProbeState::new(kind, Mono::ZERO);
        state.observe(&spec, running("a", 0, kind != Startup, false), Mono::ZERO);
        let (mut verdicts, mut messages) = (String::new(), String::new());
        for letter in results.chars() {
            let at = state.due_at().unwrap_or_else(|| panic!("{what}: not due"));
            state.begin(&spec, at);
            assert_eq!(state.due_at(), None, "{what}: one at a time");
            let outcome = match letter {
                's' => ProbeOutcome::Success,
                'f' => ProbeOutcome::Failure("no".into()),
                _ => ProbeOutcome::Error("away".into()),
            };
            let news = state.end(&spec, "a", outcome);
            verdicts.push(news.verdict.map_or('.', |v| if v { '+' } else { '-' }));
            messages.push(if news.message.is_some() { '1' } else { '0' });
        }
        assert_eq!((verdicts.as_str(), messages.as_str()), (expected, told), "{what}");
        assert_eq!(state.due_at().is_some(), asked, "{what}");
        // Another instance begins anew.
        state.observe(&spec, running("b", 100, kind != Startup, false), Mono::from_millis(100 * S));
        assert!(state.due_at().is_some(), "{what}");
    }
}

#[test]
fn messages_are_kubelets() {
    let mut state = ProbeState::new(Readiness, Mono::ZERO);
    let spec = spec(0, 1, 3);
    state.observe(&spec, running("a", 0, true, false), Mono::ZERO);
    let unhealthy = |text: &str| Some(ProbeMessage::Unhealthy(text.into()));
    for (outcome, message) in [
        (ProbeOutcome::Failure("x".into()), unhealthy("Readiness probe failed: x")),
        (
            ProbeOutcome::Error("y".into()),
            unhealthy("Readiness probe errored and resulted in unknown state: y"),
        ),
        (ProbeOutcome::Warning("z".into()), Some(ProbeMessage::Warning("Readiness probe warning: z".into()))),
        (ProbeOutcome::Warning("z".into()), None),
    ] {
        assert_eq!(state.end(&spec, "a", outcome).message, message);
    }
}

#[test]
fn a_run_of_the_instance_before_says_nothing_of_this_one() {
    let spec = spec(0, 1, 1);
    let mut state = ProbeState::new(Liveness, Mono::ZERO);
    state.observe(&spec, running("a", 0, true, false), Mono::ZERO);
    state.begin(&spec, Mono::ZERO);
    state.observe(&spec, running("b", 5, true, false), Mono::from_millis(5 * S));
    assert_eq!(state.due_at(), None, "the run of the one before has not ended");
    assert_eq!(state.end(&spec, "a", ProbeOutcome::Failure(String::new())), News::default());
    assert_eq!(state.due_at(), Some(Mono::from_millis(10 * S)));
}

proptest! {
    /// Whatever happens, runs come at ticks, one at a time, and none before the initial delay.
    #[test]
    fn runs_come_at_ticks(steps in prop::collection::vec((0..4u8, 0..30_000u64), 1..60), delay_s in 0..20u64) {
        let spec = spec(delay_s, 1, 3);
        let mut state = ProbeState::new(Liveness, Mono::ZERO);
        let (mut now, mut instance, mut since) = (0, 0, 0);
        state.observe(&spec, running("c0", 0, true, false), Mono::ZERO);
        for (step, ms) in steps {
            now += ms;
            let at = Mono::from_millis(now);
            match step {
                0 => {
                    (instance, since) = (instance + 1, now);
                    let container = Running { id: format!("c{instance}"), since: at, started: true, ready: false };
                    state.observe(&spec, Some(container), at);
                }
                1 => { state.end(&spec, &format!("c{instance}"), ProbeOutcome::Success); }
                2 => { state.end(&spec, &format!("c{instance}"), ProbeOutcome::Failure(String::new())); }
                _ => if let Some(due) = state.due_at().filter(|due| *due <= at) {
                    prop_assert_eq!(due.0 % 10_000_000_000, 0);
                    prop_assert!(due >= Mono::from_millis(since + delay_s * S));
                    state.begin(&spec, at);
                    prop_assert_eq!(state.due_at(), None);
                },
            }
        }
    }
}
