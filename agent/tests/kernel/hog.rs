//! The process that is driven into its limit.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

/// A shell that waits for a line, then pipes 64 MiB through `tail`, which keeps it all: there is no newline in it.
pub struct Hog(pub Child);

impl Hog {
    pub fn ready() -> Hog {
        let child = Command::new("sh")
            .args(["-c", "read go; head -c 67108864 /dev/zero | tail >/dev/null"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start sh");
        Hog(child)
    }

    /// A shell that the OOM killer prefers to every other process. It says so of itself: a process that was just spawned
    /// shares the memory of this one until its exec is through, and what is written for it from here in that moment holds
    /// for both.
    pub fn first_to_be_chosen() -> Hog {
        let mut child = Command::new("sh")
            .args(["-c", "echo 1000 >/proc/self/oom_score_adj && echo chosen; read go"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start sh");
        let stdout = child.stdout.take().expect("piped");
        let hog = Hog(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("sh can be read");
        assert_eq!(line.trim(), "chosen", "sh may raise its own oom_score_adj");
        hog
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn go(&mut self) {
        let stdin = self.0.stdin.as_mut().expect("piped");
        stdin.write_all(b"\n").expect("the shell waits for this line");
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
