//! Containers that are stopped before they reach their own memory limit: which are watched, and what is told of a stop.

use std::time::Duration;

use super::memory::with_numbers;
use super::{Mode, PodState, State};
use crate::clock::Mono;
use crate::eviction::manager::LimitedContainer;
use crate::eviction::{ContainerStop, Numbers};
use crate::pod::hook::{self, PreStop, kill_within};
use crate::pod::{ContainerInstance, PodRef, PodUid, memory_limit};
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

impl State {
    /// Of a pod that has changed: which of its containers are to be stopped before they reach their limit.
    pub(super) fn refresh_limits(&mut self, uid: &PodUid, now: Mono) {
        let node = self.config.eviction.memory_limit;
        let pod = self.pods.get(uid);
        let watched = pod.filter(|pod| self.config.eviction.enabled && pod.mode.may_hold_memory());
        let graceful = watched.and_then(|pod| Some((pod, memory_limit::graceful(&pod.pod, node)?)));
        let containers = graceful.into_iter().flat_map(|(pod, grace)| {
            let stoppable = pod.mode == Mode::Active;
            pod.containers.running().into_iter().map(move |instance| LimitedContainer {
                pod: pod.id.clone(),
                grace,
                stoppable,
                begun: pod.forestalled.contains_key(&instance.id),
                instance,
            })
        });
        self.eviction.watch_limits(uid, containers.collect(), now);
    }

    /// What the container is to do before its stop signal.
    #[must_use]
    pub fn pre_stop(&self, pod: &PodState, container: &str) -> Option<PreStop> {
        let host_ip = self.config.host_ips.first().map(String::as_str);
        let address = pod.containers.status().and_then(|runtime| hook::address(&pod.pod, runtime, host_ip));
        hook::pre_stops(&pod.pod, address).remove(container)
    }

    pub(super) fn note_container_stop(&mut self, stop: &ContainerStop, now: Mono) {
        let Some(pod) = self.pods.get(&stop.pod.uid) else { return };
        let within = ContainerStop { grace: kill_within(&pod.pod, stop.grace), ..stop.clone() };
        self.eviction.container_stop_ordered(&within, now);
        let Some(mut pod) = self.pods.get_mut(&stop.pod.uid) else { return };
        // One that the last agent has begun to stop keeps the numbers of then.
        pod.forestalled.entry(stop.container.id.clone()).or_insert_with(|| stop.message.clone());
        pod.unsaved = true;
        drop(pod);
        let of_it = |record: Record| {
            let record = record.pod(&stop.pod).container(stop.container.name.clone());
            record.domain(stop.domain.kind())
        };
        let decision =
            of_it(Record::new(now, Kind::Decision, Reason::MemoryLimitForestalled, stop.message.clone()))
                .number("grace_ms", stop.grace.as_millis())
                .number("read_to_decision_us", now.since(stop.read_at).as_micros());
        let mut decision = with_numbers(decision, &stop.numbers);
        if let Some(lead) = stop.numbers.time_to_oom {
            decision = decision.number("lead_ms", lead.as_millis());
        }
        let signal_at = stop.caused_by.unwrap_or(stop.read_at);
        self.record(decision.number("signal_to_decision_us", now.since(signal_at).as_micros()));
        if stop.brake {
            let message =
                "the container grows faster than its end takes: it stands still until it has its stop signal";
            let record = of_it(Record::new(now, Kind::Brake, Reason::GrowthOutrunsGrace, message));
            self.record(record.number("headroom_bytes", stop.numbers.headroom_bytes));
        }
    }

    pub(super) fn note_container_grace_cut(
        &mut self,
        pod: &PodRef,
        container: &ContainerInstance,
        numbers: &Numbers,
        now: Mono,
    ) {
        self.eviction.container_grace_cut(&pod.uid, container, now);
        let message =
            "the container still grows and would reach its limit before its grace ends: SIGKILL now";
        let record = Record::new(now, Kind::Decision, Reason::GraceCutShort, message);
        self.record(with_numbers(record.pod(pod).container(container.name.clone()), numbers));
    }

    /// Its pod is brought to what its manifest says at once: that restarts it, or ends the pod.
    pub(super) fn apply_container_stopped(
        &mut self,
        uid: &PodUid,
        container: &ContainerInstance,
        (took, killed): (Duration, bool),
        at: Mono,
    ) {
        self.eviction.container_stopped(uid, container, at);
        let Some(mut pod) = self.pods.get_mut(uid) else { return };
        if pod.mode == Mode::Active {
            pod.sync_wanted = Some(Reason::PodLifecycleEvent);
        }
        let id = pod.id.clone();
        drop(pod);
        let how = if killed { "SIGKILL was needed" } else { "it ended by itself" };
        let message = format!("the container has stopped; {how}");
        let record = Record::new(at, Kind::Pod, Reason::MemoryLimitForestalled, message);
        let record = record.number("took_ms", took.as_millis()).number("sigkill", i64::from(killed));
        self.record(record.pod(&id).container(container.name.clone()));
    }
}
