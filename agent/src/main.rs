//! `oomlet`: the command line.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use oomlet::command::{check, logs, pods, release_brakes, run, trace};
use oomlet::kernel::heap;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Debug, Parser)]
#[command(name = "oomlet", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node agent.
    Run(Box<run::Args>),
    /// Say what this node offers: eBPF tier and programs, cgroups, PSI, capabilities, the container runtime.
    Check(check::Args),
    /// Show what a container has written, also while the agent is down.
    Logs(logs::Args),
    /// Show the pods of this node and their status, also while the agent is down.
    Pods(pods::Args),
    /// Let go of pods that an agent has held and is not there to let go of. The unit runs it after the service.
    ReleaseBrakes(release_brakes::Args),
    /// Show what the agent saw, decided and did, and why.
    Trace(trace::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(words(std::env::args_os().collect()));
    match execute(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("oomlet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Called `kubelet`, it is `oomlet run`; that takes flags as kubelet does.
fn words(mut words: Vec<OsString>) -> Vec<OsString> {
    let name = words.first().and_then(|word| Path::new(word).file_name());
    if name.is_some_and(|name| name == "kubelet") {
        words.splice(0..1, ["oomlet".into(), "run".into()]);
    }
    if words.get(1).is_some_and(|command| command == "run") {
        words = words.into_iter().map(run::with_hyphens).collect();
    }
    words
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => {
            if run::version(&args)? {
                return Ok(ExitCode::SUCCESS);
            }
            heap::keep_little();
            // Dropped last: what is still on its way to standard error is written then.
            let _logs = init_tracing(args.verbosity())?;
            run::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(args) => Ok(if check::check(&args)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Command::Logs(args) => {
            logs::logs(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Pods(args) => {
            pods::pods(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::ReleaseBrakes(args) => {
            release_brakes::release_brakes(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Trace(args) => {
            trace::trace(&args)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// kube's client writes whole answers of the API server that it cannot read, and a Secret or token may be in one. Whatever
/// `RUST_LOG` says, those lines are dropped; the error itself is told by whoever asked.
fn shows_no_secret(meta: &tracing::Metadata<'_>) -> bool {
    meta.target() != "kube_client::client"
}

/// `RUST_LOG` wins over `--v`. Logs go to standard error, as kubelet's do, by a thread of their own: a reader that stalls
/// costs log lines, never a decision.
fn init_tracing(verbosity: u8) -> anyhow::Result<WorkerGuard> {
    let default = match verbosity {
        // The watcher warns of each refusal; a node meets many of those while namespaces go, and they are normal.
        0..=2 => "info,kube_client=off,kube_runtime::watcher=off",
        3..=5 => "info,oomlet=debug,kube_client=off,kube_runtime::watcher=off",
        _ => "info,oomlet=trace,kube_runtime::watcher=off",
    };
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) => {
            EnvFilter::try_new(&text).with_context(|| format!("RUST_LOG={text:?} is not a log filter"))?
        }
        Err(_) => EnvFilter::new(default),
    };
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_filter(filter_fn(shows_no_secret));
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(guard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn called_kubelet_it_runs() {
        let words = |line: &[&str]| words(line.iter().map(OsString::from).collect());
        assert_eq!(words(&["/usr/bin/kubelet", "--v=2"]), ["oomlet", "run", "--v=2"]);
        assert_eq!(words(&["kubelet"]), ["oomlet", "run"]);
        assert_eq!(words(&["/usr/bin/oomlet", "kubelet"]), ["/usr/bin/oomlet", "kubelet"]);
        assert!(matches!(Cli::parse_from(words(&["kubelet", "--version"])).command, Command::Run(_)));
    }
}
