//! Workloads that take much and give it back, and end by themselves: what must not be taken for a leak. Each says `done`
//! in its mark when it got to its end.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::growth::{Held, MIB, climb, small_pages_only};
use crate::quiet::write_file;
use crate::sigterm::{Sigterm, say};
use crate::{each, number, unknown};

/// How fast a heap grows.
const HEAP_MIB_S: u64 = 150;
/// Collections until a heap is at its plateau, and how much of it each leaves.
const COLLECTIONS: u64 = 6;
const LEFT_PER_CENT: u64 = 70;
/// Pages touched between two looks at the clock.
const TOUCHES: u64 = 512;

#[derive(Debug)]
pub struct Options {
    file: Option<PathBuf>,
    mib: u64,
    max_mib: u64,
    jobs: usize,
    seconds: u64,
    hold_ms: u64,
    mark: Option<PathBuf>,
}

impl Options {
    pub fn parse(args: &mut lexopt::Parser) -> Result<Options, lexopt::Error> {
        let mut options =
            Options { file: None, mib: 16, max_mib: 64, jobs: 2, seconds: 2, hold_ms: 500, mark: None };
        each(args, |option, args| {
            match option {
                "file" => options.file = Some(args.value()?.into()),
                "mib" => options.mib = number(args)?,
                "max-mib" => options.max_mib = number(args)?,
                "jobs" => options.jobs = number::<usize>(args)?.max(1),
                "seconds" => options.seconds = number(args)?,
                "hold-ms" => options.hold_ms = number(args)?,
                "mark" => options.mark = Some(args.value()?.into()),
                other => return Err(unknown(other)),
            }
            Ok(())
        })?;
        Ok(options)
    }

    fn end(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.seconds)
    }

    fn done(&self) -> io::Result<ExitCode> {
        say("done", self.mark.as_deref()).map(|()| ExitCode::SUCCESS)
    }
}

/// `burst`: takes `max_mib` as fast as it can, holds it for a moment and gives it back.
pub fn burst(options: Options) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    small_pages_only();
    let mut held = Held::default();
    held.grow_to(options.max_mib.saturating_mul(MIB), &AtomicBool::new(false));
    if waits(Duration::from_millis(options.hold_ms), &mut sigterm) {
        return Ok(ExitCode::SUCCESS);
    }
    held.shrink_to(0);
    if waits(Duration::from_secs(options.seconds), &mut sigterm) {
        return Ok(ExitCode::SUCCESS);
    }
    options.done()
}

/// `churn`: short processes one after the other, `jobs` at a time, as a build has them.
pub fn churn(options: Options) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    let me = std::env::current_exe()?;
    let (end, mib) = (options.end(), options.mib.to_string());
    let mut running: Vec<Child> = Vec::new();
    let mut started: u64 = 0;
    while Instant::now() < end && !sigterm.arrived() {
        while running.len() < options.jobs {
            // 40 to 120 ms each, without a random number.
            let ms = (40 + started * 37 % 80).to_string();
            running.push(Command::new(&me).args(["exit", "--after-ms", &ms, "--mib", &mib]).spawn()?);
            started += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
        let mut still = Vec::new();
        for mut child in running.drain(..) {
            if child.try_wait()?.is_none() {
                still.push(child);
            }
        }
        running = still;
    }
    let stopped = Instant::now() < end;
    for mut child in running {
        child.wait()?;
    }
    if stopped { Ok(ExitCode::SUCCESS) } else { options.done() }
}

/// `heap`: grows, collects, grows further, until it is at its plateau of `max_mib`, and stays there for a while.
pub fn heap(options: Options) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    small_pages_only();
    let mut held = Held::default();
    for top in tops(options.max_mib) {
        climb(&mut held, top * MIB, Some(HEAP_MIB_S * MIB), &AtomicBool::new(false));
        if top < options.max_mib {
            held.shrink_to(top * MIB * LEFT_PER_CENT / 100);
        }
        if sigterm.arrived() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if waits(Duration::from_secs(options.seconds), &mut sigterm) {
        return Ok(ExitCode::SUCCESS);
    }
    options.done()
}

/// How large the heap is at each collection, in MiB; the last is the plateau.
fn tops(max_mib: u64) -> impl Iterator<Item = u64> {
    (1..=COLLECTIONS).map(move |n| max_mib * (COLLECTIONS + n) / (2 * COLLECTIONS))
}

/// `mmap-thrash`: maps a file and touches its pages in no order, more of them than there is room for.
pub fn mmap_thrash(options: Options) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    let path = options.file.clone().ok_or_else(|| io::Error::other("--file is needed"))?;
    if !write_file(&path, options.mib, &mut sigterm)? {
        return Ok(ExitCode::SUCCESS);
    }
    let (map, _file) = vmap::Map::with_options().open(&path).map_err(io::Error::other)?;
    let end = options.end();
    let (mut page, mut sum) = (1, 0u64);
    while Instant::now() < end {
        for _ in 0..TOUCHES {
            page = next_page(page);
            let at = (page % (map.len() as u64 / 4096)) * 4096;
            sum += u64::from(map[at as usize]);
        }
        if sigterm.arrived() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    std::hint::black_box(sum);
    drop(map);
    std::fs::remove_file(&path)?;
    options.done()
}

/// xorshift64 (Marsaglia): as good as random, and the same in each run.
fn next_page(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}

/// True when SIGTERM came before the time was over.
fn waits(time: Duration, sigterm: &mut Sigterm) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if sigterm.arrived() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heap_grows_to_its_plateau() {
        let tops: Vec<u64> = tops(300).collect();
        assert!(tops.is_sorted(), "{tops:?}");
        assert_eq!((tops.len(), tops.last()), (6, Some(&300)));
        assert!(tops[0] >= 150, "{tops:?}");
    }

    #[test]
    fn pages_come_in_no_order_and_not_twice_in_a_row() {
        let mut page = 1;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            page = next_page(page);
            seen.insert(page);
        }
        assert_eq!(seen.len(), 1000);
    }
}
