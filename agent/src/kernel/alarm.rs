//! Wakes the loop at a point of CLOCK_MONOTONIC, to within some tens of microseconds. tokio's own timers round up to
//! milliseconds, which is too coarse for a sampler that has to be ahead of gigabytes a second. Shell.

use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use oomlet_core::clock::Mono;

/// A timerfd on the loop's reactor.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// To be called inside the loop's runtime.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Alarm> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the AsyncFd owns the descriptor from here on; nothing swaps or closes it while it lives.
        let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Alarm { timer: registered.map_err(|error| error.into_parts().1)? })
    }

    /// Returns at `at`, at once if that is past. Cancel-safe: the next call sets the timer anew.
    ///
    /// # Errors
    /// When the timer cannot be set or read.
    pub async fn at(&mut self, at: Mono) -> std::io::Result<()> {
        // All zero would disarm it.
        let ns = at.0.max(1);
        let it_value = Timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0u8; 8];
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut expirations)?)) {
                Ok(read) => return read.map(drop),
                // Readiness of a setting before this one.
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn wakes_not_before_its_time_and_can_be_set_again() {
        let mut alarm = Alarm::new().unwrap();
        let due = clock::now() + Duration::from_millis(3);
        alarm.at(due).await.unwrap();
        assert!(clock::now() >= due);
        // Given up half-way, then set to a time that is past.
        let far = clock::now() + Duration::from_secs(3600);
        assert!(tokio::time::timeout(Duration::from_millis(1), alarm.at(far)).await.is_err());
        alarm.at(Mono::ZERO).await.unwrap();
    }
}
