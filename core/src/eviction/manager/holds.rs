//! Who is held, as the SyncLoop has carried it out.

use super::{Evicting, EvictionManager};
use crate::brake::{BrakeStep, Held};
use crate::clock::Mono;
use crate::pod::PodUid;
use crate::signal::Domain;

impl EvictionManager {
    /// The SyncLoop has ordered a pod or container to stop that is to be held meanwhile: after
    /// [`EvictionManager::eviction_ordered`].
    pub fn hold(&mut self, held: &Held, domain: &Domain, signalled: bool, now: Mono) {
        let evicting = || self.evicting.get(&held.pod).map(Evicting::grace_ends);
        let ends_at = if held.container.is_some() { self.limits.grace_ends(held) } else { evicting() };
        let level = match domain {
            Domain::Node => self.node.forecast.level(),
            Domain::Kubepods => self.kubepods.forecast.level(),
            Domain::Pod(_) | Domain::Container(..) => self.limits.level(domain),
        };
        let (Some(ends_at), Some(level)) = (ends_at, level) else { return };
        self.brakes.hold(held, (domain.clone(), level.headroom_bytes), ends_at, signalled, now);
    }

    /// The containers that are stopped first have their stop signal.
    pub fn signalled(&mut self, pod: &PodUid, now: Mono) {
        self.brakes.signalled(&Held::pod(pod), now);
    }

    /// The SyncLoop has had the gear changed. One that is evicted and not held yet has its stop signal for long.
    pub fn brake_ordered(&mut self, step: &BrakeStep, now: Mono) {
        match &step.neighbour_of {
            Some(victim) if !self.brakes.holds(&step.held) => {
                self.throttle_neighbour(&step.held.pod, victim, &step.domain, now);
            }
            None if !self.brakes.holds_to_its_end(&step.held) => {
                self.hold(&step.held, &step.domain, true, now);
            }
            _ => {}
        }
        self.brakes.ordered(step, now);
    }

    /// Its gear could not be set: it is let go. `true`: for the first time.
    pub fn brake_failed(&mut self, held: &Held, now: Mono) -> bool {
        let first_of_neighbour = self.brakes.failed(held, now);
        if held.container.is_some() {
            return self.container_brake_failed(held);
        }
        let evicting = self.evicting.get_mut(&held.pod);
        evicting.map_or(first_of_neighbour, |evicting| !std::mem::replace(&mut evicting.no_brake, true))
    }

    /// The guard took the agent for stuck and has let go of all.
    pub fn all_were_let_go(&mut self) {
        self.brakes.all_were_let_go();
    }

    /// It is held and has run since.
    #[must_use]
    pub fn has_run_held(&self, held: &Held) -> bool {
        self.brakes.has_run(held)
    }

    /// Somebody is held: the agent must not fall silent.
    #[must_use]
    pub fn holds_any(&self) -> bool {
        self.brakes.any()
    }

    /// A pod that is not evicted itself.
    fn throttle_neighbour(&mut self, pod: &PodUid, victim: &PodUid, domain: &Domain, now: Mono) {
        let top = if *domain == Domain::Node { &self.node } else { &self.kubepods };
        let (Some(level), Some(evicting)) = (top.forecast.level(), self.evicting.get(victim)) else { return };
        let victim = (victim, evicting.grace_ends());
        self.brakes.throttle_neighbour(pod, victim, (domain.clone(), level.headroom_bytes), now);
    }
}
