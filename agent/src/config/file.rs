//! Reads the configuration file. Shell.

use std::path::Path;

use super::{Config, ConfigError, ConfigWarning};

impl Config {
    /// # Errors
    /// The file cannot be read, or [`Config::parse`] refuses what is in it.
    pub fn load(path: &Path) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text, path)
    }
}
