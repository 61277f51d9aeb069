//! A process that is held by a descriptor, so that no other process can be meant by its number.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub struct HeldProcess {
    pidfd: OwnedFd,
}

/// Those that are no one's but a program's own.
fn real_time(number: i32) -> Option<Signal> {
    // SAFETY: the number is a signal's, and none of the two that the C library has for itself.
    (34..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

impl HeldProcess {
    /// # Errors
    /// When there is no such process (ESRCH).
    pub fn open(pid: u32) -> io::Result<HeldProcess> {
        let no_such = || io::Error::from(rustix::io::Errno::SRCH);
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(no_such)?;
        Ok(HeldProcess { pidfd: pidfd_open(pid, PidfdFlags::NONBLOCK)? })
    }

    /// `number`: 1 to 31, 34 to 64.
    ///
    /// # Errors
    /// When the process has ended (ESRCH), or the number is no signal's (EINVAL).
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let signal =
            Signal::from_named_raw(number).or_else(|| real_time(number)).ok_or(rustix::io::Errno::INVAL)?;
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Gives back the memory of a process that has got its SIGKILL, without waiting for it to run and die: it may be
    /// frozen, in uninterruptible sleep, or starved of CPU (`process_mrelease`, Linux 5.15).
    ///
    /// # Errors
    /// ENOSYS before 5.15; EINVAL when the process is not about to die, or shares its memory with one that is not;
    /// ESRCH when it has died.
    pub fn release_memory(&self) -> io::Result<()> {
        // SAFETY: the call takes two integers and touches no memory of this process.
        let result = unsafe { libc::syscall(libc::SYS_process_mrelease, self.pidfd.as_raw_fd(), 0) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Comes back when the process has ended, be it reaped or not. To be called on a tokio runtime.
    ///
    /// # Errors
    /// When the runtime cannot wait for the descriptor.
    pub async fn ended(self) -> io::Result<()> {
        // SAFETY: the AsyncFd owns the descriptor from here on; nothing swaps or closes it while it lives.
        let registered = unsafe { AsyncFd::register_with_interest(self.pidfd, Interest::READABLE) };
        let held = registered.map_err(|error| error.into_parts().1)?;
        held.readable().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let held = HeldProcess::open(child.id()).unwrap();
        assert_eq!(held.signal(65).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        // A process that lives keeps what it has.
        let refused = held.release_memory().unwrap_err().raw_os_error();
        assert!([Some(libc::EINVAL), Some(libc::ENOSYS)].contains(&refused), "{refused:?}");
        held.signal(libc::SIGTERM).unwrap();
        tokio::time::timeout(Duration::from_secs(10), held.ended()).await.unwrap().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn what_is_no_process_cannot_be_held() {
        for pid in [0, i32::MAX as u32, u32::MAX] {
            assert_eq!(HeldProcess::open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }
}
