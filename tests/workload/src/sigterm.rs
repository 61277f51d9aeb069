//! SIGTERM as the workload sees it: waited for by the main thread, so that a memory cgroup that throttles the
//! growing threads does not hold up the handler.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

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

/// The handler's work: takes `for_ms`, then says so on stdout and in `mark`. The line `sigterm handled` is there only
/// when the handler ran to its end; each line in `mark` carries its time in ms of CLOCK_MONOTONIC, the trace's clock.
pub fn handle(for_ms: u64, mark: Option<&Path>) -> io::Result<()> {
    say("sigterm received", mark)?;
    std::thread::sleep(Duration::from_millis(for_ms));
    say("sigterm handled", mark)
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
