//! The dead man's switch: a process of its own that lets go of every pod when the agent has gone, or is stuck while it
//! holds one. The agent writes a byte now and then; what else there is to know stands in the cgroup files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::brake_files::BrakeFiles;
use crate::clock;
use oomlet_core::clock::Mono;

/// A pod is held: the agent says so at least this often.
const BEAT: Duration = Duration::from_millis(100);

/// Nothing is held: said now and then, for its answer is whether the guard is there.
const REST_BEAT: Duration = Duration::from_secs(10);

/// While a pod is held and nothing was heard of the agent for so long, its loop is stuck.
const SILENCE: Duration = Duration::from_secs(1);

const HOLDS: u8 = b'+';
const HOLDS_NOTHING: u8 = b'-';

/// The agent's end.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    pipe: ChildStdin,
    told: (Mono, bool),
}

/// What the agent is told by its guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    Heard,
    /// The agent was silent for so long that the guard has let go of all pods.
    LetGo,
}

impl Guard {
    /// Starts the guard of the pods below this cgroup root.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(cgroup_root: &str) -> io::Result<Guard> {
        // Not by the name that it was started by: that may be another program by now.
        let mut child = Command::new("/proc/self/exe")
            .args(["release-brakes", "--guard", "--cgroup-root", cgroup_root])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A terminal's Ctrl-C is for the agent; the guard goes after it.
            .process_group(0)
            .spawn()?;
        let pipe =
            child.stdin.take().ok_or_else(|| io::Error::other("a child without the pipe it was given"))?;
        let flags = fcntl_getfl(&pipe)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Guard { child, pipe, told: (clock::now(), false) })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The agent lives, and holds a pod or none. To be called often; says no more than needed, and never waits.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when the guard has gone.
    pub fn beat(&mut self, holds: bool, now: Mono) -> io::Result<Beat> {
        let (at, told) = self.told;
        let silent = now.since(at);
        if told == holds && silent < if holds { BEAT } else { REST_BEAT } {
            return Ok(Beat::Heard);
        }
        let byte = [if holds { HOLDS } else { HOLDS_NOTHING }];
        match rustix::io::write(&self.pipe, &byte) {
            // It has not read for 64 KiB of beats: it will find more than enough when it does.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        self.told = (now, holds);
        Ok(if told && silent >= SILENCE { Beat::LetGo } else { Beat::Heard })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It ends when the pipe does, and by itself.
        let _ = self.child.try_wait();
    }
}

/// The guard's whole life: until the agent's end of `pipe` is closed.
///
/// # Errors
/// When `pipe` cannot be read. The pods have been let go by then.
pub fn watch(pipe: BorrowedFd<'_>, release: &dyn Fn()) -> io::Result<()> {
    let mut holds = false;
    loop {
        match heard(pipe, holds.then_some(SILENCE)) {
            Ok(Heard::Said(said)) => holds = said,
            Ok(Heard::Nothing) => {
                release();
                // What is held again is told again.
                holds = false;
            }
            Ok(Heard::End) => {
                release();
                return Ok(());
            }
            Err(error) => {
                release();
                return Err(error);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Said(bool),
    Nothing,
    End,
}

fn heard(pipe: BorrowedFd<'_>, within: Option<Duration>) -> io::Result<Heard> {
    let timeout = within.and_then(|within| Timespec::try_from(within).ok());
    let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(0) => return Ok(Heard::Nothing),
        Ok(_) | Err(Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let mut bytes = [0; 64];
    match rustix::io::read(pipe, &mut bytes) {
        Ok(0) => Ok(Heard::End),
        Ok(n) => Ok(Heard::Said(bytes[n - 1] == HOLDS)),
        Err(Errno::INTR | Errno::AGAIN) => Ok(Heard::Said(within.is_some())),
        Err(e) => Err(e.into()),
    }
}

/// Lets go of all, and says so where there was something to let go of.
pub fn release(files: &[BrakeFiles]) {
    for files in files {
        match files.release_all() {
            Ok(0) => {}
            Ok(1) => eprintln!("oomlet: a pod or container was held without an agent; it runs again"),
            Ok(held) => {
                eprintln!("oomlet: {held} pods or containers were held without an agent; they run again");
            }
            Err(error) => eprintln!("oomlet: a pod or container may still be held: {error}"),
        }
    }
}

/// Of standard input.
///
/// # Errors
/// As [`watch`].
pub fn watch_stdin(files: &[BrakeFiles]) -> io::Result<()> {
    let stdin = io::stdin();
    watch(stdin.as_fd(), &|| release(files))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use super::*;

    /// What the agent says and how it ends → how often the pods are let go.
    #[test]
    fn it_lets_go_when_the_agent_ends_or_is_stuck() {
        for (what, said, stays, released) in [
            ("it ends at rest", &[HOLDS_NOTHING][..], false, 1),
            ("it ends while it holds", &[HOLDS], false, 1),
            ("it ends without a word", &[], false, 1),
            ("it holds no more and ends", &[HOLDS, HOLDS_NOTHING], false, 1),
            ("it is stuck while it holds", &[HOLDS], true, 2),
        ] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(said).unwrap();
            // One that stays ends only once its silence was heard.
            let writer = Cell::new(stays.then_some(writer));
            let count = Cell::new(0);
            let release = || {
                count.set(count.get() + 1);
                drop(writer.take());
            };
            watch(reader.as_fd(), &release).unwrap();
            assert_eq!(count.get(), released, "{what}");
        }
    }
}
