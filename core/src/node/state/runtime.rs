//! What PLEG and the pod workers tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::pod::{Outstanding, PodState};
use super::{Found, Mode, State};
use crate::clock::Mono;
use crate::node::event::{PodLifecycleEvent, PodLifecycleEventKind, RuntimePod, RuntimePods};
use crate::pod::order::{WorkerOutcome, WorkerReport};
use crate::pod::runtime_status::{ContainerState, ContainerStatus, PodRuntimeStatus};
use crate::pod::{PodRef, PodUid};
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

impl State {
    pub(super) fn apply_relist(&mut self, runtime: RuntimePods, now: Mono) {
        // A list that was under way while a pod was removed may still have it.
        self.forgotten.retain(|_, at| *at >= runtime.listed_at);
        let current = runtime.pods.into_iter().filter(|p| !self.forgotten.contains_key(&p.pod.uid));
        let found = |listed: RuntimePod| {
            let RuntimePod { pod, containers, sandboxes } = listed;
            (pod.uid.clone(), Found { pod, containers, sandboxes })
        };
        let mut found: BTreeMap<PodUid, Found> = current.map(found).collect();
        // A container that has just started is known here before its pod's worker is done with the others: its cgroup
        // is named, and its memory watched, from now on.
        let mut news = Vec::new();
        for pod in self.pods.values() {
            let listed = found.remove(&pod.id.uid);
            let (containers, sandboxes) =
                listed.map_or_else(Default::default, |f| (f.containers, f.sandboxes));
            if !pod.containers.is_listed_as(&containers, &sandboxes) {
                news.push((pod.id.uid.clone(), containers, sandboxes));
            }
        }
        self.found = found;
        for (uid, containers, sandboxes) in news {
            if let Some(mut pod) = self.pods.get_mut(&uid) {
                pod.note_listed(containers, sandboxes);
            }
        }
        self.relisted = true;
        self.end_unwanted(now);
    }

    pub(super) fn apply_lifecycle(&mut self, event: &PodLifecycleEvent, _now: Mono) {
        let Some(mut pod) = self.pods.get_mut(&event.pod) else { return };
        if event.kind == PodLifecycleEventKind::ContainerStarted {
            pod.cgroups_stale = true;
        }
        if pod.mode == Mode::Active {
            pod.note_change();
        } else {
            // What it could not be ended for (somebody had frozen it) may have gone.
            pod.retry_now();
        }
    }

    /// What PLEG's last list has of pods that have been named, or found on the node, since.
    pub(super) fn hand_over_found(&mut self) {
        let (pods, found) = (&mut self.pods, &mut self.found);
        found.retain(|uid, found| match pods.get_mut(uid) {
            Some(mut pod) => {
                pod.note_listed(std::mem::take(&mut found.containers), std::mem::take(&mut found.sandboxes));
                false
            }
            None => true,
        });
    }

    pub(super) fn apply_runtime(&mut self, result: Result<(), String>, now: Mono) {
        let error = result.err();
        if error == self.runtime_error {
            return;
        }
        let record = match &error {
            Some(why) => Record::new(
                now,
                Kind::Warning,
                Reason::RuntimeStateChanged,
                format!(
                    "the container runtime does not answer: {why}; pods run on, nothing is started or stopped"
                ),
            ),
            None => {
                // What a worker could not do meanwhile is tried at once.
                self.pods.for_each_mut(PodState::retry_now);
                Record::new(now, Kind::Agent, Reason::RuntimeStateChanged, "the container runtime answers")
            }
        };
        self.runtime_error = error;
        self.record(record);
    }

    /// A pod that failed, or is at it with what was there before, tries (again) with what is there now.
    pub(super) fn apply_objects_changed(&mut self, pods: &[PodUid]) {
        for uid in pods {
            let Some(mut pod) = self.pods.get_mut(uid).filter(|p| p.mode == Mode::Active) else { continue };
            let failed = matches!(pod.next_sync, Some((_, Reason::RetryAfterError)));
            if failed || pod.outstanding == Outstanding::Sync {
                pod.sync_wanted = Some(Reason::ObjectChanged);
            }
        }
    }

    pub(super) fn apply_worker_report(&mut self, report: WorkerReport, now: Mono) {
        let WorkerReport { pod: uid, outcome, runtime, at } = report;
        // These say nothing of the pod as a whole.
        match &outcome {
            WorkerOutcome::Signalled => return self.eviction.signalled(&uid, now),
            WorkerOutcome::ContainerSignalled { container } => {
                return self.eviction.container_signalled(&uid, container, now);
            }
            WorkerOutcome::ContainerStopped { container, took, killed } => {
                return self.apply_container_stopped(&uid, container, (*took, *killed), at);
            }
            _ => {}
        }
        if matches!(outcome, WorkerOutcome::CleanedUp) {
            // What the runtime says now may be more than was known when the pod had ended.
            self.resources.cleaned_up(&uid);
        }
        let resync = self.resync_after(&uid);
        let Some(mut pod) = self.pods.get_mut(&uid) else { return };
        let of_sync = match &outcome {
            WorkerOutcome::Synced { .. } | WorkerOutcome::Completed { .. } => true,
            WorkerOutcome::Failed { .. } => pod.outstanding != Outstanding::Terminate,
            WorkerOutcome::Signalled
            | WorkerOutcome::ContainerSignalled { .. }
            | WorkerOutcome::ContainerStopped { .. }
            | WorkerOutcome::Stopped { .. }
            | WorkerOutcome::CleanedUp
            | WorkerOutcome::Removed => false,
        };
        if of_sync && pod.mode != Mode::Active {
            // The last words of a sync that a termination overtook, be it ordered yet or only decided.
            return;
        }
        let id = pod.id.clone();
        let read = runtime.is_some();
        let (changes, untold) = runtime.map_or_else(Default::default, |runtime| pod.note_read(runtime));
        pod.unsaved = true;
        if !matches!(outcome, WorkerOutcome::Failed { .. }) {
            pod.last_error = None;
        }
        let stopped = matches!(outcome, WorkerOutcome::Stopped { .. });
        let ended = stopped || matches!(outcome, WorkerOutcome::Completed { .. });
        let told = match outcome {
            WorkerOutcome::Synced { next_sync_in, waiting, settled } => {
                pod.waiting = waiting;
                let (after, why) =
                    next_sync_in.filter(|(after, _)| *after < resync).unwrap_or((resync, Reason::Resync));
                pod.next_sync = Some((now + after, why));
                pod.note_synced(settled);
                None
            }
            WorkerOutcome::Completed { succeeded } => {
                pod.outstanding = Outstanding::Nothing;
                pod.waiting.clear();
                pod.next_sync = None;
                pod.mode = Mode::Completed { succeeded, stopped: false };
                let word = if succeeded { "Succeeded" } else { "Failed" };
                let message = format!("all containers have ended and none is restarted: {word}");
                Some(Record::new(now, Kind::Pod, Reason::PodCompleted, message))
            }
            WorkerOutcome::Failed { reason, error, retry_in, waiting } => {
                pod.outstanding = Outstanding::Nothing;
                if read {
                    pod.waiting = waiting;
                }
                pod.next_sync = Some((now + retry_in, Reason::RetryAfterError));
                let again = pod.last_error.as_ref() == Some(&error);
                pod.last_error = Some(error.clone());
                (!again).then(|| {
                    Record::new(now, Kind::Warning, reason, error).number("retry_ms", retry_in.as_millis())
                })
            }
            WorkerOutcome::Stopped { took, killed } => {
                pod.next_sync = None;
                pod.stopped(now, took, killed)
            }
            WorkerOutcome::Signalled
            | WorkerOutcome::CleanedUp
            | WorkerOutcome::ContainerSignalled { .. }
            | WorkerOutcome::ContainerStopped { .. } => None,
            WorkerOutcome::Removed => {
                pod.mode = Mode::Removed;
                None
            }
        };
        drop(pod);
        let freed = if stopped { self.eviction.pod_stopped(&uid, at) } else { None };
        if ended {
            self.room_was_made(&uid, now);
        }
        for container in untold {
            self.record_kill_by_runtime(&id, container, at);
        }
        if !changes.is_empty() {
            self.find_the_killed(&uid, now);
            self.ask_for_counters(&uid);
        }
        for (container, message) in changes {
            let record = Record::new(at, Kind::Pod, Reason::PodLifecycleEvent, message);
            self.record(record.pod(&id).container(container));
        }
        if let Some(mut record) = told {
            if let Some(freed) = freed.filter(|_| record.kind == Kind::Eviction) {
                record = record.number("freed_bytes", freed.bytes);
                if let Some(after) = freed.after {
                    record = record.number("freed_after_ms", after.as_millis());
                }
            }
            self.record(record.pod(&id));
        }
    }

    /// kubelet's workers resync at `syncFrequency` ±50 %, so that pods do not march in step. The spread is taken
    /// from the UID: the same for a pod each time, even over pods. A pod that stands still is left to PLEG, see
    /// [`PodState::note_synced`].
    fn resync_after(&self, uid: &PodUid) -> Duration {
        let spread = uid.as_str().bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        self.config.sync_frequency.mul_f64(0.5 + f64::from(spread % 1000) / 1000.0)
    }

    /// The eBPF program saw a container's init process exit; the runtime learns of it within milliseconds.
    pub(super) fn apply_init_exit(&mut self, pid: u32, now: Mono) {
        let Some(pod) = self.pods.of_pid(pid).filter(|p| p.watched_pids.contains(&pid)) else { return };
        let id: PodRef = pod.id.clone();
        self.kick = Some(Reason::InitProcessExited);
        let record =
            Record::new(now, Kind::Signal, Reason::InitProcessExited, "a container's first process exited");
        self.record(record.pod(&id).number("pid", pid));
    }
}

impl PodState {
    /// Its worker has read. What changed among the containers, for the trace, and those that the runtime reports as
    /// OOMKilled and of whose kill nothing was told yet.
    fn note_read(&mut self, runtime: PodRuntimeStatus) -> (Vec<(String, String)>, Vec<String>) {
        let changes = container_changes(self.containers.read(), &runtime);
        let untold = self.untold_oom_kills(&runtime);
        self.cgroups_stale |= !changes.is_empty();
        self.oom_killed.retain(|id| runtime.containers.iter().any(|c| c.id == *id));
        self.forestalled.retain(|id, _| runtime.containers.iter().any(|c| c.id == *id));
        self.probes.retain(|id| runtime.containers.iter().any(|c| c.id == id));
        self.containers.set_read(runtime);
        let running: BTreeSet<u32> = self.running_pids().collect();
        self.watched_pids.retain(|pid| running.contains(pid));
        (changes, untold)
    }
}

/// What changed among the containers between two reports, for the trace.
fn container_changes(old: &[ContainerStatus], new: &PodRuntimeStatus) -> Vec<(String, String)> {
    let state_of = |id: &str| old.iter().find(|c| c.id == id).map(|c| c.state);
    new.containers
        .iter()
        .filter(|c| state_of(&c.id) != Some(c.state))
        .filter_map(|c| describe(c).map(|message| (c.name.clone(), message)))
        .collect()
}

fn describe(c: &ContainerStatus) -> Option<String> {
    match c.state {
        ContainerState::Running if c.restart_count == 0 => Some("container started".to_owned()),
        ContainerState::Running => Some(format!("container started, restart {}", c.restart_count)),
        ContainerState::Exited => Some(format!("container exited with {} ({})", c.exit_code, c.reason)),
        ContainerState::Created | ContainerState::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, state: ContainerState, restart_count: u32) -> ContainerStatus {
        ContainerStatus {
            restart_count,
            exit_code: 137,
            reason: "OOMKilled".into(),
            ..ContainerStatus::bare(id, "c", state)
        }
    }

    #[test]
    fn changes_between_reports() {
        use ContainerState::{Created, Exited, Running};
        let cases = [
            (vec![], vec![("a", Running, 0)], vec!["container started"]),
            (vec![("a", Running, 0)], vec![("a", Running, 0)], vec![]),
            (vec![("a", Running, 0)], vec![("a", Exited, 0)], vec!["container exited with 137 (OOMKilled)"]),
            (
                vec![("a", Exited, 0)],
                vec![("b", Running, 1), ("a", Exited, 0)],
                vec!["container started, restart 1"],
            ),
            (vec![], vec![("a", Created, 0)], vec![]),
        ];
        for (old, new, expected) in cases {
            let status = |list: Vec<(&str, ContainerState, u32)>| PodRuntimeStatus {
                sandboxes: vec![],
                containers: list.into_iter().map(|(id, s, n)| container(id, s, n)).collect(),
            };
            let got: Vec<String> = container_changes(&status(old).containers, &status(new))
                .into_iter()
                .map(|(_, m)| m)
                .collect();
            assert_eq!(got, expected);
        }
    }
}
