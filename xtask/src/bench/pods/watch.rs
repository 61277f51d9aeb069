//! A client's view of a namespace's pods: one `kubectl` that watches, and when it has seen what.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::control_plane::ControlPlane;
use crate::process;

/// Of each notice: its type; the pod's name, deletion, phase, and whether it is Ready.
const WORDS: &str = "--output=jsonpath={.type}/{.object.metadata.name}/{.object.metadata.deletionTimestamp}/\
    {.object.status.phase}/{.object.status.conditions[?(@.type=='Ready')].status}{\"\\n\"}";

/// Ended when dropped. It is to be started while there is no pod yet.
#[derive(Debug)]
pub struct PodWatch(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    kubectl: Option<Child>,
    ended: bool,
}

/// By pod, when it was first seen so.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub there: BTreeMap<String, Instant>,
    pub ready: BTreeMap<String, Instant>,
    pub gone: BTreeMap<String, Instant>,
    /// Nothing more is seen, or a pod has ended by itself, which none should.
    failed: Option<String>,
}

impl PodWatch {
    pub fn start(plane: &ControlPlane, namespace: &str) -> Result<PodWatch> {
        let get = move |plane: &ControlPlane, args: &[&str]| {
            let mut command = plane.kubectl_command(plane.kubeconfig_admin());
            command.args(["get", "pods", "--namespace", namespace]).args(args);
            command
        };
        // A few words a notice: a client that takes them too slowly loses its watch.
        let watch = get(plane, &["--watch", "--output-watch-events", WORDS]);
        let list = get(plane, &["--output=jsonpath={.items[*].metadata.name}"]);
        let state = Arc::<Mutex<State>>::default();
        let (mut watching, shared) = (again(&watch), Arc::clone(&state));
        let mut output = spawn(&mut watching, &state)?;
        thread::Builder::new().name("pod-watch".to_owned()).spawn(move || {
            loop {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    lock(&shared).seen.take(&line);
                }
                // It was ended, or its watch was.
                if lock(&shared).ended {
                    return;
                }
                let restarted = spawn(&mut again(&watch), &shared).and_then(|output| {
                    let there = process::output(&mut again(&list))?;
                    lock(&shared).seen.missed(&there);
                    Ok(output)
                });
                match restarted {
                    Ok(next) => output = next,
                    Err(error) => {
                        lock(&shared).seen.failed = Some(format!("{error:#}"));
                        return;
                    }
                }
            }
        })?;
        Ok(PodWatch(state))
    }

    /// Until now.
    pub fn seen(&self) -> Result<Seen> {
        let seen = lock(&self.0).seen.clone();
        match &seen.failed {
            Some(why) => bail!("watching the pods: {why}"),
            None => Ok(seen),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn again(command: &Command) -> Command {
    let mut same = Command::new(command.get_program());
    same.args(command.get_args());
    same
}

fn spawn(watch: &mut Command, state: &Mutex<State>) -> Result<ChildStdout> {
    let mut kubectl =
        watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting kubectl")?;
    let output = kubectl.stdout.take().context("kubectl has no stdout")?;
    let mut state = lock(state);
    if state.ended {
        kubectl.kill().context("ending kubectl")?;
    }
    if let Some(mut before) = state.kubectl.replace(kubectl) {
        before.wait().context("waiting for kubectl")?;
    }
    Ok(output)
}

impl Seen {
    /// A line of [`WORDS`].
    fn take(&mut self, line: &str) {
        let now = Instant::now();
        let mut words = line.split('/');
        let mut word = || words.next().unwrap_or_default();
        let (kind, name, deleted, phase, ready) = (word(), word().to_owned(), word(), word(), word());
        self.there.entry(name.clone()).or_insert(now);
        if ready == "True" {
            self.ready.entry(name.clone()).or_insert(now);
        }
        if kind == "DELETED" {
            self.gone.entry(name.clone()).or_insert(now);
        }
        if matches!(phase, "Failed" | "Succeeded") && deleted.is_empty() {
            self.failed = Some(format!("pod {name} is {phase}"));
        }
    }

    /// Only these are there now: the others went while nobody watched.
    fn missed(&mut self, there: &str) {
        let (now, there): (_, BTreeSet<&str>) = (Instant::now(), there.split_whitespace().collect());
        for name in self.there.keys().filter(|name| !there.contains(name.as_str())) {
            self.gone.entry(name.clone()).or_insert(now);
        }
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.ended = true;
        if let Some(kubectl) = &mut state.kubectl {
            let _ = kubectl.kill();
            let _ = kubectl.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_seen_once() {
        let mut seen = Seen::default();
        let mut take = |line: &str| {
            seen.take(line);
            (seen.there.len(), seen.ready.len(), seen.gone.len(), seen.failed.is_some())
        };
        assert_eq!(take("ADDED/a//Pending/"), (1, 0, 0, false));
        assert_eq!(take("MODIFIED/a//Pending/False"), (1, 0, 0, false));
        assert_eq!(take("MODIFIED/a//Running/True"), (1, 1, 0, false));
        assert_eq!(take("MODIFIED/a/2026-11-30T01:00:00Z/Failed/False"), (1, 1, 0, false));
        assert_eq!(take("DELETED/a/2026-11-30T01:00:00Z/Failed/False"), (1, 1, 1, false));
        assert_eq!(take("MODIFIED/b//Failed/"), (2, 1, 1, true));
    }

    #[test]
    fn what_went_unseen_is_gone() {
        let mut seen = Seen::default();
        ["ADDED/a///", "ADDED/b///"].iter().for_each(|line| seen.take(line));
        seen.missed("b c");
        assert_eq!(seen.gone.keys().collect::<Vec<_>>(), ["a"]);
    }
}
