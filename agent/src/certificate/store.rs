//! Certificates on disk as kubelet keeps them: `kubelet-client-<time>.pem` with the certificate and its key, and a link
//! `kubelet-client-current.pem` to the one in use (k8s.io/client-go/util/certificate/certificate_store.go).

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

use crate::apiserver::credentials::{self, Credentials};
use oomlet_core::certificate::{Found, Need, need};

#[derive(Debug, thiserror::Error)]
#[error("certificate directory: cannot {what} {path}: {source}; check --cert-dir and the file system")]
pub struct StoreError {
    pub what: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    /// `kubelet-client` or `kubelet-server`.
    name: &'static str,
}

fn wrong<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| StoreError { what, path: path.to_owned(), source }
}

impl Store {
    /// The directory as an absolute path: the link and the kubeconfig are read from elsewhere.
    #[must_use]
    pub fn new(dir: &Path, name: &'static str) -> Store {
        Store { dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()), name }
    }

    /// What the kubeconfig points to.
    #[must_use]
    pub fn current(&self) -> PathBuf {
        self.dir.join(format!("{}-current.pem", self.name))
    }

    /// The key of a request that is not answered yet. kubelet's name.
    #[must_use]
    pub fn pending_key(&self) -> PathBuf {
        self.dir.join(format!("{}.key.tmp", self.name))
    }

    /// Its request has been answered: another one has another key.
    pub fn forget_pending_key(&self) {
        let path = self.pending_key();
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), %error, "cannot be removed");
        }
    }

    /// The certificate in use. Where its file is of no use, the newest other that is good takes its place: what a crash has
    /// left half written is passed over.
    #[must_use]
    pub fn look(&self) -> (Found, Option<Credentials>) {
        let now_s = credentials::now_s();
        let serves = |found: &Found| !matches!(need(found, 0.0, now_s), Need::Replace(_));
        let (found, current) = credentials::look(&self.current());
        if serves(&found) {
            return (found, current);
        }
        for path in self.others() {
            let (other, credentials) = credentials::look(&path);
            if serves(&other) && self.link(&path).is_ok() {
                tracing::warn!(
                    file = %path.display(),
                    "the certificate in use is of no use; an older one that is valid takes its place"
                );
                return (other, credentials);
            }
        }
        (found, None)
    }

    /// Newest first: their names are their times.
    fn others(&self) -> Vec<PathBuf> {
        let prefix = format!("{}-", self.name);
        let of_ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&prefix) && name.ends_with(".pem") && !path.is_symlink()
        };
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(of_ours).collect();
        found.sort();
        found.reverse();
        found
    }

    /// Keeps a certificate with its key, and makes it the one in use.
    ///
    /// # Errors
    /// [`StoreError`]; what was in use stays in use then.
    pub fn save(&self, certificate_pem: &[u8], key_pem: &str) -> Result<PathBuf, StoreError> {
        self.make_dir()?;
        let time = Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S");
        let mut path = self.dir.join(format!("{}-{time}.pem", self.name));
        // Two in one second: the later name is the greater one.
        let mut same = 1;
        while path.exists() {
            path = self.dir.join(format!("{}-{time}-{same}.pem", self.name));
            same += 1;
        }
        let mut content = certificate_pem.to_vec();
        if !content.ends_with(b"\n") {
            content.push(b'\n');
        }
        content.extend_from_slice(key_pem.as_bytes());
        credentials::write_atomically(&path, &content).map_err(wrong("write", &path))?;
        self.link(&path)?;
        Ok(path)
    }

    /// The link goes from the one file to the other in one step.
    fn link(&self, to: &Path) -> Result<(), StoreError> {
        let updated = self.dir.join(format!("{}-updated.pem", self.name));
        match std::fs::remove_file(&updated) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(wrong("remove", &updated)(error));
            }
            _ => {}
        }
        std::os::unix::fs::symlink(to, &updated).map_err(wrong("link", &updated))?;
        let current = self.current();
        std::fs::rename(&updated, &current).map_err(wrong("replace", &current))
    }

    /// # Errors
    /// [`StoreError`].
    pub fn make_dir(&self) -> Result<(), StoreError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir);
        made.map_err(wrong("make", &self.dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::request::tests::issued;
    use std::os::unix::fs::PermissionsExt as _;

    const DAY: i64 = 24 * 3600;

    #[test]
    fn the_one_in_use_is_a_link_to_a_file_of_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("pki"), "kubelet-client");
        assert_eq!(store.look().0, Found::Missing);
        let (certificate, key) = issued(-DAY, DAY);
        let first = store.save(certificate.as_bytes(), &key).unwrap();
        let (certificate, key) = issued(-DAY, 2 * DAY);
        let second = store.save(certificate.as_bytes(), &key).unwrap();
        assert_ne!(first, second);
        assert_eq!(std::fs::read_link(store.current()).unwrap(), second);
        assert_eq!(std::fs::metadata(&second).unwrap().permissions().mode() & 0o777, 0o600);
        let Found::Certificate(validity) = store.look().0 else { panic!() };
        assert_eq!(validity.not_after_s - validity.not_before_s, 3 * DAY);
        let names: Vec<_> =
            std::fs::read_dir(dir.path().join("pki")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn a_half_written_file_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "kubelet-client");
        let (certificate, key) = issued(-DAY, DAY);
        let good = store.save(certificate.as_bytes(), &key).unwrap();
        let (other_certificate, _) = issued(-DAY, DAY);
        for bad in
            ["", "-----BEGIN CERTIFICATE-----\nMII", &certificate, &format!("{other_certificate}{key}")]
        {
            let path = dir.path().join("kubelet-client-9999-01-01-00-00-00.pem");
            std::fs::write(&path, bad).unwrap();
            std::fs::remove_file(store.current()).unwrap();
            std::os::unix::fs::symlink(&path, store.current()).unwrap();
            let (found, credentials) = store.look();
            assert!(matches!(found, Found::Certificate(_)) && credentials.is_some(), "{bad:?}: {found:?}");
            assert_eq!(std::fs::read_link(store.current()).unwrap(), good);
        }
        std::fs::remove_file(good).unwrap();
        assert!(matches!(store.look(), (Found::Missing, None)));
        // An expired one is no way out.
        let (certificate, key) = issued(-2 * DAY, -DAY);
        store.save(certificate.as_bytes(), &key).unwrap();
        assert!(store.look().1.is_none());
    }
}
