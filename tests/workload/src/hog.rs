//! `hog`: leaks anonymous memory until it is stopped, at a rate or in a burst.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::growth::{self, MIB, Plan};
use crate::sigterm::{Handler, Sigterm};
use crate::{each, number};

#[derive(Debug)]
pub struct Options {
    rate_mib_s: u64,
    start_mib: u64,
    start_rate_mib_s: Option<u64>,
    max_mib: Option<u64>,
    burst: bool,
    threads: u64,
    hold_ms: Option<u64>,
    ignore_sigterm: bool,
    handler: Handler,
}

impl Options {
    pub fn parse(args: &mut lexopt::Parser) -> Result<Options, lexopt::Error> {
        let mut options = Options {
            rate_mib_s: 50,
            start_mib: 0,
            start_rate_mib_s: None,
            max_mib: None,
            burst: false,
            threads: 1,
            hold_ms: None,
            ignore_sigterm: false,
            handler: Handler::working_for(500),
        };
        each(args, |option, args| {
            match option {
                "rate-mib-s" => options.rate_mib_s = number(args)?,
                "start-mib" => options.start_mib = number(args)?,
                "start-rate-mib-s" => options.start_rate_mib_s = Some(number(args)?),
                "max-mib" => options.max_mib = Some(number(args)?),
                "burst" => options.burst = true,
                "threads" => options.threads = number::<u64>(args)?.max(1),
                "hold-ms" => options.hold_ms = Some(number(args)?),
                "ignore-sigterm" => options.ignore_sigterm = true,
                other => options.handler.option(other, args)?,
            }
            Ok(())
        })?;
        Ok(options)
    }

    /// One thread's share.
    fn plan(&self) -> Plan {
        let share = |mib: u64| mib.saturating_mul(MIB) / self.threads;
        Plan {
            start: share(self.start_mib),
            start_rate: self.start_rate_mib_s.map(share),
            max: self.max_mib.map_or(u64::MAX, share),
            rate: (!self.burst).then(|| share(self.rate_mib_s)),
        }
    }
}

pub fn run(options: Options) -> io::Result<ExitCode> {
    growth::small_pages_only();
    let mut sigterm = Sigterm::install()?;
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..options.threads {
        let (plan, stop, hold_ms) = (options.plan(), stop.clone(), options.hold_ms);
        std::thread::spawn(move || {
            let held = growth::grow(plan, &stop);
            match hold_ms {
                Some(ms) => std::thread::sleep(Duration::from_millis(ms)),
                None => loop {
                    std::thread::park();
                },
            }
            drop(held);
        });
    }
    println!("hog started");
    loop {
        sigterm.wait();
        if !options.ignore_sigterm {
            break;
        }
        println!("sigterm ignored");
    }
    if !options.handler.leaks_on {
        stop.store(true, Ordering::Relaxed);
    }
    options.handler.run()?;
    Ok(ExitCode::SUCCESS)
}
