//! The plan is on its way: what the state must remember so as not to plan it again.

use std::time::Duration;

use super::memory::with_numbers;
use super::pod::Outstanding;
use super::{Mode, PodState, State};
use crate::brake::{BrakeStep, Gear, Held};
use crate::clock::Mono;
use crate::eviction::{Eviction, Numbers};
use crate::node::action::{Action, ActionKind, MemoryAction, NodeAction, PodAction};
use crate::node::published::Failure;
use crate::pod::hook::kill_within;
use crate::pod::order::WorkOrder;
use crate::pod::{PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::ReadScope;
use crate::trace::record::{Kind, Record};

impl State {
    /// Notes that `action` is about to be executed.
    pub fn note(&mut self, action: &Action, now: Mono) {
        match &action.kind {
            ActionKind::Memory(memory) => self.note_memory(memory, now),
            ActionKind::Resources(resources) => self.note_resources(resources, now),
            ActionKind::Pod(pod) => self.note_pod(pod, action.reason, now),
            ActionKind::Node(NodeAction::UpdateQos { resources, .. }) => {
                self.burstable_applied = Some(*resources);
            }
            ActionKind::Node(NodeAction::KickPleg) => self.kick = None,
            ActionKind::Node(NodeAction::Publish(node)) => self.node_published = Some(node.clone()),
        }
        self.refresh_changed(now);
    }

    fn note_memory(&mut self, action: &MemoryAction, now: Mono) {
        match action {
            MemoryAction::Read { scope, .. } => {
                self.oom.counters_wanted &= *scope != ReadScope::AllPods;
                self.eviction.read_ordered(*scope, now);
            }
            MemoryAction::ReadLimits { domains, .. } => self.eviction.limits_read_ordered(domains, now),
            MemoryAction::QuietGrowth { until } => self.signals.quiet_until = *until,
            MemoryAction::Evict { eviction, .. } => self.note_eviction(eviction, now),
            MemoryAction::Brake { step, .. } => self.note_brake(step, now),
            MemoryAction::CutGrace { pod, numbers, .. } => self.note_grace_cut(pod, numbers, now),
            MemoryAction::StopContainer { stop, .. } => self.note_container_stop(stop, now),
            MemoryAction::CutContainerGrace { order, numbers } => {
                self.note_container_grace_cut(&order.pod, &order.container, numbers, now);
            }
        }
    }

    fn note_pod(&mut self, action: &PodAction, reason: Reason, now: Mono) {
        match action {
            PodAction::Dispatch { pod, order } => self.note_order(pod, order, reason, now),
            PodAction::Forget(uid) => self.forget(uid, now),
            PodAction::Unlist(uid) => {
                self.unlisted.remove(uid);
            }
            PodAction::MapCgroups { pod, .. } => {
                if let Some(mut pod) = self.pods.get_mut(pod) {
                    pod.cgroups_stale = false;
                }
            }
            PodAction::WatchInit { pod, pids } => {
                if let Some(mut pod) = self.pods.get_mut(pod) {
                    pod.watched_pids.extend(pids);
                }
            }
            PodAction::Publish(published) => {
                // What the plan had may be overtaken by what another of its actions has changed.
                let uid = PodRef::of(&published.pod).uid;
                let newest = self.pods.get(&uid).and_then(|pod| pod.published.as_ref());
                if newest.is_none_or(|newest| std::sync::Arc::ptr_eq(newest, published)) {
                    self.unpublished.remove(&uid);
                }
            }
        }
    }

    fn note_order(&mut self, uid: &PodUid, order: &WorkOrder, reason: Reason, now: Mono) {
        let Some(mut pod) = self.pods.get_mut(uid) else { return };
        pod.next_sync = None;
        match order {
            WorkOrder::Sync { .. } => {
                pod.sync_wanted = None;
                (pod.listed_news, pod.settled) = (false, false);
                pod.outstanding = Outstanding::Sync;
            }
            WorkOrder::Terminate { grace, .. } => {
                pod.outstanding = Outstanding::Terminate;
                let (id, first) = (pod.id.clone(), pod.last_error.is_none());
                // Why it ends was told with the decision.
                let decided = matches!(pod.mode, Mode::Evicted { .. });
                let kind = if decided { Kind::Eviction } else { Kind::Pod };
                drop(pod);
                if first {
                    let record = Record::new(now, kind, reason, "stopping the pod").pod(&id);
                    self.record(record.number("grace_ms", grace.as_millis()));
                }
                self.resume_eviction(&id, *grace, now);
            }
        }
    }

    /// An eviction that an earlier run of the agent had begun and that is not at its end: nobody else is evicted
    /// meanwhile, and its grace can be cut.
    fn resume_eviction(&mut self, id: &PodRef, grace: Duration, now: Mono) {
        let is_evicted = |p: &&PodState| matches!(&p.mode, Mode::Evicted { stopped: false, failure, .. } if !failure.is_overdue());
        let evicted = self.pods.get(&id.uid).filter(is_evicted);
        let runs = evicted.is_some_and(|p| p.containers.any_listed_running());
        let known = self.resources.is_evicting(&id.uid) || self.eviction.evicting().any(|uid| *uid == id.uid);
        if runs && !known {
            let within = self.kill_within(&id.uid, grace);
            // Nobody knows any more what it was evicted for.
            self.eviction.eviction_ordered(id, within, now);
            self.resources.eviction_ordered(&id.uid, within, now);
        }
    }

    pub(super) fn kill_within(&self, uid: &PodUid, grace: Duration) -> Duration {
        self.pods.get(uid).map_or(grace, |pod| kill_within(&pod.pod, grace))
    }

    fn note_eviction(&mut self, eviction: &Eviction, now: Mono) {
        let Some(mut pod) = self.pods.get_mut(&eviction.pod.uid) else { return };
        pod.mode = Mode::Evicted {
            failure: Failure { reason: Reason::Evicted, message: eviction.message.clone(), disruption: true },
            grace: eviction.grace,
            stopped: false,
        };
        pod.outstanding = Outstanding::Terminate;
        pod.next_sync = None;
        pod.unsaved = true;
        drop(pod);
        let within = self.kill_within(&eviction.pod.uid, eviction.grace);
        self.eviction.eviction_ordered(&eviction.pod, within, now);
        self.record_decision(eviction, now);
        if eviction.brake {
            self.eviction.hold(&Held::pod(&eviction.pod.uid), &eviction.domain, false, now);
            let message =
                "the pod grows faster than its end takes: it stands still until it has its stop signal";
            let record = Record::new(now, Kind::Brake, Reason::GrowthOutrunsGrace, message);
            let headroom = eviction.numbers.headroom_bytes;
            self.record(
                record.pod(&eviction.pod).domain(eviction.domain.kind()).number("headroom_bytes", headroom),
            );
        }
    }

    fn note_grace_cut(&mut self, uid: &PodUid, numbers: &Numbers, now: Mono) {
        self.eviction.grace_cut(uid, now);
        let Some(mut pod) = self.pods.get_mut(uid) else { return };
        if let Mode::Evicted { grace, .. } = &mut pod.mode {
            *grace = Duration::ZERO;
        }
        let id = pod.id.clone();
        drop(pod);
        let message = "the pod still grows and the memory would be gone before its grace ends: SIGKILL now";
        let record = Record::new(now, Kind::Eviction, Reason::GraceCutShort, message).pod(&id);
        self.record(with_numbers(record, numbers));
    }

    /// Told when it begins to run on its budget and when it is let go; what lies between comes a hundred times a second.
    fn note_brake(&mut self, step: &BrakeStep, now: Mono) {
        let first = !self.eviction.has_run_held(&step.held);
        self.eviction.brake_ordered(step, now);
        let Some(id) = self.pods.get(&step.held.pod).map(|pod| pod.id.clone()) else { return };
        let does = match step.gear {
            Gear::Throttled { .. } if first => "runs on a budget of what may still be taken",
            Gear::Free => "is let go",
            Gear::Throttled { .. } | Gear::Frozen => return,
        };
        let mut message = format!("the {} {does}", step.held.kind());
        if let Some(victim) = step.neighbour_of.as_ref().filter(|_| first).and_then(|uid| self.pods.get(uid))
        {
            message.push_str(&format!(" while {} is ended", victim.id));
        }
        let mut record = of_held(Record::new(now, Kind::Brake, step.reason, message), &step.held)
            .pod(&id)
            .domain(step.domain.kind())
            .number("headroom_bytes", step.headroom_bytes)
            .number("freezes", step.freezes)
            .number("frozen_us", step.frozen.as_micros());
        if let Gear::Throttled { room_bytes } = step.gear {
            record = record.number("room_bytes", room_bytes);
        }
        self.record(record);
    }

    /// The guard took the agent for stuck and has let go of all.
    pub fn all_were_let_go(&mut self) {
        self.eviction.all_were_let_go();
    }

    pub(super) fn apply_brake_failed(&mut self, held: &Held, error: String, now: Mono) {
        if !self.eviction.brake_failed(held, now) {
            return;
        }
        let Some(id) = self.pods.get(&held.pod).map(|pod| pod.id.clone()) else { return };
        self.record(of_held(Record::new(now, Kind::Warning, Reason::BrakeFailed, error), held).pod(&id));
    }

    fn forget(&mut self, uid: &PodUid, now: Mono) {
        self.eviction.pod_gone(uid);
        self.resources.cleaned_up(uid);
        self.attribution.remove_pod(uid);
        for (domain, kills) in self.oom.forget(uid) {
            self.record_kill_by_counter(&domain, kills, now);
        }
        self.oom.forget_kept(uid);
        self.unpublished.remove(uid);
        self.saved.remove(uid);
        self.found.remove(uid);
        self.forgotten.insert(uid.clone(), now);
        if let Some(pod) = self.pods.remove(uid) {
            self.record_pod(
                now,
                Kind::Pod,
                Reason::PodRemoved,
                &pod.id,
                "nothing of the pod is left on the node",
            );
            self.forget_pod(pod, now);
            // Its name is free: a successor may be waiting.
            self.admit(now);
        }
    }
}

/// Names the container, where it is one.
pub(super) fn of_held(record: Record, held: &Held) -> Record {
    match &held.container {
        Some(container) => record.container(container.name.clone()),
        None => record,
    }
}
