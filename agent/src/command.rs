//! The subcommands of `oomlet`, one a module: flags in, text out.

pub mod check;
pub mod logs;
pub mod pods;
pub mod release_brakes;
pub mod run;
pub mod trace;

use clap::ValueEnum;

/// `--output` of commands that print for people or for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For machines.
    Json,
}

/// kubelet's `--root-dir`.
pub const DEFAULT_ROOT_DIR: &str = "/var/lib/kubelet";

/// A broken pipe (`oomlet trace | head`) ends a command quietly; anything else is an error.
fn print_line(line: &str) -> Result<bool, std::io::Error> {
    use std::io::Write as _;
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e),
    }
}
