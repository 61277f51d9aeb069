//! `/proc/self/mountinfo` as data: the one parser behind finding the cgroup hierarchies and behind finding
//! what is mounted below a pod's directory. Pure; the format is that of proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Field 4: the directory of the mounted file system that is the mount's root.
    pub root: PathBuf,
    /// Field 5, relative to the process's root directory.
    pub mount_point: PathBuf,
    /// File system type, such as `cgroup2` or `tmpfs`.
    pub fs_type: String,
    /// Options of the superblock: for a cgroup v1 mount its controllers are among them.
    pub super_options: Vec<String>,
}

/// All mounts in the order of the file, which is the order they were made in. Lines that do not have the
/// fields of proc_pid_mountinfo(5) are left out: the kernel writes none, and a list that is short of one
/// mount never leads to a deletion through it (see [`super::mounts`]).
#[must_use]
pub fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    mountinfo.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let root = unescape(fields.nth(3)?);
    let mount_point = unescape(fields.next()?);
    fields.next()?; // mount options
    // Optional fields (`shared:1`, `master:2` …) end at a lone hyphen.
    fields.find(|f| *f == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    fields.next()?; // source
    let super_options = fields.next()?.split(|b| *b == b',').map(|o| String::from_utf8_lossy(o).into());
    Some(Mount { root, mount_point, fs_type, super_options: super_options.collect() })
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits (`mangle_path`).
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines() {
        let check = |line: &str, want: Option<(&str, &str, &str, &[&str])>| {
            let want: Vec<Mount> = want
                .into_iter()
                .map(|(root, point, fs, opts)| Mount {
                    root: root.into(),
                    mount_point: point.into(),
                    fs_type: fs.into(),
                    super_options: opts.iter().map(|o| (*o).to_owned()).collect(),
                })
                .collect();
            assert_eq!(parse(line.as_bytes()), want, "{line}");
        };
        check(
            "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
            Some(("/", "/sys/fs/cgroup/memory", "cgroup", &["rw", "memory"])),
        );
        check(
            "41 31 0:38 /a /mnt/two\\040words rw shared:4 master:1 - cgroup2 none rw,nsdelegate",
            Some(("/a", "/mnt/two words", "cgroup2", &["rw", "nsdelegate"])),
        );
        check(r"1 2 0:3 / /b\134s\011x rw - tmpfs t rw", Some(("/", "/b\\s\tx", "tmpfs", &["rw"])));
        check(r"1 2 0:3 / /not\9oct rw - tmpfs t rw", Some(("/", "/not\\9oct", "tmpfs", &["rw"])));
        check("", None);
        check("1 2 0:3 / /no-separator rw", None);
        check("1 2 0:3 / /no-options rw - tmpfs t", None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn broken_lines_never_panic(line in r"[0-9]{1,3} [0-9] 0:[0-9] [/a-z\\0-7]{0,9} [/a-z\\0-7 ]{0,9}( -|)[a-z ,]{0,20}") {
            let _ = parse(line.as_bytes());
        }
    }
}
