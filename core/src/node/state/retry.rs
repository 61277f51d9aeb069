//! Static pods that were refused or evicted are tried again, for their manifest stands for the wish to run them here and
//! nobody makes another in their place. (kubernetes.io, node-pressure eviction, "Self healing for static pods".) A pod of
//! the API server stays Failed.
//!
//! - Refused: whenever what spoke against it may have gone, namely when a pod has ended or a pressure is over; and at an
//!   agent's start, which may bring another configuration and other features.
//! - Evicted: when it has ended, its back-off is over and no pressure holds. The back-off is 10 s and doubles to 5 min, less
//!   after ten minutes of running, and a pod is not brought back twice within a minute. It comes back as a new run: what
//!   the old one has left, its containers, logs and volumes, goes first. At an agent's start the back-off begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use super::admit::Verdict;
use super::{Mode, State};
use crate::clock::Mono;
use crate::node::event::SourcePod;
use crate::pod::PodUid;
use crate::pod::backoff::{CRASH_LOOP_INITIAL, CRASH_LOOP_MAX, CRASH_LOOP_RESET_AFTER};
use crate::reason::Reason;
use crate::trace::record::Kind;

/// From one time that a pod is brought back to the next.
const BETWEEN_RETRIES: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Retries {
    /// Static pods that had to go for a pressure, or were kept out by one when the last agent ran.
    had_to_go: BTreeMap<PodUid, Retry>,
    /// Something has happened after which a pod may be admitted that was not before.
    look_again: bool,
    /// Memory and disks have been read, so that it is known whether a pressure holds.
    pressure_known: bool,
}

#[derive(Debug, Default)]
struct Retry {
    delay: Duration,
    /// When it may be tried; `None`: it runs, or is ending, or waits for a pressure to be over.
    at: Option<Mono>,
    /// Its back-off is over and something else is not.
    waits: bool,
    brought_back: Option<Mono>,
}

impl Retries {
    pub(super) const fn look_again(&mut self) {
        self.look_again = true;
    }

    pub(super) fn had_to_go(&self, uid: &PodUid) -> bool {
        self.had_to_go.contains_key(uid)
    }

    /// By a pressure, when the last agent ran.
    pub(super) fn was_kept_out(&mut self, uid: &PodUid) {
        self.had_to_go.entry(uid.clone()).or_default();
    }

    pub(super) fn forget(&mut self, uid: &PodUid) {
        self.had_to_go.remove(uid);
    }

    pub(super) fn next_due(&self) -> Option<Mono> {
        self.had_to_go.values().filter_map(|r| r.at).min()
    }

    /// An evicted pod has ended, after it had run for so long.
    fn evicted_pod_ended(&mut self, uid: &PodUid, ran: Option<Duration>, now: Mono) {
        let retry = self.had_to_go.entry(uid.clone()).or_default();
        let fresh = retry.delay.is_zero() || ran.is_some_and(|ran| ran >= CRASH_LOOP_RESET_AFTER);
        retry.delay =
            if fresh { CRASH_LOOP_INITIAL } else { retry.delay.saturating_mul(2).min(CRASH_LOOP_MAX) };
        let not_before = retry.brought_back.map_or(Mono::ZERO, |at| at + BETWEEN_RETRIES);
        retry.at = Some((now + retry.delay).max(not_before));
        retry.waits = false;
    }

    /// Pods whose turn it is.
    fn due(&self, look_again: bool, now: Mono) -> Vec<PodUid> {
        let due = |r: &Retry| r.at.is_some_and(|at| at <= now) || (look_again && r.waits);
        self.had_to_go.iter().filter(|(_, r)| due(r)).map(|(uid, _)| uid.clone()).collect()
    }
}

impl State {
    /// No pressure holds, and that is known.
    pub(super) fn is_at_ease(&self) -> bool {
        self.retries.pressure_known
            && !self.conditions.memory_pressure
            && self.conditions.resources.is_empty()
    }

    /// All containers of a pod have ended.
    pub(super) fn room_was_made(&mut self, uid: &PodUid, now: Mono) {
        self.retries.look_again();
        let Some(pod) = self.pods.get(uid).filter(|p| p.is_static()) else { return };
        if matches!(&pod.mode, Mode::Evicted { stopped: true, failure, .. } if !failure.is_overdue()) {
            let ran = pod.admitted_at.map(|at| now.since(at));
            self.retries.evicted_pod_ended(uid, ran, now);
        }
    }

    /// Whether pods are to be admitted that were refused before, or brought back.
    pub(super) fn retry_failed(&mut self, now: Mono) -> bool {
        if !self.may_admit() {
            return false;
        }
        if !self.retries.pressure_known && self.signals.last_reading.is_some() && self.resources.has_read() {
            self.retries.pressure_known = true;
            self.retries.look_again();
        }
        let look_again = std::mem::take(&mut self.retries.look_again);
        let due = self.retries.due(look_again, now);
        for uid in &due {
            self.bring_back(uid, now);
        }
        if look_again {
            for uid in self.pods.rejected() {
                let Some(mut pod) = self.pods.get_mut(&uid).filter(|p| p.is_static()) else { continue };
                if let Mode::Rejected(failure) = &pod.mode
                    && (failure.reason == Reason::Evicted || failure.reason.is_lack_of_room())
                {
                    pod.refused = Some(failure.clone());
                    pod.mode = Mode::Pending;
                    pod.unsaved = true;
                }
            }
        }
        look_again || !due.is_empty()
    }

    /// An evicted pod whose back-off is over.
    fn bring_back(&mut self, uid: &PodUid, now: Mono) {
        let pod = self.pods.get(uid);
        let evicted = pod.and_then(|pod| match &pod.mode {
            Mode::Evicted { failure, stopped: true, .. } if !pod.superseded => {
                Some((pod, pod.source?, failure.clone()))
            }
            _ => None,
        });
        let may = evicted
            .filter(|(pod, ..)| self.is_at_ease() && matches!(self.verdict(pod), Verdict::Fits))
            .map(|(pod, source, failure)| (pod.id.clone(), source, failure));
        let Some(retry) = self.retries.had_to_go.get_mut(uid) else { return };
        retry.at = None;
        retry.waits = may.is_none();
        let Some((id, source, failure)) = may else { return };
        retry.brought_back = Some(now);
        let delay = retry.delay;
        let Some(mut pod) = self.pods.get_mut(uid) else { return };
        let path = pod.path.clone().unwrap_or_default();
        let named = SourcePod { path, pod: std::sync::Arc::clone(&pod.pod), own_uid: pod.own_uid };
        pod.remove(Reason::RetryAfterEviction);
        pod.refused = Some(failure);
        pod.comes_back = Some((source, named));
        drop(pod);
        let message =
            format!("no pressure holds, and {} s are over since it ended: it runs anew", delay.as_secs());
        self.record_pod(now, Kind::Pod, Reason::RetryAfterEviction, &id, message);
    }
}
