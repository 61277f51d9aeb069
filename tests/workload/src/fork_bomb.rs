//! `fork-bomb`: a leak by ever more processes, each of which holds a little.

use std::io;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sigterm::{Handler, Sigterm};
use crate::{each, number};

/// Between two looks for SIGTERM and for the end of the starting.
const LOOK: Duration = Duration::from_millis(2);
/// After a start that the system refused.
const REFUSED: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
pub struct Options {
    /// Of each process.
    mib: u64,
    rate_mib_s: u64,
    /// Of all processes that are ever started.
    max_mib: u64,
    handler: Handler,
}

impl Options {
    pub fn parse(args: &mut lexopt::Parser) -> Result<Options, lexopt::Error> {
        let mut options =
            Options { mib: 4, rate_mib_s: 100, max_mib: 64, handler: Handler::working_for(500) };
        each(args, |option, args| {
            match option {
                "mib" => options.mib = number::<u64>(args)?.max(1),
                "rate-mib-s" => options.rate_mib_s = number::<u64>(args)?.max(1),
                "max-mib" => options.max_mib = number(args)?,
                other => options.handler.option(other, args)?,
            }
            Ok(())
        })?;
        Ok(options)
    }

    /// When the process with this number, from 0, is to be started.
    fn due(&self, number: u64) -> Duration {
        Duration::from_secs_f64((number * self.mib) as f64 / self.rate_mib_s as f64)
    }
}

/// As a container's first process its end is that of all.
pub fn run(options: Options) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    let stop = Arc::new(AtomicBool::new(false));
    let starter = std::thread::spawn({
        let (options, stop) = (options.clone(), stop.clone());
        move || start_all(&options, &stop)
    });
    while !sigterm.arrived() {
        if starter.is_finished() {
            let children =
                starter.join().map_err(|_| io::Error::other("the starting thread has panicked"))??;
            options.handler.say("done")?;
            return end(children).map(|()| ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK);
    }
    if !options.handler.leaks_on {
        stop.store(true, Ordering::Relaxed);
    }
    options.handler.run()?;
    stop.store(true, Ordering::Relaxed);
    let children = starter.join().map_err(|_| io::Error::other("the starting thread has panicked"))??;
    end(children).map(|()| ExitCode::SUCCESS)
}

fn start_all(options: &Options, stop: &AtomicBool) -> io::Result<Vec<Child>> {
    let me = std::env::current_exe()?;
    let begun = Instant::now();
    let mut children = Vec::new();
    for number in 0..options.max_mib / options.mib {
        std::thread::sleep(options.due(number).saturating_sub(begun.elapsed()));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match Command::new(&me).args(["idle", "--mib", &options.mib.to_string()]).spawn() {
            Ok(child) => children.push(child),
            // Out of memory or of processes: a bomb goes on.
            Err(_) => std::thread::sleep(REFUSED),
        }
    }
    Ok(children)
}

fn end(children: Vec<Child>) -> io::Result<()> {
    for mut child in children {
        // One that the kernel has killed is waited for all the same.
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_follow_the_rate() {
        let options = Options { mib: 4, rate_mib_s: 100, max_mib: 64, handler: Handler::working_for(0) };
        for (number, ms) in [(0, 0), (1, 40), (25, 1000)] {
            assert_eq!(options.due(number), Duration::from_millis(ms), "{number}");
        }
    }
}
