//! From the node's boot until it is Ready, where it is this agent that registers it: a node that is known already has started
//! before. All times are since the boot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::GaugeVec;

use super::registered::Registered;

#[derive(Clone, Debug)]
pub struct NodeStartup {
    before_agent: GaugeVec,
    before_registration: GaugeVec,
    registration: GaugeVec,
    after_registration: GaugeVec,
    total: GaugeVec,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    began: Option<Duration>,
    asked: Option<Duration>,
    registered: Option<Duration>,
    ready: bool,
}

impl Default for NodeStartup {
    fn default() -> NodeStartup {
        NodeStartup::new(&Registered::nowhere())
    }
}

impl NodeStartup {
    #[must_use]
    pub fn new(on: &Registered) -> NodeStartup {
        // Without labels, and not there until it is known.
        let gauge = |name, help| on.gauges(name, help, &[]);
        NodeStartup {
            before_agent: gauge(
                "kubelet_node_startup_pre_kubelet_duration_seconds",
                "[ALPHA] Duration in seconds of node startup before kubelet starts.",
            ),
            before_registration: gauge(
                "kubelet_node_startup_pre_registration_duration_seconds",
                "[ALPHA] Duration in seconds of node startup before registration.",
            ),
            registration: gauge(
                "kubelet_node_startup_registration_duration_seconds",
                "[ALPHA] Duration in seconds of node startup during registration.",
            ),
            after_registration: gauge(
                "kubelet_node_startup_post_registration_duration_seconds",
                "[ALPHA] Duration in seconds of node startup after registration.",
            ),
            total: gauge(
                "kubelet_node_startup_duration_seconds",
                "[ALPHA] Duration in seconds of node startup in total.",
            ),
            seen: Arc::default(),
        }
    }

    /// The agent starts.
    pub fn began(&self, since_boot: Duration) {
        self.seen().began.get_or_insert(since_boot);
    }

    /// The node is to be registered; each further attempt belongs to the first.
    pub fn registers(&self, since_boot: Duration) {
        self.seen().asked.get_or_insert(since_boot);
    }

    pub fn registered(&self, since_boot: Duration) {
        let mut seen = self.seen();
        let (Some(began), Some(asked), None) = (seen.began, seen.asked, seen.registered) else { return };
        seen.registered = Some(since_boot);
        show(&self.before_agent, began);
        show(&self.before_registration, asked.saturating_sub(began));
        show(&self.registration, since_boot.saturating_sub(asked));
    }

    /// The API server has been told that the node is ready.
    pub fn ready(&self, since_boot: Duration) {
        let mut seen = self.seen();
        let Some(registered) = seen.registered.filter(|_| !seen.ready) else { return };
        seen.ready = true;
        show(&self.after_registration, since_boot.saturating_sub(registered));
        show(&self.total, since_boot);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn show(gauge: &GaugeVec, took: Duration) {
    gauge.with_label_values::<&str>(&[]).set(took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn steps_of_a_node_that_is_new() {
        let registry = Registry::new();
        let startup = NodeStartup::new(&Registered::on(&registry));
        let told = || -> Vec<(String, f64)> {
            let families = registry.gather();
            let one = |f: &prometheus::proto::MetricFamily| {
                let name = f.name().replace("kubelet_node_startup_", "").replace("duration_seconds", "");
                (name, f.get_metric()[0].get_gauge().get_value())
            };
            families.iter().map(one).collect()
        };
        let s = Duration::from_secs;
        startup.began(s(10));
        // It is known already, and is ready.
        startup.registered(s(11));
        startup.ready(s(11));
        assert_eq!(told(), []);
        startup.registers(s(12));
        startup.registers(s(13));
        startup.registered(s(15));
        startup.ready(s(19));
        startup.ready(s(50));
        let expected = [
            ("", 19.0),
            ("post_registration_", 4.0),
            ("pre_kubelet_", 10.0),
            ("pre_registration_", 2.0),
            ("registration_", 3.0),
        ];
        assert_eq!(told(), expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
