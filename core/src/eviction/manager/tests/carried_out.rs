//! Production notes each step where it carries it out; here one call does.

use super::*;

impl EvictionManager {
    /// What the SyncLoop notes when it carries out a step.
    pub(in crate::eviction::manager) fn carried_out(&mut self, step: &EvictionStep, now: Mono) {
        match step {
            EvictionStep::Read { scope, .. } => self.read_ordered(*scope, now),
            EvictionStep::Evict(eviction) => {
                self.eviction_ordered(&eviction.pod, eviction.grace, now);
                if eviction.brake {
                    self.hold(&Held::pod(&eviction.pod.uid), &eviction.domain, false, now);
                }
            }
            EvictionStep::Brake(step) => self.brake_ordered(step, now),
            EvictionStep::CutGrace { pod, .. } => self.grace_cut(&pod.uid, now),
            EvictionStep::ReadLimits { domains, .. } => self.limits_read_ordered(domains, now),
            EvictionStep::StopContainer(stop) => self.container_stop_ordered(stop, now),
            EvictionStep::CutContainerGrace { pod, container, .. } => {
                self.container_grace_cut(&pod.uid, container, now);
            }
        }
    }
}
