//! Reads what `--config` and `--config-dir` name. Shell; what is in it is [`oomlet_core::config`]'s business.

use std::io;
use std::path::{Path, PathBuf};

use oomlet_core::config::flags::Given;
use oomlet_core::config::{ConfigError, Layers, Loaded};

/// kubelet's drop-ins end so; other files in the directory are passed over.
const DROP_IN: &str = ".conf";

/// # Errors
/// A file cannot be read, or what is said in it or by a flag is not allowed.
pub fn load(
    config: Option<&Path>,
    config_dir: Option<&Path>,
    flags: &[Given],
) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::default();
    match config {
        Some(path) => layers.file(&read(path)?, path)?,
        None => layers.no_file(),
    }
    if let Some(dir) = config_dir {
        let mut found = Vec::new();
        files(dir, &mut found).map_err(|source| ConfigError::Directory { path: dir.to_owned(), source })?;
        for path in found {
            layers.drop_in(&read(&path)?, &path)?;
        }
    }
    layers.flags(flags)?;
    layers.load()
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// The drop-ins in the order of their names, those of a subdirectory where its name stands (Go's WalkDir).
fn files(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            files(&path, found)?;
        } else if entry.file_name().to_string_lossy().ends_with(DROP_IN) {
            found.push(path);
        } else {
            tracing::debug!(file = %path.display(), "not a drop-in: its name does not end in {DROP_IN}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::config::Config;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.yaml");
        let error = load(Some(&path), None, &[]).unwrap_err().to_string();
        assert!(error.contains("none.yaml") && error.contains("--config"), "{error}");
        std::fs::write(&path, HEAD).unwrap();
        assert_eq!(load(Some(&path), None, &[]).unwrap().config, Config::default());
        let missing = dir.path().join("none.d");
        let error = load(Some(&path), Some(&missing), &[]).unwrap_err().to_string();
        assert!(error.contains("none.d") && error.contains("--config-dir"), "{error}");
    }

    #[test]
    fn drop_ins_are_taken_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("10-a.conf", &format!("{HEAD}maxPods: 1\npodPidsLimit: 1\nport: 1"));
        write("20-b/x.conf", &format!("{HEAD}maxPods: 2\npodPidsLimit: 2"));
        write("30-c.conf", &format!("{HEAD}maxPods: 3"));
        write("40-d.yaml", "not read");
        let config = load(None, Some(dir.path()), &[]).unwrap().config;
        assert_eq!((config.max_pods, config.pod_pids_limit, config.port), (3, Some(2), 1));

        write("50-e.conf", "maxPods: 4");
        let error = load(None, Some(dir.path()), &[]).unwrap_err().to_string();
        assert!(error.contains("50-e.conf") && error.contains("apiVersion"), "{error}");
    }
}
