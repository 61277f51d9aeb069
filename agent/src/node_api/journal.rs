//! What services of the node have said: from the journal, by `journalctl`, or from their files. What goes wrong is said in
//! the answer, as by kubelet.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::answer;
use oomlet_core::node_api::log_query::{QueryOptions, files_of, journalctl_arguments};

/// Of one answer. kubelet's.
const BOUND: Duration = Duration::from_secs(30);
const CHUNK: usize = 64 << 10;

/// Reads while the caller takes it.
pub fn read(services: Vec<String>, options: QueryOptions, log_dir: PathBuf) -> Body {
    let (to, body) = answer::channel();
    let child: Arc<Mutex<Option<Child>>> = Arc::default();
    let running = Arc::clone(&child);
    let ended = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + BOUND;
        let reader = Reader { to, deadline, running };
        // `None`: the caller has gone, or the time is up.
        let _ = reader.read(&services, &options, &log_dir);
    });
    tokio::spawn(async move {
        if tokio::time::timeout(BOUND, ended).await.is_err()
            && let Some(child) = child.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            let _ = child.kill();
        }
    });
    body
}

struct Reader {
    to: mpsc::Sender<Bytes>,
    deadline: Instant,
    running: Arc<Mutex<Option<Child>>>,
}

impl Reader {
    fn read(&self, services: &[String], options: &QueryOptions, log_dir: &Path) -> Option<()> {
        let units =
            Command::new("journalctl").args(["--field", "_SYSTEMD_UNIT"]).stdin(Stdio::null()).output();
        let units = units.ok().filter(|output| output.status.success());
        let units =
            units.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let (native, files): (Vec<String>, Vec<String>) =
            services.iter().cloned().partition(|service| units.contains(&format!("{service}.service")));
        if !native.is_empty() {
            self.journal(&native, options)?;
        }
        if !files.is_empty() && *options != QueryOptions::default() {
            let names = files.join(" ");
            return self.say(&format!(
                "\noptions present and query resolved to log files for [{names}]\ntry without specifying options\n"
            ));
        }
        files.iter().try_for_each(|service| self.file(service, log_dir))
    }

    fn journal(&self, services: &[String], options: &QueryOptions) -> Option<()> {
        let failed = || self.say("\nerror: journal output not available\n");
        let Ok((reader, writer)) = std::io::pipe() else { return failed() };
        let Ok(errors) = writer.try_clone() else { return failed() };
        let mut command = Command::new("journalctl");
        command
            .args(journalctl_arguments(services, options))
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors);
        let spawned = command.spawn();
        // It holds the other end of the pipe, whose end is waited for below.
        drop(command);
        let Ok(child) = spawned else { return failed() };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let copied = self.copy(reader);
        let child = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            // It has said all, or nobody listens.
            let _ = child.kill();
            let _ = child.wait();
        }
        copied
    }

    fn file(&self, service: &str, log_dir: &Path) -> Option<()> {
        let Ok(root) = log_dir.canonicalize() else {
            return self.say(&format!("\nlog not found for {service}\n"));
        };
        let inside = files_of(service).into_iter().filter_map(|name| root.join(name).canonicalize().ok());
        let found = inside.filter(|path| path.starts_with(&root)).find(|path| path.is_file());
        match found.map(std::fs::File::open) {
            Some(Ok(file)) => self.copy(file),
            Some(Err(error)) => self.say(&format!("\nerror getting log for {service}: {error}\n")),
            None => self.say(&format!("\nlog not found for {service}\n")),
        }
    }

    fn copy(&self, mut from: impl std::io::Read) -> Option<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match from.read(&mut chunk) {
                Ok(0) | Err(_) => return Some(()),
                Ok(read) if Instant::now() < self.deadline => {
                    self.to.blocking_send(Bytes::copy_from_slice(&chunk[..read])).ok()?;
                }
                Ok(_) => return None,
            }
        }
    }

    fn say(&self, text: &str) -> Option<()> {
        self.to.blocking_send(Bytes::copy_from_slice(text.as_bytes())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_s_file_is_found_and_nothing_beyond() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("outside.log"), "secret").unwrap();
        let logs = dir.path().join("log");
        std::fs::create_dir(&logs).unwrap();
        std::fs::write(logs.join("oomlet-test.log"), "of the service").unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside.log"), logs.join("oomlet-link.log")).unwrap();
        for (service, expected) in [
            ("oomlet-test", "of the service"),
            ("oomlet-link", "\nlog not found for oomlet-link\n"),
            ("..", "\nlog not found for ..\n"),
        ] {
            let body = read(vec![service.to_owned()], QueryOptions::default(), logs.clone());
            let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), expected);
        }
        let options = QueryOptions { boot: Some(0), ..QueryOptions::default() };
        let bytes =
            axum::body::to_bytes(read(vec!["oomlet-test".into()], options, logs), 1 << 20).await.unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("try without specifying options"));
    }
}
