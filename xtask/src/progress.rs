//! Steps that take more than a moment: what is being done, for how long by now, and how long it took.
//!
//! On a terminal the step's last line is kept up to date in place; elsewhere (a CI log) a line is added now and then.
//! Steps that end within [`QUIET`] print nothing but their heading.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// Up to here nobody wonders what is going on.
const QUIET: Duration = Duration::from_secs(2);
/// Where lines cannot be overwritten: from the first pause to the longest, each twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// On a terminal.
const REDRAW: Duration = Duration::from_millis(500);
/// Of a failed command's output.
const KEPT_LINES: usize = 40;
/// Longer lines would wrap, and a wrapped line cannot be overwritten. Every terminal has this many columns.
const COLUMNS: usize = 79;

/// One step. Its clock and the last thing that it did are shown until [`step`] returns.
#[derive(Debug)]
pub struct Step {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What it does right now.
    doing: String,
    ended: bool,
}

/// Prints `-> heading`, does the work, and prints how long it took.
pub fn step<T>(heading: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
    println!("-> {heading}");
    let shared = Shared { begun: Instant::now(), state: Mutex::default(), changed: Condvar::new() };
    let step = Step { shared: Arc::new(shared) };
    let shown = step.shared.clone();
    let terminal = std::io::stdout().is_terminal();
    let clock = std::thread::spawn(move || shown.show(terminal));
    let result = work(&step);
    step.shared.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    step.shared.changed.notify_all();
    let stopped = clock.join();
    let took = step.shared.begun.elapsed();
    if took >= QUIET {
        let how = if result.is_ok() { "done in" } else { "failed after" };
        println!("   {how} {:.1} s", took.as_secs_f64());
    }
    if stopped.is_err() {
        bail!("the thread that shows the progress of `{heading}` has panicked");
    }
    result
}

impl Shared {
    /// Until the step has ended.
    fn show(&self, terminal: bool) {
        let mut pause = if terminal { REDRAW } else { FIRST_PAUSE };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.begun + pause.max(QUIET);
        while !state.ended {
            let now = Instant::now();
            if now < next {
                let waited = self.changed.wait_timeout(state, next - now);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if !terminal {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            next = now + pause;
            let line = line(self.begun.elapsed(), &state.doing);
            if terminal {
                print!("\r\x1b[2K{line}");
                // Progress that cannot be shown stops nobody's work.
                let _ = std::io::stdout().flush();
            } else {
                println!("{line}");
            }
        }
        if terminal {
            print!("\r\x1b[2K");
        }
    }
}

/// `    12 s  Compiling serde v1.0.228`
fn line(elapsed: Duration, doing: &str) -> String {
    let line = format!("{:6} s  {doing}", elapsed.as_secs());
    line.trim_end().chars().take(COLUMNS).collect()
}

impl Step {
    /// What the step does from now on.
    pub fn doing(&self, what: &str) {
        what.clone_into(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).doing);
    }

    /// Runs to the end. Each line of output is what the step does at that moment; the last of them are part of the
    /// error when the command fails.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        self.follow(command, |_| false)
    }

    /// The same for cargo. What is not about its progress, which are the compiler's messages, is printed.
    pub fn cargo(&self, command: &mut Command) -> Result<()> {
        self.follow(command.env("CARGO_TERM_COLOR", "never"), |line| !is_cargos_progress(line))
    }

    fn follow(&self, command: &mut Command, is_shown: impl Fn(&str) -> bool) -> Result<()> {
        let shown = process::line(command);
        let (mut child, lines) = start(command).with_context(|| format!("starting `{shown}`"))?;
        let mut last: VecDeque<String> = VecDeque::new();
        let mut told = false;
        let status = wait(&mut child, &lines, |line| {
            if is_shown(&line) {
                told = true;
                self.say(&line);
                return;
            }
            self.doing(line.trim());
            if last.len() == KEPT_LINES {
                last.pop_front();
            }
            last.push_back(line);
        });
        let status = status.with_context(|| format!("waiting for `{shown}`"))?;
        if status.success() {
            return Ok(());
        }
        if told {
            bail!("`{shown}` ended with {status}");
        }
        bail!("`{shown}` ended with {status}:\n{}", last.make_contiguous().join("\n"));
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        // Nothing is drawn while the lock is held.
        let _state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let clear = if std::io::stdout().is_terminal() { "\r\x1b[2K" } else { "" };
        println!("{clear}{line}");
    }
}

/// Both of its outputs come as lines, in the order in which they are written.
fn start(command: &mut Command) -> Result<(Child, Receiver<String>)> {
    let (read, write) = std::io::pipe().context("making a pipe")?;
    let child = command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write).spawn();
    // The command keeps both ends of writing, and the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        // Not `lines()`: what a package's script prints need not be UTF-8.
        for line in BufReader::new(read).split(b'\n') {
            let Ok(line) = line else { return };
            let text = String::from_utf8_lossy(&line);
            // apt-get and dpkg overwrite their own lines.
            let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
            if !text.trim().is_empty() && sender.send(text.to_owned()).is_err() {
                return;
            }
        }
    });
    Ok((child?, lines))
}

/// Until it has ended, not until its output has: a service that a package's script started may keep that open.
fn wait(child: &mut Child, lines: &Receiver<String>, mut take: impl FnMut(String)) -> Result<ExitStatus> {
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => take(line),
            Err(RecvTimeoutError::Disconnected) => return Ok(child.wait()?),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(status) = child.try_wait()? {
                    lines.try_iter().for_each(take);
                    return Ok(status);
                }
            }
        }
    }
}

/// `   Compiling serde v1.0.228`: cargo's words for what it does, set to the right.
fn is_cargos_progress(line: &str) -> bool {
    const WORDS: [&str; 14] = [
        "Adding",
        "Blocking",
        "Building",
        "Compiling",
        "Downloaded",
        "Downloading",
        "Finished",
        "Fresh",
        "Ignored",
        "Installed",
        "Installing",
        "Locking",
        "Replacing",
        "Updating",
    ];
    line.starts_with(' ') && line.split_whitespace().next().is_some_and(|word| WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_tells_what_was_said_on_both_outputs() {
        let error =
            step("failing", |step| step.run(&mut shell("echo one; echo two >&2; exit 3"))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("3:\none\ntwo"), "{text}");
        let error = step("missing", |step| step.run(&mut Command::new("/nonexistent/program"))).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/program"), "{error:#}");
    }

    #[test]
    fn a_child_that_keeps_the_output_open_is_not_waited_for() {
        let begun = Instant::now();
        step("daemon", |step| step.run(&mut shell("sleep 5 & exit 0"))).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_last_line_is_what_is_being_done() {
        step("doing", |step| {
            step.run(&mut shell("echo first; printf 'a\\rlast\\n\\n'"))?;
            assert_eq!(step.shared.state.lock().unwrap().doing, "last");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn cargos_words_are_told_from_the_compilers() {
        for (line, expected) in [
            ("   Compiling serde v1.0.228", true),
            ("    Finished `dev` profile [unoptimized] target(s) in 1.2s", true),
            ("warning: unused variable: `x`", false),
            ("Compiling is what it says here", false),
            ("  --> src/main.rs:3:1", false),
            ("", false),
        ] {
            assert_eq!(is_cargos_progress(line), expected, "{line:?}");
        }
    }

    #[test]
    fn lines_fit_a_terminal() {
        assert_eq!(line(Duration::from_millis(12_900), "Compiling a"), "    12 s  Compiling a");
        assert_eq!(line(Duration::from_secs(3), ""), "     3 s");
        assert_eq!(line(Duration::from_secs(3), &"ä".repeat(200)).chars().count(), COLUMNS);
    }
}
