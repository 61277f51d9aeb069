//! Pressure stall information of the node and of pods, kept open like the other memory files. Where memory is on cgroup v1,
//! the `unified` hierarchy of a hybrid system has `memory.pressure` all the same.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::CgroupError;
use super::open_file::open;
use super::parse;
use oomlet_core::pod::PodUid;
use oomlet_core::signal::{Domain, ReadScope};

/// A `memory.pressure` has two lines of about 60 bytes.
const BUFFER_BYTES: usize = 512;

const NODE: &str = "/proc/pressure/memory";

/// Open files, read on demand.
#[derive(Debug)]
pub struct PressureFiles {
    node: OwnedFd,
    pods: BTreeMap<PodUid, OwnedFd>,
}

impl PressureFiles {
    /// # Errors
    /// When the kernel keeps no pressure stall information.
    pub fn open() -> Result<Self, CgroupError> {
        let node = open(Path::new(NODE))?;
        // Where it was switched off at boot the file is there and cannot be read (EOPNOTSUPP).
        full(&node).map_err(|e| CgroupError::io("read", Path::new(NODE), e))?;
        Ok(PressureFiles { node, pods: BTreeMap::new() })
    }

    /// Reads the pod's from its cgroup `dir` in the unified hierarchy from now on.
    ///
    /// # Errors
    /// When the cgroup has no `memory.pressure`, or is gone.
    pub fn watch(&mut self, pod: &PodUid, dir: &Path) -> Result<(), CgroupError> {
        self.pods.insert(pod.clone(), open(&dir.join("memory.pressure"))?);
        Ok(())
    }

    pub fn unwatch(&mut self, pod: &PodUid) {
        self.pods.remove(pod);
    }

    /// For how long all tasks have stood still, ever. A pod that is gone is absent, and no longer watched.
    pub fn read(&mut self, scope: ReadScope) -> Vec<(Domain, Duration)> {
        let mut stalled = Vec::with_capacity(1 + self.pods.len());
        match full(&self.node) {
            Ok(total) => stalled.push((Domain::Node, total)),
            Err(error) => tracing::warn!(%error, "cannot read {NODE}"),
        }
        if scope == ReadScope::AllPods {
            self.pods.retain(|uid, file| match full(file) {
                Ok(total) => {
                    stalled.push((Domain::Pod(uid.clone()), total));
                    true
                }
                Err(_) => false,
            });
        }
        stalled
    }
}

fn full(file: &OwnedFd) -> io::Result<Duration> {
    let mut buffer = [0; BUFFER_BYTES];
    let length = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer, 0))?;
    let psi = parse::psi(&buffer[..length]).map_err(io::Error::other)?;
    Ok(Duration::from_micros(psi.full_total_us))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn totals_of_node_and_pods() {
        // A kernel without PSI says so; the others are read below.
        let Ok(mut files) = PressureFiles::open() else {
            assert!(fs::read(NODE).is_err());
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let text = |full: u64| {
            format!(
                "some avg10=1.00 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n"
            )
        };
        fs::write(dir.path().join("memory.pressure"), text(2_500_000)).unwrap();
        let pod = PodUid::from("p");
        files.watch(&pod, dir.path()).unwrap();
        let of_pods = |stalled: Vec<(Domain, Duration)>| {
            assert_eq!(stalled[0].0, Domain::Node);
            stalled[1..].to_vec()
        };
        assert_eq!(of_pods(files.read(ReadScope::Top)), []);
        let expected = [(Domain::Pod(pod.clone()), Duration::from_millis(2500))];
        assert_eq!(of_pods(files.read(ReadScope::AllPods)), expected);
        fs::write(dir.path().join("memory.pressure"), text(3_000_000)).unwrap();
        assert_eq!(of_pods(files.read(ReadScope::AllPods))[0].1, Duration::from_secs(3));
        fs::write(dir.path().join("memory.pressure"), "").unwrap();
        assert_eq!(of_pods(files.read(ReadScope::AllPods)), [], "what cannot be read is not watched");
        files.unwatch(&pod);
        let error = files.watch(&pod, Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/memory.pressure"), "{error}");
    }
}
