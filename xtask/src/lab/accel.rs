//! How QEMU runs a guest's instructions. A `/dev/kvm` that is there need not work: it is tried by booting.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::system::uname;

use crate::paths;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    /// Software emulation.
    Tcg,
}

impl Accel {
    #[must_use]
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Accel::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Fewer CPU features are faster to emulate; containerd and Debian need no more than this one's.
            Accel::Tcg => &["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"],
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "KVM",
            Accel::Tcg => "software emulation",
        }
    }

    /// How much slower than the host a guest that shares it with another is, as far as tests have to know.
    #[must_use]
    pub fn slowdown(self) -> u32 {
        match self {
            Accel::Kvm => 1,
            Accel::Tcg => 4,
        }
    }

    /// KVM where `boots` says that it works. The answer is kept: a boot that hangs takes a while to be given up. An error
    /// says nothing about KVM, and is not kept.
    pub fn choose(boots: impl FnOnce() -> Result<bool>) -> Result<Accel> {
        if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Accel::Tcg);
        }
        let dir = paths::cache()?.join("lab");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let kept = dir.join("kvm");
        // Another kernel, or a reboot onto other hardware, may answer otherwise.
        let host = format!("{} {}", uname().release().to_string_lossy(), boot_id());
        if let Some(works) = read_kept(&kept, &host) {
            return Ok(if works { Accel::Kvm } else { Accel::Tcg });
        }
        let works = boots().context("trying whether /dev/kvm boots a kernel")?;
        fs::write(&kept, format!("{host}\n{works}\n"))
            .with_context(|| format!("writing {}", kept.display()))?;
        println!("lab: /dev/kvm {}", if works { "works" } else { "does not boot a kernel; emulating" });
        Ok(if works { Accel::Kvm } else { Accel::Tcg })
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The answer, if it was given on this host.
fn read_kept(path: &Path, host: &str) -> Option<bool> {
    let text = fs::read_to_string(path).ok()?;
    let (kept_host, works) = text.trim_end().rsplit_once('\n')?;
    (kept_host == host).then(|| works == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_its_host_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [
            ("6.1 abc\ntrue\n", Some(true)),
            ("6.1 abc\nfalse\n", Some(false)),
            ("6.1 other\ntrue\n", None),
            ("", None),
        ] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(read_kept(file.path(), "6.1 abc"), expected, "{text:?}");
        }
    }
}
