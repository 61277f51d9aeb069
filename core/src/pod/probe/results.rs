//! The verdicts on a pod's containers. They are of one run of a container: a restarted one begins anew, neither started nor
//! ready. A verdict of the agent's last run holds until there is one of this run (kubernetes#100277).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodStatus};

use super::ProbeKind;
use super::spec::probe_of;
use crate::reason::Reason;

/// By container id. What is not in it has no verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults(BTreeMap<String, Verdicts>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdicts {
    started: bool,
    ready: bool,
    /// Of the two after which a container is ended.
    failed: Option<ProbeKind>,
}

impl ProbeResults {
    /// As the agent's last run left them.
    #[must_use]
    pub fn of_status(status: &PodStatus) -> ProbeResults {
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let known = all.filter_map(|c| {
            let (_, id) = c.container_id.as_deref()?.split_once("://")?;
            let verdicts = Verdicts { started: c.started == Some(true), ready: c.ready, failed: None };
            (verdicts != Verdicts::default()).then(|| (id.to_owned(), verdicts))
        });
        ProbeResults(known.collect())
    }

    pub fn note(&mut self, id: &str, kind: ProbeKind, succeeded: bool) {
        let verdicts = self.0.entry(id.to_owned()).or_default();
        match kind {
            ProbeKind::Readiness => verdicts.ready = succeeded,
            ProbeKind::Startup if succeeded => verdicts.started = true,
            ProbeKind::Startup | ProbeKind::Liveness if !succeeded => verdicts.failed = Some(kind),
            ProbeKind::Startup | ProbeKind::Liveness => {}
        }
    }

    /// Of these containers alone.
    pub fn retain(&mut self, mut is_there: impl FnMut(&str) -> bool) {
        self.0.retain(|id, _| is_there(id));
    }

    /// `started` of a running container.
    #[must_use]
    pub fn is_started(&self, container: &Container, id: &str) -> bool {
        container.startup_probe.is_none() || self.0.get(id).is_some_and(|v| v.started)
    }

    /// `ready` of a running container: not before it is started.
    #[must_use]
    pub fn is_ready(&self, container: &Container, id: &str) -> bool {
        let ready = || container.readiness_probe.is_none() || self.0.get(id).is_some_and(|v| v.ready);
        self.is_started(container, id) && ready()
    }

    /// The probe for which it is ended, or was.
    #[must_use]
    pub fn failed(&self, id: &str) -> Option<ProbeKind> {
        self.0.get(id)?.failed
    }
}

/// Why a container that failed a probe is ended.
#[must_use]
pub const fn kill_reason(kind: ProbeKind) -> Reason {
    match kind {
        ProbeKind::Startup => Reason::StartupProbeFailed,
        ProbeKind::Liveness | ProbeKind::Readiness => Reason::LivenessProbeFailed,
    }
}

/// The same in kubelet's words (`computePodActions`). `restarts`: the pod's policy starts it again.
#[must_use]
pub fn kill_message(name: &str, kind: ProbeKind, sidecar: bool, restarts: bool) -> String {
    let probe = if kind == ProbeKind::Startup { "startup" } else { "liveness" };
    match (sidecar, restarts) {
        (true, _) => format!("Init container {name} failed {probe} probe"),
        (false, true) => format!("Container {name} failed {probe} probe, will be restarted"),
        (false, false) => format!("Container {name} failed {probe} probe"),
    }
}

/// What it is given to end, where its probe says so itself (KEP-2238).
#[must_use]
pub fn kill_grace(container: &Container, kind: ProbeKind) -> Option<Duration> {
    let seconds = probe_of(container, kind)?.termination_grace_period_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(probes: &[&str]) -> Container {
        let mut container = json!({"name": "c"});
        for probe in probes {
            container[probe] = json!({"exec": {"command": ["true"]}});
        }
        serde_json::from_value(container).unwrap()
    }

    /// Probes of the container, verdicts so far → started, ready, failed.
    #[test]
    fn verdicts_and_what_follows() {
        use ProbeKind::{Liveness, Readiness, Startup};
        let (startup, readiness) = ("startupProbe", "readinessProbe");
        type Case<'a> = (&'a [&'a str], &'a [(ProbeKind, bool)], bool, bool, Option<ProbeKind>);
        let cases: [Case<'_>; 9] = [
            (&[], &[], true, true, None),
            (&[readiness], &[], true, false, None),
            (&[readiness], &[(Readiness, true)], true, true, None),
            (&[readiness], &[(Readiness, true), (Readiness, false)], true, false, None),
            (&[startup], &[], false, false, None),
            (&[startup], &[(Startup, true)], true, true, None),
            (&[startup], &[(Startup, false)], false, false, Some(Startup)),
            (&[startup, readiness], &[(Readiness, true)], false, false, None),
            (&["livenessProbe"], &[(Liveness, false)], true, true, Some(Liveness)),
        ];
        for (probes, notes, started, ready, failed) in cases {
            let (container, mut results) = (container(probes), ProbeResults::default());
            for (kind, succeeded) in notes {
                results.note("id", *kind, *succeeded);
                results.note("other", *kind, !succeeded);
            }
            let found = (
                results.is_started(&container, "id"),
                results.is_ready(&container, "id"),
                results.failed("id"),
            );
            assert_eq!(found, (started, ready, failed), "{probes:?} {notes:?}");
            results.retain(|id| id == "other");
            assert_eq!(results.failed("id"), None);
        }
    }

    #[test]
    fn the_last_run_of_the_agent_is_taken_at_its_word() {
        let status = serde_json::from_value(json!({
            "initContainerStatuses": [{"name": "s", "image": "", "imageID": "", "restartCount": 0,
                "containerID": "containerd://s1", "started": true, "ready": false}],
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "restartCount": 0,
                "containerID": "containerd://c1", "started": true, "ready": true}]}))
        .unwrap();
        let (results, probed) =
            (ProbeResults::of_status(&status), container(&["startupProbe", "readinessProbe"]));
        for (id, started, ready) in [("s1", true, false), ("c1", true, true), ("c2", false, false)] {
            assert_eq!(
                (results.is_started(&probed, id), results.is_ready(&probed, id)),
                (started, ready),
                "{id}"
            );
        }
    }

    #[test]
    fn words_and_grace() {
        let message = |kind, sidecar, restarts| kill_message("c", kind, sidecar, restarts);
        let liveness = "Container c failed liveness probe, will be restarted";
        assert_eq!(message(ProbeKind::Liveness, false, true), liveness);
        assert_eq!(message(ProbeKind::Startup, false, false), "Container c failed startup probe");
        assert_eq!(message(ProbeKind::Startup, true, true), "Init container c failed startup probe");
        let mut container = container(&["livenessProbe"]);
        assert_eq!(kill_grace(&container, ProbeKind::Liveness), None);
        container.liveness_probe.as_mut().unwrap().termination_grace_period_seconds = Some(7);
        assert_eq!(kill_grace(&container, ProbeKind::Liveness), Some(Duration::from_secs(7)));
        assert_eq!(kill_grace(&container, ProbeKind::Startup), None);
    }
}
