//! `exec`: a command in the container, by CRI ExecSync (pkg/probe/exec).
//!
//! A command that takes too long is ended with all that it has started, so far as that is still of its session: the runtime
//! alone would kill its first process, and wait for the others. The runtime gets a timeout of its own, in case nothing of
//! the command is found.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{sleep, timeout};

use super::{MAX_ANSWER_BYTES, seconds};
use crate::cri::{CriError, RuntimeClient};
use crate::kernel::pidfd::HeldProcess;
use oomlet_core::node::prober::ProbeRun;
use oomlet_core::pod::probe::ProbeOutcome;
use oomlet_core::pod::{ContainerInstance, PodUid};

/// The runtime kills so much later than the agent.
const RUNTIME_KILLS_LATER: Duration = Duration::from_secs(1);
/// How long the runtime is waited for after that; its call is given up then.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// A command that the runtime is only just starting is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// `starttime` of a process is told in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// Who is in a container. Blocks.
pub trait ContainerProcesses: Debug + Send + Sync {
    fn of(&self, pod: &PodUid, container: &ContainerInstance) -> BTreeSet<i32>;
}

pub(super) async fn ask(
    runtime: &RuntimeClient,
    processes: &Arc<dyn ContainerProcesses>,
    run: &ProbeRun,
    command: &[String],
) -> ProbeOutcome {
    let began = since_boot().saturating_sub(TICK);
    let limit = run.spec.timeout + RUNTIME_KILLS_LATER;
    let call = runtime.exec_sync(&run.container.id, command.to_vec(), limit, ANSWERS_WITHIN);
    tokio::pin!(call);
    // Cancel-safe: `call` goes on below.
    let in_time = tokio::select! {
        answer = &mut call => Some(answer),
        () = sleep(run.spec.timeout) => None,
    };
    let told = match in_time {
        Some(Ok(answer)) if answer.exit_code == 0 => return ProbeOutcome::Success,
        Some(Ok(answer)) => return ProbeOutcome::Failure(said(&answer.output())),
        Some(Err(error)) if !timed_out(&error) => return ProbeOutcome::Error(error.as_grpc()),
        Some(Err(_)) => true,
        None => false,
    };
    if !told {
        let ended = async {
            loop {
                end_command(processes, run, command, began).await;
                // Cancel-safe: `call` goes on in the next turn.
                tokio::select! {
                    _ = &mut call => return,
                    () = sleep(LOOK_AGAIN) => {}
                }
            }
        };
        // Whoever does not come back by then is the runtime's to kill.
        let _ = timeout(RUNTIME_KILLS_LATER + ANSWERS_WITHIN, ended).await;
    }
    let (what, after) = (command.join(" "), seconds(run.spec.timeout));
    ProbeOutcome::Failure(format!("command timed out: {what:?} timed out after {after}"))
}

fn timed_out(error: &CriError) -> bool {
    error.code() == Some(tonic::Code::DeadlineExceeded)
}

fn said(output: &[u8]) -> String {
    String::from_utf8_lossy(output.get(..MAX_ANSWER_BYTES).unwrap_or(output)).into_owned()
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

async fn end_command(
    processes: &Arc<dyn ContainerProcesses>,
    run: &ProbeRun,
    command: &[String],
    began: Duration,
) {
    let (processes, pod, container) = (Arc::clone(processes), run.pod.uid.clone(), run.container.clone());
    let command = command.to_vec();
    let ended = tokio::task::spawn_blocking(move || {
        let all: Vec<Process> =
            processes.of(&pod, &container).into_iter().filter_map(Process::read).collect();
        let of_command = session(&all, &command, began);
        for process in &of_command {
            // It may have ended by itself.
            let _ = process.held.signal(libc::SIGKILL);
        }
        of_command.len()
    });
    if let Ok(killed @ 1..) = ended.await {
        tracing::debug!(pod = %run.pod, container = run.container.name, killed, "a probe's command took too long");
    }
}

#[derive(Debug)]
struct Process {
    /// Held before it is looked at: what is read is this one's.
    held: HeldProcess,
    facts: Facts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    pid: i32,
    parent: i32,
    session: i32,
    /// Since boot.
    started: Duration,
    command: Vec<String>,
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let held = HeldProcess::open(u32::try_from(pid).ok()?).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        let command = command.split_terminator('\0').map(str::to_owned).collect();
        Some(Process { held, facts: facts(pid, &stat, command)? })
    }
}

/// proc_pid_stat(5). The name, in brackets, may have blanks and brackets in it.
fn facts(pid: i32, stat: &str, command: Vec<String>) -> Option<Facts> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<i64>().ok();
    let started = TICK.checked_mul(u32::try_from(number(19)?).ok()?)?;
    Some(Facts {
        pid,
        parent: i32::try_from(number(1)?).ok()?,
        session: i32::try_from(number(3)?).ok()?,
        started,
        command,
    })
}

/// The processes of the session that the runtime made for the command. It is a session of its own, whose leader came into
/// the container from outside after the probe began. Where several did (somebody's `kubectl exec`, another probe), the
/// leader's command line tells; who cannot be told apart is left alone.
fn session<'a>(all: &'a [Process], command: &[String], began: Duration) -> Vec<&'a Process> {
    let facts: Vec<&Facts> = all.iter().map(|p| &p.facts).collect();
    match leader(&facts, command, began) {
        Some(leader) => all.iter().filter(|p| p.facts.session == leader).collect(),
        None => Vec::new(),
    }
}

fn leader(all: &[&Facts], command: &[String], began: Duration) -> Option<i32> {
    let came_in = |f: &&&Facts| {
        f.pid == f.session && f.started >= began && all.iter().all(|other| other.pid != f.parent)
    };
    let leaders: Vec<&&Facts> = all.iter().filter(came_in).collect();
    let by_name = leaders.iter().filter(|f| f.command == command).min_by_key(|f| f.started);
    let alone = || match leaders.as_slice() {
        // It has become another program. runc's own first process has not become anything yet.
        [one] if one.command.get(1).is_none_or(|word| word != "init") => Some(one),
        _ => None,
    };
    by_name.or_else(alone).map(|f| f.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, session: i32, started_s: u64, command: &str) -> Facts {
        let command = command.split(' ').map(str::to_owned).collect();
        Facts { pid, parent, session, started: Duration::from_secs(started_s), command }
    }

    #[test]
    fn the_session_of_the_command() {
        // The container's first process (100) and a child of it; the probe began at 50.
        let app = [process(100, 9, 100, 10, "app"), process(101, 100, 100, 51, "probe x")];
        for (what, others, expected) in [
            ("not there", vec![], None),
            (
                "its own",
                vec![process(200, 9, 200, 50, "probe x"), process(201, 200, 200, 50, "sleep")],
                Some(200),
            ),
            ("older", vec![process(200, 9, 200, 40, "probe x")], None),
            ("another program by now", vec![process(200, 9, 200, 50, "sleep 60")], Some(200)),
            ("not yet a program", vec![process(200, 9, 200, 50, "runc init")], None),
            (
                "beside somebody's shell",
                vec![process(200, 9, 200, 51, "sh"), process(300, 9, 300, 52, "probe x")],
                Some(300),
            ),
            (
                "not to be told apart",
                vec![process(200, 9, 200, 51, "sh"), process(300, 9, 300, 52, "bash")],
                None,
            ),
            (
                "the same command of two probes",
                vec![process(200, 9, 200, 52, "probe x"), process(300, 9, 300, 51, "probe x")],
                Some(300),
            ),
            ("a daemon of the application", vec![process(200, 101, 200, 51, "probe x")], None),
        ] {
            let all: Vec<&Facts> = app.iter().chain(&others).collect();
            let command = ["probe".to_owned(), "x".to_owned()];
            assert_eq!(leader(&all, &command, Duration::from_secs(50)), expected, "{what}");
        }
    }

    #[test]
    fn a_process_is_read() {
        let stat = "42 (a) b (c) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 4096 1";
        let found = facts(42, stat, Vec::new()).unwrap();
        assert_eq!((found.parent, found.session, found.started), (7, 41, Duration::from_millis(123_450)));
        let own = i32::try_from(std::process::id()).unwrap();
        let own = Process::read(own).unwrap().facts;
        assert!(own.started <= since_boot() && own.parent > 0 && !own.command.is_empty(), "{own:?}");
        assert_eq!(facts(1, "nonsense", Vec::new()), None);
    }
}
