//! A network namespace of one's own, held open by a file descriptor: it has no name, needs no mount, and is gone
//! with the last process in it even when its owner is killed.
//!
//! `ip netns exec` would not do: it mounts a new /sys, which hides the cgroups.

use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process;

#[derive(Debug)]
pub struct NetNs {
    namespace: File,
}

impl NetNs {
    /// A new namespace with `lo` up.
    pub fn new() -> Result<NetNs> {
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "ip link set lo up && echo up && cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting `unshare --net` (util-linux)")?;
        let mut said = [0; 3];
        let read = holder.stdout.take().context("unshare has no stdout")?.read_exact(&mut said);
        let path = format!("/proc/{}/ns/net", holder.id());
        let namespace = File::open(&path).with_context(|| format!("opening {path}"));
        // End of input ends `cat`; from here on the open file keeps the namespace.
        drop(holder.stdin.take());
        let status = holder.wait().context("waiting for unshare")?;
        ensure!(
            read.is_ok() && said == *b"up\n",
            "a network namespace could not be made: unshare ended with {status}"
        );
        Ok(NetNs { namespace: namespace? })
    }

    /// Names it for other programs, as long as it is held here.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()).into()
    }

    /// `program`, to be run inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        // nsenter execs the program, so the child's pid is the program's.
        command.arg(format!("--net={}", self.path().display()));
        command.arg("--").arg(program);
        command
    }

    /// A socket that listens inside; it can be used from here.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        self.inside(move || TcpListener::bind(address)).with_context(|| format!("listening on {address}"))
    }

    /// A connection made from inside.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        self.inside(move || TcpStream::connect(address)).with_context(|| format!("connecting to {address}"))
    }

    /// A socket belongs to the namespace of the thread that makes it, and stays there.
    fn inside<T: Send + 'static>(&self, make: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
        let namespace = self.namespace.try_clone().context("duplicating a file descriptor")?;
        let made = thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            make()
        });
        let made = made.join().map_err(|_| anyhow::anyhow!("a thread in the network namespace panicked"))?;
        Ok(made?)
    }

    /// The same namespace, held once more.
    pub fn duplicate(&self) -> Result<NetNs> {
        let namespace = self.namespace.try_clone().context("duplicating a file descriptor")?;
        Ok(NetNs { namespace })
    }

    /// Runs a shell command inside and returns its stdout.
    pub fn sh(&self, script: &str) -> Result<String> {
        process::output(self.command("sh").args(["-c", script]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lo_and_up() {
        let ns = NetNs::new().unwrap();
        let links = ns.sh("ip -brief link").unwrap();
        assert_eq!(links.lines().count(), 1, "{links}");
        assert!(links.starts_with("lo") && links.contains("UP"), "{links}");
    }
}
