//! The process that is driven into its limit.

use std::io::Write as _;
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
