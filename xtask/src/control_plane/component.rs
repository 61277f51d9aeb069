//! One program of a control plane as a process: started, ended, started again.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

use crate::process;

#[derive(Debug)]
pub struct Component {
    pub name: &'static str,
    command: Command,
    log: PathBuf,
    child: Option<Child>,
}

impl Component {
    #[must_use]
    pub fn new(name: &'static str, command: Command, log: PathBuf) -> Component {
        Component { name, command, log, child: None }
    }

    /// Returns at once; its log is appended to.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening {}", self.log.display()))?;
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is for the program that owns it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL: what it would do at its leisure is nothing that anybody needs afterwards.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("killing {}", self.name))?;
            child.wait().with_context(|| format!("waiting for {}", self.name))?;
        }
        Ok(())
    }

    /// Its exit status if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// The end of its log, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        process::file_tail(&self.log, 20)
    }
}
