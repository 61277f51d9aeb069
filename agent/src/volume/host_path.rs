//! hostPath: checks what the manifest's `type` promises about the path, and makes it where the type says so.
//! Nothing below a hostPath is ever the agent's to delete.

use std::fs::{self, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::{VolumeProblem, invalid};

/// Checks the path against its type; `DirectoryOrCreate` makes it (0755, with parents), `FileOrCreate` makes an
/// empty file (0644, in a directory that exists). Symbolic links are followed, as kubelet does.
///
/// # Errors
/// [`VolumeProblem::HostPathType`] naming path, expected type and what is there.
pub fn check(spec: &HostPathVolumeSource) -> Result<(), VolumeProblem> {
    let path = Path::new(&spec.path);
    if !path.is_absolute() {
        return Err(invalid("hostPath.path", &spec.path, "it must be an absolute path"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(invalid("hostPath.path", &spec.path, "it must not contain `..`"));
    }
    let is: fn(FileType) -> bool = match spec.type_.as_deref().unwrap_or_default() {
        "" => return Ok(()),
        "DirectoryOrCreate" => {
            make_dir(path)?;
            |t| t.is_dir()
        }
        "FileOrCreate" => {
            make_file(path)?;
            |t| t.is_file()
        }
        "Directory" => |t| t.is_dir(),
        "File" => |t| t.is_file(),
        "Socket" => |t| t.is_socket(),
        "CharDevice" => |t| t.is_char_device(),
        "BlockDevice" => |t| t.is_block_device(),
        other => {
            let why = "it must be empty, DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice or BlockDevice";
            return Err(invalid("hostPath.type", other, why));
        }
    };
    let found = match fs::metadata(path) {
        Ok(meta) if is(meta.file_type()) => return Ok(()),
        Ok(meta) => format!("{} is there", describe(meta.file_type())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => "nothing is there".to_owned(),
        Err(e) => return Err(VolumeProblem::io("look at", path, e)),
    };
    Err(VolumeProblem::HostPathType {
        path: spec.path.clone(),
        expected: spec.type_.clone().unwrap_or_default(),
        found,
        remedy: "make it so on the node, or correct path or type in the manifest",
    })
}

fn make_dir(path: &Path) -> Result<(), VolumeProblem> {
    match fs::DirBuilder::new().recursive(true).mode(0o755).create(path) {
        // Something else is there; the check that follows says what.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|e| VolumeProblem::io("make the directory", path, e)),
    }
}

fn make_file(path: &Path) -> Result<(), VolumeProblem> {
    match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop).map_err(|e| VolumeProblem::io("make the file", path, e)),
    }
}

fn describe(t: FileType) -> &'static str {
    if t.is_dir() {
        "a directory"
    } else if t.is_file() {
        "a file"
    } else if t.is_socket() {
        "a socket"
    } else if t.is_char_device() {
        "a character device"
    } else if t.is_block_device() {
        "a block device"
    } else {
        "a pipe"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn spec(path: &Path, type_: &str) -> HostPathVolumeSource {
        HostPathVolumeSource { path: path.to_str().unwrap().into(), type_: Some(type_.into()) }
    }

    #[test]
    fn types() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("file"), "").unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("dir", at("link")).unwrap();
        let none = "nothing is there";
        for (path, type_, error) in [
            (at("nowhere"), "", None),
            (at("dir"), "Directory", None),
            (at("link"), "Directory", None),
            (at("dir"), "DirectoryOrCreate", None),
            (at("file"), "File", None),
            (at("file"), "FileOrCreate", None),
            (at("socket"), "Socket", None),
            ("/dev/null".into(), "CharDevice", None),
            (at("file"), "Directory", Some("a file is there")),
            (at("file"), "DirectoryOrCreate", Some("a file is there")),
            (at("dir"), "File", Some("a directory is there")),
            (at("dir"), "FileOrCreate", Some("a directory is there")),
            (at("file"), "Socket", Some("a file is there")),
            (at("socket"), "File", Some("a socket is there")),
            ("/dev/null".into(), "BlockDevice", Some("a character device is there")),
            (at("nowhere"), "Directory", Some(none)),
            (at("nowhere"), "File", Some(none)),
            (at("nowhere"), "Socket", Some(none)),
            (at("dir"), "Dir", Some("must be empty, DirectoryOrCreate")),
            ("relative".into(), "", Some("absolute")),
            ("/tmp/../etc".into(), "", Some("`..`")),
        ] {
            let got = check(&spec(&path, type_)).err().map(|e| e.to_string());
            match (error, got) {
                (None, None) => {}
                (Some(want), Some(got)) => {
                    assert!(got.contains(want) && got.contains(type_), "{path:?} {type_}: {got}");
                }
                (want, got) => panic!("{path:?} {type_}: want {want:?}, got {got:?}"),
            }
        }
        assert!(!at("nowhere").exists(), "a check makes nothing");
    }

    #[test]
    fn makes_what_may_be_made() {
        let tmp = tempfile::tempdir().unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o7777;
        let (dir, file) = (tmp.path().join("a/b"), tmp.path().join("f"));
        check(&spec(&dir, "DirectoryOrCreate")).unwrap();
        check(&spec(&file, "FileOrCreate")).unwrap();
        assert_eq!((mode(&dir), mode(&file)), (0o755, 0o644));
        let orphan = tmp.path().join("no/parent");
        assert!(check(&spec(&orphan, "FileOrCreate")).unwrap_err().to_string().contains("make the file"));
    }
}
