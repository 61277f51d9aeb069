//! `tmpfs-fill` and `dirty`: filling a file. On a tmpfs it is memory that cannot be reclaimed; on a disk, without a sync,
//! it is page cache that has to be written first.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::growth::MIB;
use crate::sigterm::{Handler, Sigterm};
use crate::{each, number};

/// Between two looks for SIGTERM and for the end of the writing.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub struct Options {
    file: PathBuf,
    mib: u64,
    /// As fast as it goes without.
    rate_mib_s: Option<u64>,
    /// How long to stay after the last write; `None`: until SIGTERM.
    hold_ms: Option<u64>,
    handler: Handler,
}

impl Options {
    /// `hold_ms` is what holds when nothing is said.
    pub fn parse(args: &mut lexopt::Parser, hold_ms: Option<u64>) -> Result<Options, lexopt::Error> {
        let mut file = None;
        let mut options = Options {
            file: PathBuf::new(),
            mib: 16,
            rate_mib_s: None,
            hold_ms,
            handler: Handler::working_for(0),
        };
        each(args, |option, args| {
            match option {
                "file" => file = Some(args.value()?.into()),
                "mib" => options.mib = number(args)?,
                "rate-mib-s" => options.rate_mib_s = Some(number(args)?),
                "hold-ms" => options.hold_ms = Some(number(args)?),
                other => options.handler.option(other, args)?,
            }
            Ok(())
        })?;
        options.file = file.ok_or("--file is needed")?;
        Ok(options)
    }
}

/// Removes the file at its end. Says `done` in the mark when it got there without SIGTERM.
pub fn run(options: Options) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    let stop = Arc::new(AtomicBool::new(false));
    let (path, mib, rate) = (options.file.clone(), options.mib, options.rate_mib_s);
    let writer = std::thread::spawn({
        let stop = stop.clone();
        move || write(&path, mib, rate, &stop)
    });
    while !sigterm.arrived() {
        if writer.is_finished() {
            writer.join().map_err(|_| io::Error::other("the writing thread has panicked"))??;
            println!("filled");
            return match options.hold_ms {
                Some(ms) => {
                    std::thread::sleep(Duration::from_millis(ms));
                    options.handler.say("done")?;
                    end(&options)
                }
                None => {
                    sigterm.wait();
                    options.handler.run()?;
                    end(&options)
                }
            };
        }
        std::thread::sleep(LOOK);
    }
    if !options.handler.leaks_on {
        stop.store(true, Ordering::Relaxed);
    }
    options.handler.run()?;
    end(&options)
}

fn end(options: &Options) -> io::Result<ExitCode> {
    fs::remove_file(&options.file).map(|()| ExitCode::SUCCESS)
}

fn write(path: &Path, mib: u64, rate: Option<u64>, stop: &AtomicBool) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
    let block = vec![0x5a; MIB as usize / 4];
    let start = Instant::now();
    for quarter in 0..mib.saturating_mul(4) {
        if let Some(rate) = rate.filter(|r| *r > 0) {
            let due = Duration::from_secs_f64(quarter as f64 / 4.0 / rate as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        file.write_all(&block)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_filled_and_stopped() {
        let path = std::env::temp_dir().join(format!("oomlet-fill-{}", std::process::id()));
        for (stopped, bytes) in [(false, 2 * MIB), (true, 0)] {
            write(&path, 2, Some(1000), &AtomicBool::new(stopped)).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
        }
        fs::remove_file(path).unwrap();
    }
}
