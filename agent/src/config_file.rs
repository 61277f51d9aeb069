//! Reads the configuration file that `--config` names. Shell; what is in it is [`oomlet_core::config`]'s business.

use std::path::Path;

use oomlet_core::config::{Config, ConfigError, ConfigWarning};

/// # Errors
/// The file cannot be read, or [`Config::parse`] refuses what is in it.
pub fn load(path: &Path) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    Config::parse(&text, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.yaml");
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("none.yaml") && error.contains("--config"), "{error}");
        std::fs::write(&path, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n")
            .unwrap();
        assert_eq!(load(&path).unwrap().0, Config::default());
    }
}
