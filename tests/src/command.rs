//! The agent's commands, run to their end.

use std::io::{Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use xtask::process;

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it to its end. Panics when it runs on after `bound`: an agent that should have been refused has started.
#[must_use]
pub fn run(command: &mut Command, bound: Duration) -> Ran {
    let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let shown = process::line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .env("NO_COLOR", "1")
        .spawn()
        .unwrap_or_else(|error| panic!("starting `{shown}`: {error}"));
    let mut status = None;
    process::holds_within(bound, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |file: &mut std::fs::File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    let (stdout, stderr) = (text(&mut out), text(&mut err));
    let Some(status) = status else { panic!("`{shown}` runs on after {bound:?}:\n{stderr}") };
    Ran { status, stdout, stderr }
}

impl Ran {
    /// It ended well; returns stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}: {}{}", self.status, self.stdout, self.stderr);
        self.stdout
    }

    /// It was refused, in words that include each of `parts`.
    #[track_caller]
    pub fn refused(&self, parts: &[&str]) {
        assert!(!self.status.success(), "{:?} was expected to be refused: {}", self.status, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in: {}", self.stderr);
        }
    }
}
