//! The agent's process.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::process;

/// Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Both of its outputs are appended to `log`.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Agent> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .env("NO_COLOR", "1")
            // Ctrl-C in the terminal is for this program alone; it ends the agent in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting `{}`", process::line(&command)))?;
        Ok(Agent { child })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and its end awaited.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().context("killing the agent")?;
        self.child.wait().context("waiting for the agent")?;
        Ok(())
    }

    /// SIGTERM; the exit status, or an error when it does not end within `bound`.
    pub fn terminate(&mut self, bound: Duration) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("sending SIGTERM to the agent")?;
        self.wait_end(bound)
    }

    /// Awaits the end that the agent comes to by itself.
    pub fn wait_end(&mut self, bound: Duration) -> Result<ExitStatus> {
        let mut status = None;
        process::holds_within(bound, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.with_context(|| format!("the agent runs on after {bound:?}"))
    }

    /// False once it has ended, also before anybody has waited for it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The state follows the name, which is in brackets.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}
