//! One virtual machine: boots a kernel on a copy of the root file system, runs one command, powers off.
//!
//! The guest speaks over virtio-serial ports: its output, its result (`started`, then `exit CODE`), and a tar of what
//! the command left in `$OOMLET_LAB_OUT`. The kernel's console goes to a file, which is shown when a boot hangs.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::accel::Accel;
use super::kernel::Unpacked;
use super::{initrd, leftovers};
use crate::process;

/// How long a machine may take until its command starts: 3 s fast and 8 s with systemd, more on a busy host.
pub const BOOT_BOUND: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Profile {
    /// A PID 1 of a few lines.
    Fast,
    /// systemd as PID 1, with containerd as Debian ships it.
    Systemd,
}

impl Profile {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Profile::Fast => "fast",
            Profile::Systemd => "systemd",
        }
    }
}

/// The machine's hardware and boot.
#[derive(Clone, Debug)]
pub struct Machine {
    pub kernel: Unpacked,
    pub profile: Profile,
    pub memory_mib: u64,
    pub cpus: usize,
    /// ext4 images; the root is written to through a copy that is thrown away.
    pub root: PathBuf,
    pub share: PathBuf,
    pub accel: Accel,
    /// More words for the kernel's command line.
    pub append: String,
    /// How long the machine may take until its command starts.
    pub boot_bound: Duration,
    /// How long the command may take.
    pub bound: Duration,
}

/// Where the command's output goes.
#[derive(Debug)]
pub enum Output {
    /// As it comes to this program's own.
    Inherit,
    /// Into a file.
    File(File),
    /// A shell for a person, on this terminal. The command is not run.
    Shell,
}

impl Machine {
    /// Runs `command` by `sh` and returns its exit code. What it left in `$OOMLET_LAB_OUT` is in `artifacts` afterwards.
    pub fn run(&self, command: &str, output: Output, artifacts: Option<&Path>) -> Result<i32> {
        let work = leftovers::folder(Path::new("/var/tmp"), "oomlet-vm")?;
        if let Some(dir) = artifacts.filter(|dir| dir.exists()) {
            fs::remove_dir_all(dir)
                .with_context(|| format!("removing what an earlier guest left in {}", dir.display()))?;
        }
        let files = Files::new(work.path());
        initrd::write(&self.kernel, &files.initrd)?;
        let interactive = matches!(output, Output::Shell);
        let script = if interactive { "#interactive\n".to_owned() } else { format!("{command}\n") };
        // A disk is a whole number of sectors; the rest is newlines.
        let padded = format!("{script}{}", "\n".repeat(4096 - script.len() % 4096));
        fs::write(&files.command, padded)?;
        let mut qemu = self.qemu(&files, interactive);
        match output {
            Output::Inherit => qemu.stdin(Stdio::null()).stdout(Stdio::piped()),
            Output::File(file) => qemu.stdin(Stdio::null()).stdout(file),
            Output::Shell => &mut qemu,
        };
        let mut child = qemu
            .stderr(File::create(&files.complaints)?)
            .spawn()
            .context("starting QEMU by setpriv (util-linux)")?;
        let shown = child
            .stdout
            .take()
            .map(|mut output| std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::stdout())));
        let ended = self.wait(&mut child, &files, interactive);
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // It ends with QEMU's end of the pipe.
        if let Some(Err(_)) = shown.map(std::thread::JoinHandle::join) {
            bail!("the thread that shows the guest's output has panicked");
        }
        let code = ended?;
        if let Some(dir) = artifacts
            && fs::metadata(&files.artifacts).is_ok_and(|meta| meta.len() > 0)
        {
            fs::create_dir_all(dir)?;
            let mut tar = tar::Archive::new(File::open(&files.artifacts)?);
            tar.unpack(dir)
                .with_context(|| format!("unpacking what the guest left into {}", dir.display()))?;
        }
        Ok(code)
    }

    fn wait(&self, child: &mut Child, files: &Files, interactive: bool) -> Result<i32> {
        let begun = Instant::now();
        let name = format!("the machine with Linux {}", self.kernel.kernel.line());
        let mut started = false;
        loop {
            let result = fs::read_to_string(&files.result).unwrap_or_default();
            started = started || result.contains("started");
            if let Some(status) = child.try_wait().context("waiting for QEMU")? {
                // Read again: the last lines may have come since.
                let result = fs::read_to_string(&files.result).unwrap_or_default();
                return match exit_code(&result) {
                    Some(code) => Ok(code),
                    None => bail!("{name} ended ({status}) without a result; {}", files.tails()),
                };
            }
            if !started && begun.elapsed() > self.boot_bound {
                bail!("{name} does not start within {} s; {}", self.boot_bound.as_secs(), files.tails());
            }
            if !interactive && begun.elapsed() > self.bound + self.boot_bound {
                bail!("{name} still runs its command after {} s; {}", self.bound.as_secs(), files.tails());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn qemu(&self, files: &Files, interactive: bool) -> Command {
        let mut qemu = Command::new("setpriv");
        // Nobody's machine goes on when this program is killed.
        qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        qemu.args(["-M", "q35,usb=off,smbus=off,sata=off,vmport=off,hpet=off"]).args(self.accel.arguments());
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]);
        qemu.args(["-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()]);
        qemu.arg("-kernel").arg(self.kernel.vmlinux()).arg("-initrd").arg(&files.initrd);
        qemu.arg("-append").arg(self.command_line());
        qemu.arg("-serial").arg(format!("file:{}", files.console.display()));
        let modules = self.kernel.modules();
        let disks = [
            (&self.root, "format=raw,snapshot=on,cache=unsafe"),
            (&modules, "format=raw,readonly=on"),
            (&self.share, "format=raw,readonly=on"),
            (&files.command, "format=raw,readonly=on"),
        ];
        for (path, options) in disks {
            qemu.arg("-drive").arg(format!("if=virtio,file={},{options}", path.display()));
        }
        // Its ports are numbered from 0, which is the console's.
        qemu.args(["-device", "virtio-serial-pci,id=ports"]);
        let chardev = |qemu: &mut Command, id: &str, backend: String| {
            qemu.arg("-chardev").arg(format!("{backend},id={id}"));
        };
        if interactive {
            chardev(&mut qemu, "console", "stdio,signal=off".to_owned());
            qemu.args(["-device", "virtconsole,chardev=console,nr=0"]);
            chardev(&mut qemu, "output", "null".to_owned());
        } else {
            // Not `stdio`: it counts as disconnected once stdin has ended, and then the guest's writes wait for ever.
            chardev(&mut qemu, "output", "file,path=/dev/fd/1,append=on".to_owned());
        }
        chardev(&mut qemu, "result", format!("file,path={}", files.result.display()));
        chardev(&mut qemu, "artifacts", format!("file,path={}", files.artifacts.display()));
        for port in ["output", "result", "artifacts"] {
            qemu.arg("-device").arg(format!("virtserialport,chardev={port},name=oomlet.{port}"));
        }
        qemu
    }

    fn command_line(&self) -> String {
        format!(
            "console=ttyS0 quiet loglevel=4 mitigations=off nokaslr no_timer_check tsc=reliable apparmor=0 audit=0 \
             random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1 panic=-1 log_buf_len=4M \
             transparent_hugepage=madvise \
             systemd.show_status=false oomlet.profile={} oomlet.slowdown={} {}",
            self.profile.name(),
            self.accel.slowdown(),
            self.append
        )
    }
}

/// What one run of a machine reads and writes on the host.
struct Files {
    initrd: PathBuf,
    command: PathBuf,
    console: PathBuf,
    result: PathBuf,
    artifacts: PathBuf,
    complaints: PathBuf,
}

impl Files {
    fn new(dir: &Path) -> Files {
        Files {
            initrd: dir.join("initrd"),
            command: dir.join("command"),
            console: dir.join("console"),
            result: dir.join("result"),
            artifacts: dir.join("artifacts.tar"),
            complaints: dir.join("qemu"),
        }
    }

    /// What console and QEMU said last.
    fn tails(&self) -> String {
        let read = |path: &Path| {
            let mut text = Vec::new();
            let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        };
        let mut said = format!("its console:\n{}", process::tail(&read(&self.console), 30));
        let complaints = read(&self.complaints);
        if !complaints.trim().is_empty() {
            said.push_str(&format!("\nQEMU:\n{}", process::tail(&complaints, 10)));
        }
        said
    }
}

/// The guest's last word; `None` when it was not said.
fn exit_code(result: &str) -> Option<i32> {
    result.lines().rev().find_map(|line| line.strip_prefix("exit ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results() {
        for (text, expected) in [
            ("started\nexit 0\n", Some(0)),
            ("started\nexit 101\n", Some(101)),
            ("started\n", None),
            ("", None),
            ("exit soon\n", None),
        ] {
            assert_eq!(exit_code(text), expected, "{text:?}");
        }
    }
}
