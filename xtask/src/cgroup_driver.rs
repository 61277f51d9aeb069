//! Which of kubelet's cgroup drivers the fixtures' nodes use, containerd and agent alike, and where it puts cgroups.
//! `OOMLET_TEST_CGROUP_DRIVER=systemd` asks for slices, on a machine that systemd runs; else it is cgroupfs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

const VARIABLE: &str = "OOMLET_TEST_CGROUP_DRIVER";
/// There when systemd is the init system: sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    #[default]
    Cgroupfs,
    Systemd,
}

impl CgroupDriver {
    pub fn of_environment() -> Result<CgroupDriver> {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("" | "cgroupfs") => Ok(CgroupDriver::Cgroupfs),
            Ok("systemd") => {
                ensure!(
                    Path::new(BOOTED).is_dir(),
                    "{VARIABLE}=systemd, and systemd does not run this machine"
                );
                Ok(CgroupDriver::Systemd)
            }
            Ok(other) => bail!("{VARIABLE}={other:?} is neither cgroupfs nor systemd"),
        }
    }

    /// kubelet's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
        }
    }

    /// Below a cgroup mount, of the cgroup whose path by cgroupfs is `/a/b-c`; by systemd, each part is a slice that is
    /// named by all parts above it.
    #[must_use]
    pub fn path(self, cgroupfs_path: &str) -> PathBuf {
        let parts = cgroupfs_path.split('/').filter(|part| !part.is_empty());
        match self {
            CgroupDriver::Cgroupfs => parts.collect(),
            CgroupDriver::Systemd => {
                let mut stem = String::new();
                let slice = |part: &str| {
                    stem.push_str(if stem.is_empty() { "" } else { "-" });
                    stem.push_str(&part.replace('-', "_"));
                    format!("{stem}.slice")
                };
                parts.map(slice).collect()
            }
        }
    }

    /// Whether a directory is the one that by cgroupfs is called `part`.
    #[must_use]
    pub fn is_named(self, dir: &str, part: &str) -> bool {
        match self {
            CgroupDriver::Cgroupfs => dir == part,
            CgroupDriver::Systemd => dir.ends_with(&format!("-{}.slice", part.replace('-', "_"))),
        }
    }

    /// The directory of a container that containerd made for CRI.
    #[must_use]
    pub fn container(self, id: &str) -> String {
        match self {
            CgroupDriver::Cgroupfs => id.to_owned(),
            CgroupDriver::Systemd => format!("cri-containerd-{id}.scope"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CgroupDriver::{Cgroupfs, Systemd};

    #[test]
    fn paths_and_names() {
        for (path, fs, slices) in [
            ("/oomlet-a-x1", "oomlet-a-x1", "oomlet_a_x1.slice"),
            (
                "/o-x/kubepods/burstable/pod9c-1",
                "o-x/kubepods/burstable/pod9c-1",
                "o_x.slice/o_x-kubepods.slice/o_x-kubepods-burstable.slice/o_x-kubepods-burstable-pod9c_1.slice",
            ),
        ] {
            assert_eq!(Cgroupfs.path(path).to_str(), Some(fs));
            let systemd = Systemd.path(path);
            assert_eq!(systemd.to_str(), Some(slices));
            for (driver, dir) in [(Cgroupfs, fs), (Systemd, slices)] {
                let last = dir.rsplit('/').next().unwrap();
                assert_eq!(driver.is_named(last, "pod9c-1"), path.ends_with("pod9c-1"), "{last}");
            }
        }
    }
}
