//! The neighbours: workloads that must not be evicted, some of them using memory in a way that could be taken for a leak.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::growth::{Held, MIB, small_pages_only};
use crate::sigterm::{Sigterm, say};

pub fn idle(mib: u64) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    small_pages_only();
    let mut held = Held::default();
    held.grow_to(mib.saturating_mul(MIB), &AtomicBool::new(false));
    println!("idle");
    sigterm.wait();
    Ok(ExitCode::SUCCESS)
}

/// The file is read in turns, for ever or `passes` times, so that its pages stay in the cache as long as the kernel lets
/// them. Says `done` in `mark` after the last one.
pub fn page_cache(path: PathBuf, mib: u64, passes: Option<u64>, mark: Option<&Path>) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    if !write_file(&path, mib, &mut sigterm)? {
        return Ok(ExitCode::SUCCESS);
    }
    println!("written");
    let mut block = vec![0; MIB as usize];
    let mut passed = 0;
    while !sigterm.arrived() {
        let mut file = File::open(&path)?;
        while file.read(&mut block)? > 0 && !sigterm.arrived() {}
        passed += 1;
        if passes.is_some_and(|passes| passed >= passes) {
            say("done", mark)?;
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file of this size and has it on the disk: dirty pages cannot be reclaimed, written back they can. False when
/// SIGTERM came first.
pub fn write_file(path: &Path, mib: u64, sigterm: &mut Sigterm) -> io::Result<bool> {
    let mut file = File::create(path)?;
    let block = vec![0x5a; MIB as usize];
    for _ in 0..mib {
        file.write_all(&block)?;
        if sigterm.arrived() {
            return Ok(false);
        }
    }
    file.sync_all()?;
    Ok(true)
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

/// Holds `mib` MiB meanwhile.
pub fn exit(code: u8, after_ms: u64, mib: u64) -> io::Result<ExitCode> {
    let mut sigterm = Sigterm::install()?;
    let end = Instant::now() + Duration::from_millis(after_ms);
    let mut held = Held::default();
    held.grow_to(mib.saturating_mul(MIB), &AtomicBool::new(false));
    while Instant::now() < end && !sigterm.arrived() {
        std::thread::sleep(Duration::from_millis(5).min(end.saturating_duration_since(Instant::now())));
    }
    println!("exit {code}");
    Ok(ExitCode::from(code))
}
