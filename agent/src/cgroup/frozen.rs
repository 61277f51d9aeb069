//! Which cgroups somebody has frozen: an operator by `ctr task pause` or by hand, another agent. On v1 a frozen process does
//! not even die of SIGKILL, and nothing else says why it is there (`ps` shows D). Reads only.

use std::fs;
use std::path::{Path, PathBuf};

/// A cgroup that was frozen itself, and not through one above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    pub path: PathBuf,
    /// What thaws it: the file, and the word to write.
    thaw: (&'static str, &'static str),
}

impl Frozen {
    /// As one would type it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let (file, word) = self.thaw;
        format!("echo {word} > {}", self.path.join(file).display())
    }
}

/// From `dir` up to `mount`, both included: a container's own root of the hierarchy can be frozen, the machine's has no
/// such files. Nearest first.
#[must_use]
pub fn above(dir: &Path, mount: &Path) -> Vec<Frozen> {
    dir.ancestors().take_while(|dir| dir.starts_with(mount)).filter_map(itself).collect()
}

fn itself(dir: &Path) -> Option<Frozen> {
    // What says of the cgroup itself, by v1 and by v2; what thaws it.
    let files =
        [("freezer.self_freezing", ("freezer.state", "THAWED")), ("cgroup.freeze", ("cgroup.freeze", "0"))];
    let is_frozen = |file: &str| fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim() == "1");
    let (_, thaw) = files.into_iter().find(|(own, _)| is_frozen(own))?;
    Some(Frozen { path: dir.to_owned(), thaw })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files in place of the kernel's: this machine has one version of the two.
    #[test]
    fn those_that_were_frozen_themselves_are_named_with_the_remedy() {
        let mount = tempfile::tempdir().unwrap();
        let dir = mount.path().join("kubepods/pod1/c1");
        fs::create_dir_all(&dir).unwrap();
        let put =
            |dir: &str, file: &str, text: &str| fs::write(mount.path().join(dir).join(file), text).unwrap();
        assert_eq!(above(&dir, mount.path()), []);
        // v1: the container is frozen because `kubepods` is.
        for (dir, own, parent) in
            [("kubepods", "1\n", "0\n"), ("kubepods/pod1", "0\n", "1\n"), ("kubepods/pod1/c1", "0\n", "1\n")]
        {
            put(dir, "freezer.state", "FROZEN\n");
            put(dir, "freezer.self_freezing", own);
            put(dir, "freezer.parent_freezing", parent);
        }
        let remedies = || above(&dir, mount.path()).iter().map(Frozen::remedy).collect::<Vec<_>>();
        let root = mount.path().display();
        assert_eq!(remedies(), [format!("echo THAWED > {root}/kubepods/freezer.state")]);
        put("kubepods/pod1/c1", "freezer.self_freezing", "1\n");
        assert_eq!(remedies().len(), 2, "both have to be thawed");
        for dir in ["kubepods", "kubepods/pod1/c1"] {
            put(dir, "freezer.self_freezing", "0\n");
        }
        put("kubepods/pod1", "cgroup.freeze", "1\n");
        assert_eq!(remedies(), [format!("echo 0 > {root}/kubepods/pod1/cgroup.freeze")]);
    }
}
