//! What the prober tells: a verdict becomes part of its pod's status, and a container that has failed is ended by its pod's
//! next sync.

use super::{Mode, State};
use crate::clock::Mono;
use crate::pod::Pod;
use crate::pod::probe::results::{kill_message, kill_reason};
use crate::pod::probe::{ProbeKind, ProbeMessage, ProbeReport};
use crate::pod::restart::restarts_when_ended;
use crate::pod::spec::all_containers;
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

impl State {
    pub(super) fn apply_probe(&mut self, report: ProbeReport, now: Mono) {
        let ProbeReport { pod: uid, container, kind, verdict, message } = report;
        let Some(mut pod) = self.pods.get_mut(&uid) else { return };
        // The end of an instance may have overtaken what was asked of it. Of a pod that has just been taken over, the status
        // that was saved is all there is.
        let status = pod.containers.status();
        let is_there = status.is_none_or(|s| s.containers.iter().any(|c| c.id == container.id));
        let active = pod.mode == Mode::Active;
        if !is_there || !(active || matches!(pod.mode, Mode::Removing { .. })) {
            return;
        }
        let (id, manifest) = (pod.id.clone(), std::sync::Arc::clone(&pod.pod));
        let mut told = message.map(|message| match message {
            ProbeMessage::Unhealthy(text) => (Kind::Warning, Reason::Unhealthy, text),
            ProbeMessage::Warning(text) => (Kind::Warning, Reason::ProbeWarning, text),
        });
        let mut follows = None;
        if let Some(succeeded) = verdict {
            pod.probes.note(&container.id, kind, succeeded);
            pod.unsaved = true;
            if succeeded && kind == ProbeKind::Startup {
                pod.sync_wanted = Some(Reason::StartupProbeSucceeded);
            }
            if !succeeded && kind.ends_the_container() && active {
                let reason = kill_reason(kind);
                pod.sync_wanted = Some(reason);
                follows = Some((Kind::Pod, reason, failed(&manifest, &container.name, kind)));
            }
        }
        drop(pod);
        for (kind, reason, text) in told.take().into_iter().chain(follows) {
            self.record(Record::new(now, kind, reason, text).pod(&id).container(container.name.clone()));
        }
    }
}

fn failed(pod: &Pod, name: &str, kind: ProbeKind) -> String {
    let spec = pod.spec.as_ref();
    let sidecar = spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == name));
    let container = spec.and_then(|s| all_containers(s).find(|c| c.name == name));
    let restarts = container.is_some_and(|c| restarts_when_ended(pod, c));
    kill_message(name, kind, sidecar, restarts)
}
