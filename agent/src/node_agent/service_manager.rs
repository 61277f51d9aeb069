//! What systemd is told when it runs the agent as a service (sd_notify(3)): that it has started, that it stops, and for
//! the watchdog that the SyncLoop turns. Nothing happens without `NOTIFY_SOCKET`.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::clock;
use crate::sync_loop::heartbeat::Heartbeat;
use oomlet_core::clock::Mono;

/// The loop rests no longer than this while a watchdog waits for its turns.
const TURNS_EVERY: Duration = Duration::from_secs(1);

/// `WATCHDOG_USEC`: without a ping for this long systemd ends the agent and starts it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    timeout: Duration,
}

impl Watchdog {
    /// `None`: the service has none, or nobody runs the agent as a service.
    #[must_use]
    pub fn of_environment() -> Option<Watchdog> {
        sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()).map(|timeout| Watchdog { timeout })
    }

    /// Half of what systemd allows, as sd_watchdog_enabled(3) recommends.
    fn period(self) -> Duration {
        self.timeout / 2
    }

    /// How long the loop may rest.
    #[must_use]
    pub fn longest_rest(self) -> Duration {
        TURNS_EVERY.min(self.period() / 2)
    }

    /// The loop has turned since the ping before. One that hangs gets at most one ping more, and systemd acts within
    /// twice its time.
    fn is_due(self, last_turn: Mono, now: Mono) -> bool {
        now.since(last_turn) < self.period()
    }

    /// Pings from a thread of its own until the returned guard is dropped. Not from the loop, which must never wait
    /// for a socket, nor from the workers, which may all be waiting for the runtime.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn ping(self, heartbeat: Arc<Heartbeat>) -> std::io::Result<Pinging> {
        let (pinging, dropped) = mpsc::channel();
        std::thread::Builder::new().name("watchdog".to_owned()).stack_size(256 << 10).spawn(move || {
            while dropped.recv_timeout(self.period()) == Err(RecvTimeoutError::Timeout) {
                let last_turn = heartbeat.last_turn();
                if self.is_due(last_turn, clock::now()) {
                    notify(&[NotifyState::Watchdog]);
                } else {
                    let ago_ms = clock::now().since(last_turn).as_millis();
                    tracing::error!(ago_ms, "the SyncLoop does not turn: systemd will restart the agent");
                }
            }
        })?;
        Ok(Pinging { _until_dropped: pinging })
    }
}

#[derive(Debug)]
pub struct Pinging {
    _until_dropped: mpsc::Sender<()>,
}

pub fn started(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping; pods run on")]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager; is NOTIFY_SOCKET reachable from here?");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_turned_since_the_last_ping_is_alive() {
        let watchdog = Watchdog { timeout: Duration::from_secs(30) };
        assert_eq!(watchdog.period(), Duration::from_secs(15));
        for (last_turn_ms, now_ms, alive) in [
            (1_000, 1_000, true),
            (1_000, 2_000, true),
            (1_000, 15_999, true),
            (1_000, 16_000, false),
            (1_000, 60_000, false),
            // The turn came between the two clocks' reading.
            (1_001, 1_000, true),
        ] {
            let (last_turn, now) = (Mono::from_millis(last_turn_ms), Mono::from_millis(now_ms));
            assert_eq!(watchdog.is_due(last_turn, now), alive, "{last_turn_ms} {now_ms}");
        }
    }

    #[test]
    fn a_loop_that_rests_as_long_as_it_may_is_alive() {
        for timeout_ms in [10, 500, 2_000, 30_000, 3_600_000] {
            let watchdog = Watchdog { timeout: Duration::from_millis(timeout_ms) };
            let rest = watchdog.longest_rest();
            assert!(rest <= Duration::from_secs(1), "{timeout_ms}");
            assert!(watchdog.is_due(Mono::ZERO, Mono::ZERO + rest), "{timeout_ms}");
        }
    }
}
