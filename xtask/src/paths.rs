//! Where things are: the repository, the cache, programs on PATH.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository that this binary was built from.
#[must_use]
pub fn repository() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// cargo's target directory: that of the running binary, so that `CARGO_TARGET_DIR` and `--target-dir` hold.
pub fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    // target/debug/xtask, or target/debug/deps/some_test-1234
    own.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .map(Path::to_owned)
        .with_context(|| format!("no cargo target directory above {}", own.display()))
}

/// `${XDG_CACHE_HOME:-~/.cache}/oomlet`: what is costly to make or fetch, and can be deleted at any time.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => home()?.join(".cache"),
    };
    Ok(base.join("oomlet"))
}

pub fn home() -> Result<PathBuf> {
    std::env::home_dir().context("neither HOME nor the password database names a home directory")
}

/// First file of that name on PATH, or where root's programs are when PATH is a plain user's.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fixed = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(fixed).map(|dir| dir.join(name)).find(|p| p.is_file())
}
