//! Removes what lives as long as the test program does, since nothing inside of it can: statics are never dropped, and
//! a killed program does nothing at all. A shell of its own waits for the program to end, which it sees by the end of
//! its input.

use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result};
use xtask::scratch::Scratch;

/// The programs of a control plane are known by its folder on their command line. The folder may be busy for a moment
/// after they were killed. What is in it but processes and files, such as mounts, is not for this.
const SCRIPT: &str = r#"
cat
for process in /proc/[0-9]*; do
    read -r name 2>/dev/null <"$process/comm" || continue
    case "$name" in etcd | kube-*) ;; *) continue ;; esac
    if tr '\0' '\n' 2>/dev/null <"$process/cmdline" | grep -qF "$SCRATCH/"; then kill -KILL "${process#/proc/}"; fi
done
if [ -n "$OOMLET_KEEP_LOGS" ]; then
    mkdir -p "/tmp/${SCRATCH##*/}.logs" && cp "$SCRATCH"/*/*.log "/tmp/${SCRATCH##*/}.logs"
fi
tries=0
until rm -rf "$SCRATCH" || [ $tries -ge 100 ]; do tries=$((tries + 1)); sleep 0.1; done
"#;

/// Of the shells: closed by the kernel when this program ends. Programs that it starts do not inherit them.
static INPUTS: Mutex<Vec<ChildStdin>> = Mutex::new(Vec::new());

/// From now on the scratch is removed when this program ends. What even that does not remove is left to
/// [`xtask::scratch::sweep_leftovers`].
pub fn remove(scratch: &Scratch) -> Result<()> {
    let mut shell = watcher(scratch)?.spawn().context("starting sh")?;
    let input = shell.stdin.take().context("sh has no stdin")?;
    INPUTS.lock().unwrap().push(input);
    Ok(())
}

fn watcher(scratch: &Scratch) -> Result<Command> {
    let path = scratch.path().to_str().context("a scratch has an ASCII path")?;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).env("SCRATCH", path).stdin(Stdio::piped());
    // Whoever reads this program's output does not wait for the shell; and Ctrl-C is for this program.
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_end_of_the_program_ends_what_it_shared() {
        let scratch = Scratch::new("at-exit").unwrap();
        // A program with a name of ours and the folder on its command line: the kernel names it by the link.
        let etcd = scratch.path().join("etcd");
        symlink("/bin/sh", &etcd).unwrap();
        let mut ours =
            Command::new(&etcd).args(["-c", "read -r line"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut others = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut shell = watcher(&scratch).unwrap().spawn().unwrap();
        assert!(ours.try_wait().unwrap().is_none() && scratch.path().exists());
        drop(shell.stdin.take());
        assert!(shell.wait().unwrap().success());
        let ended = ours.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{ended}");
        assert!(!scratch.path().exists() && others.try_wait().unwrap().is_none());
        others.kill().unwrap();
        others.wait().unwrap();
    }
}
