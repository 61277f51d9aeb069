//! SIGTERM as the workload sees it: waited for by the main thread, so that a memory cgroup that throttles the
//! growing threads does not hold up the handler.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

use crate::{number, unknown};

/// Handles SIGTERM from here on. To be called before any other thread is started.
pub struct Sigterm(Signals);

impl Sigterm {
    pub fn install() -> io::Result<Sigterm> {
        Signals::new([SIGTERM]).map(Sigterm)
    }

    /// Blocks until the next SIGTERM.
    pub fn wait(&mut self) {
        self.0.forever().next();
    }

    pub fn arrived(&mut self) -> bool {
        self.0.pending().next().is_some()
    }
}

/// What a leak does on SIGTERM, by the options that leaks have in common.
#[derive(Clone, Debug)]
pub struct Handler {
    work_ms: u64,
    /// The leak goes on meanwhile.
    pub leaks_on: bool,
    /// Each line in it carries its time in ms of CLOCK_MONOTONIC, the trace's clock.
    mark: Option<PathBuf>,
}

impl Handler {
    pub fn working_for(work_ms: u64) -> Handler {
        Handler { work_ms, leaks_on: false, mark: None }
    }

    /// Takes one of its options; an error when it is none of them.
    pub fn option(&mut self, name: &str, args: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
        match name {
            "sigterm-ms" => self.work_ms = number(args)?,
            "leak-after-sigterm" => self.leaks_on = true,
            "mark" => self.mark = Some(args.value()?.into()),
            other => return Err(unknown(other)),
        }
        Ok(())
    }

    /// Works, and says so on stdout and in the mark. The line `sigterm handled` is there only when it ran to its end.
    pub fn run(&self) -> io::Result<()> {
        self.say("sigterm received")?;
        std::thread::sleep(Duration::from_millis(self.work_ms));
        self.say("sigterm handled")
    }

    pub fn say(&self, what: &str) -> io::Result<()> {
        say(what, self.mark.as_deref())
    }
}

/// Says `what` on stdout, and in `mark` with its time.
pub fn say(what: &str, mark: Option<&Path>) -> io::Result<()> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now_ms = now.tv_sec * 1000 + now.tv_nsec / 1_000_000;
    if let Some(path) = mark {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{what} {now_ms}")?;
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{what}")?;
    stdout.flush()
}
