//! The neighbours: workloads that must not be evicted, each using memory in a way that could be taken for a leak.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::growth::{Held, MIB, small_pages_only};
use crate::sigterm::Sigterm;

pub fn idle(mib: u64) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    small_pages_only();
    let mut held = Held::default();
    held.grow_to(mib.saturating_mul(MIB), &AtomicBool::new(false));
    println!("idle");
    sigterm.wait();
    Ok(ExitCode::SUCCESS)
}

/// The file is read in turns for ever, so that its pages stay in the cache as long as the kernel lets them.
pub fn page_cache(path: PathBuf, mib: u64) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    let mut file = File::create(&path)?;
    let block = vec![0x5a; MIB as usize];
    for _ in 0..mib {
        file.write_all(&block)?;
        if sigterm.arrived() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    // Dirty pages cannot be reclaimed; written back they can.
    file.sync_all()?;
    println!("written");
    let mut block = block;
    while !sigterm.arrived() {
        let mut file = File::open(&path)?;
        while file.read(&mut block)? > 0 && !sigterm.arrived() {}
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(ExitCode::SUCCESS)
}

/// With a rate in MiB a second, or as fast as it goes.
pub fn tmpfs_fill(path: PathBuf, mib: u64, rate: Option<u64>) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
    let block = vec![0x5a; MIB as usize / 4];
    let start = Instant::now();
    for quarter in 0..mib.saturating_mul(4) {
        if let Some(rate) = rate.filter(|r| *r > 0) {
            let due = Duration::from_secs_f64(quarter as f64 / 4.0 / rate as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        if sigterm.arrived() {
            return fs::remove_file(&path).map(|()| ExitCode::SUCCESS);
        }
        file.write_all(&block)?;
    }
    println!("filled");
    sigterm.wait();
    fs::remove_file(&path)?;
    Ok(ExitCode::SUCCESS)
}

/// Each process starts `width` more, `depth` levels down. They end with their parent's SIGTERM.
pub fn fork_tree(depth: u32, width: u32, mib: u64) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    small_pages_only();
    let mut held = Held::default();
    held.grow_to(mib.saturating_mul(MIB), &AtomicBool::new(false));
    let mut children: Vec<Child> = Vec::new();
    if depth > 0 {
        let me = std::env::current_exe()?;
        for _ in 0..width {
            let child = Command::new(&me)
                .args(["fork-tree", "--depth", &(depth - 1).to_string()])
                .args(["--width", &width.to_string(), "--mib", &mib.to_string()])
                .spawn()?;
            children.push(child);
        }
    }
    println!("fork-tree depth {depth} started");
    sigterm.wait();
    for child in &children {
        let pid = rustix::process::Pid::from_child(child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    for mut child in children {
        child.wait()?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn exit(code: u8, after_ms: u64) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    let end = Instant::now() + Duration::from_millis(after_ms);
    while Instant::now() < end && !sigterm.arrived() {
        std::thread::sleep(Duration::from_millis(5).min(end.saturating_duration_since(Instant::now())));
    }
    println!("exit {code}");
    Ok(ExitCode::from(code))
}
