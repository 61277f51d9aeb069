//! Measures what holds a leaking process during its grace: `cargo xtask bench brake` runs it and makes the table.
//!
//! A hog with some threads fills a memory limit as fast as it can. With a share of the limit left it is frozen; then it gets
//! SIGTERM, which its handler answers while the other threads leak on, and each candidate has a second to hold it.
//! One JSON object a run on standard output.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oomlet::actuator::BrakeFiles;
use oomlet::cgroup::{CgroupDriver, DriverKind, Options};
use oomlet::clock;
use oomlet_core::brake::{Brakes, Gear, Held, room_bytes};
use oomlet_core::pod::PodUid;
use oomlet_core::pod::qos::{CgroupResources, QosClass};
use oomlet_core::signal::{Domain, Hierarchy};
use serde_json::json;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 256 * MIB;
/// Left when the hog is frozen.
const HEADROOM: u64 = 100 * MIB;
const GRACE: Duration = Duration::from_secs(1);
/// Between two looks while a candidate holds, as the agent has it.
const LOOK: Duration = Duration::from_millis(1);
/// How long the frozen hog is watched.
const FROZEN_FOR: Duration = Duration::from_millis(50);
const BOUND: Duration = Duration::from_secs(60);
/// The handler waits for so long, then writes to a file.
const HANDLER_MS: u64 = 300;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Candidate {
    Nothing,
    /// `memory.high` where there is one, and the freezer where the growth is ahead of its budget: what the agent does.
    Budget,
    /// v2: `memory.high` alone.
    High,
    /// v1: the freezer's counterpart for CPU, one per cent of a CPU.
    CpuQuota,
    /// v1: a limit with the OOM killer held off.
    OomControl,
}

impl Candidate {
    const fn name(self, hierarchy: Hierarchy) -> &'static str {
        match (self, hierarchy) {
            (Candidate::Nothing, _) => "nothing",
            (Candidate::Budget, Hierarchy::MemoryV1) => "freezer on a budget",
            (Candidate::Budget, Hierarchy::Unified) => "memory.high and freezer on a budget",
            (Candidate::High, _) => "memory.high",
            (Candidate::CpuQuota, _) => "cpu.cfs_quota_us, 1 %",
            (Candidate::OomControl, _) => "memory.oom_control, killer held off",
        }
    }

    const fn of(hierarchy: Hierarchy) -> &'static [Candidate] {
        match hierarchy {
            Hierarchy::MemoryV1 => {
                &[Candidate::Nothing, Candidate::CpuQuota, Candidate::OomControl, Candidate::Budget]
            }
            Hierarchy::Unified => &[Candidate::Nothing, Candidate::High, Candidate::Budget],
        }
    }
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(workload), Some(runs)) = (args.next(), args.next()) else {
        return Err("usage: brake WORKLOAD RUNS".into());
    };
    let runs: u32 = runs.parse()?;
    for threads in [1, 4, 16] {
        let hierarchy = Bench::new(&workload)?.driver.memory_hierarchy();
        for candidate in Candidate::of(hierarchy) {
            for _ in 0..runs {
                println!("{}", Bench::new(&workload)?.run(*candidate, threads)?);
            }
        }
    }
    Ok(())
}

/// A kubepods of its own with one pod.
struct Bench {
    driver: CgroupDriver,
    files: BrakeFiles,
    held: Held,
    /// Of the pod, by controller.
    memory: PathBuf,
    freezer: PathBuf,
    cpu: PathBuf,
    mark: tempfile::NamedTempFile,
    workload: String,
    hog: Option<Child>,
}

impl Bench {
    fn new(workload: &str) -> Result<Bench> {
        let options = Options {
            cgroup_root: format!("/oomlet-bench-{}", std::process::id()),
            driver: DriverKind::Cgroupfs,
        };
        let driver = CgroupDriver::open(options)?;
        let limit = CgroupResources { memory_limit_bytes: Some(LIMIT), ..CgroupResources::default() };
        driver.ensure_kubepods(&limit)?;
        let pod = PodUid::from("brake");
        let path = driver.ensure_pod(&pod, QosClass::Guaranteed, &CgroupResources::default())?;
        let dir = |controller: &str| {
            let mount = driver.hierarchies().with_controller(controller).map(|(mount, _)| mount.to_owned());
            let unified = || driver.hierarchies().unified.as_ref().map(|u| u.mount_point.clone());
            let mount = mount.or_else(unified).ok_or_else(|| format!("no cgroup controller {controller}"))?;
            Ok::<_, String>(mount.join(path.trim_start_matches('/')))
        };
        let (memory, freezer, cpu) = (dir("memory")?, dir("freezer")?, dir("cpu")?);
        let files = BrakeFiles::of(&driver);
        let (mark, workload) = (tempfile::NamedTempFile::new()?, workload.to_owned());
        Ok(Bench { files, held: Held::pod(&pod), memory, freezer, cpu, mark, workload, hog: None, driver })
    }

    fn run(&mut self, candidate: Candidate, threads: u32) -> Result<serde_json::Value> {
        let hierarchy = self.driver.memory_hierarchy();
        let pid = self.start(threads)?;
        let full = LIMIT - HEADROOM;
        self.wait(Duration::from_micros(200), |b| b.usage() >= full)?;

        let (at, before) = (clock::now(), self.usage());
        self.files.set(&self.held, QosClass::Guaranteed, Gear::Frozen)?;
        self.wait(Duration::from_micros(20), Bench::is_frozen)?;
        let (frozen_after, frozen_at) = (clock::now().since(at), self.usage());
        std::thread::sleep(FROZEN_FOR);
        let start = self.usage();
        let grew_frozen = start.saturating_sub(frozen_at);

        let room = room_bytes(&Domain::Kubepods, LIMIT.saturating_sub(start));
        let mut brakes = Brakes::default();
        let begin = clock::now();
        match candidate {
            Candidate::Nothing => {}
            Candidate::Budget => {
                let headroom = LIMIT.saturating_sub(start);
                brakes.hold(&self.held, (Domain::Kubepods, headroom), begin + GRACE, true, begin);
                self.files.set(&self.held, QosClass::Guaranteed, Gear::Throttled { room_bytes: room })?;
            }
            Candidate::High => {
                self.files.set(&self.held, QosClass::Guaranteed, Gear::Throttled { room_bytes: room })?;
            }
            Candidate::CpuQuota => write(&self.cpu.join("cpu.cfs_quota_us"), "1000")?,
            Candidate::OomControl => {
                write(&self.memory.join("memory.limit_in_bytes"), &(start + 4 * room).to_string())?;
                write(&self.memory.join("memory.oom_control"), "1")?;
            }
        }
        signal(pid)?;
        if !matches!(candidate, Candidate::Budget | Candidate::High) {
            self.files.set(&self.held, QosClass::Guaranteed, Gear::Free)?;
        }
        let (mut most, mut handled) = (start, None);
        while clock::now().since(begin) < GRACE {
            let now = clock::now();
            let usage = self.usage();
            most = most.max(usage);
            if candidate == Candidate::Budget {
                brakes.observe(&Domain::Kubepods, LIMIT.saturating_sub(usage), now);
                for step in brakes.plan(now) {
                    brakes.ordered(&step, now);
                    self.files.set(&self.held, QosClass::Guaranteed, step.gear)?;
                }
            }
            if handled.is_none() && self.has_handled() {
                handled = Some(now.since(begin).as_millis());
            }
            if self.has_ended()? {
                break;
            }
            std::thread::sleep(LOOK);
        }
        Ok(json!({
            "hierarchy": if hierarchy == Hierarchy::Unified { "v2" } else { "v1" },
            "candidate": candidate.name(hierarchy),
            "threads": threads,
            "frozen_after_us": frozen_after.as_micros(),
            "grew_freezing_kib": frozen_at.saturating_sub(before) / 1024,
            "grew_frozen_kib": grew_frozen / 1024,
            "grew_in_grace_mib": most.saturating_sub(start) / MIB,
            "handler_ms": handled,
            "oom_kills": self.oom_kills(),
        }))
    }

    /// Its pid.
    fn start(&mut self, threads: u32) -> Result<u32> {
        let dirs = [&self.memory, &self.freezer, &self.cpu];
        let moves: String =
            dirs.map(|dir| format!("echo $$ > '{}/cgroup.procs' && ", dir.display())).concat();
        let script = format!(
            "{moves} exec '{}' hog --burst --threads {threads} --leak-after-sigterm --sigterm-ms {HANDLER_MS} --mark '{}'",
            self.workload,
            self.mark.path().display()
        );
        let hog =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(self.hog.insert(hog).id())
    }

    fn wait(&mut self, pause: Duration, met: impl Fn(&Bench) -> bool) -> Result<()> {
        let start = clock::now();
        while !met(self) {
            if self.has_ended()? {
                return Err("the hog has ended before it was frozen".into());
            }
            if clock::now().since(start) > BOUND {
                return Err("the hog does not fill its limit, or cannot be frozen".into());
            }
            std::thread::sleep(pause);
        }
        Ok(())
    }

    fn usage(&self) -> u64 {
        let read = |name: &str| fs::read_to_string(self.memory.join(name)).ok()?.trim().parse().ok();
        read("memory.current").or_else(|| read("memory.usage_in_bytes")).unwrap_or(0)
    }

    fn is_frozen(&self) -> bool {
        let read = |name: &str| fs::read_to_string(self.freezer.join(name)).unwrap_or_default();
        read("freezer.state").trim() == "FROZEN" || read("cgroup.events").contains("frozen 1")
    }

    fn has_handled(&self) -> bool {
        fs::read_to_string(self.mark.path()).is_ok_and(|text| text.contains("sigterm handled"))
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.hog.as_mut().map(Child::try_wait).transpose()?.flatten().is_some())
    }

    fn oom_kills(&self) -> u64 {
        let text =
            ["memory.events", "memory.oom_control"].map(|name| fs::read_to_string(self.memory.join(name)));
        let kills = |text: &str| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        text.iter().flatten().find_map(|text| kills(text)).unwrap_or(0)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.driver.kill_pod(&self.held.pod);
        if let Some(hog) = &mut self.hog {
            let _ = hog.wait();
        }
        let _ = self.driver.remove_pod(&self.held.pod, QosClass::Guaranteed);
        if let Err(error) = self.driver.remove_kubepods() {
            eprintln!("not all is removed: {error}");
        }
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()).into())
}

fn signal(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or("no pid")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
}
