//! `oomlet trace`: a line a record.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use super::{DEFAULT_ROOT_DIR, Output, print_line};
use crate::node_agent::trace_socket;
use crate::trace::render;
use crate::trace::wire::{self, WireError};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's root directory; its trace socket is below it.
    #[arg(long, default_value = DEFAULT_ROOT_DIR)]
    root_dir: PathBuf,
    /// Go on with what is to come.
    #[arg(long, short)]
    follow: bool,
    /// Leave out records up to this number.
    #[arg(long, default_value_t = 0)]
    after_seq: u64,
    /// `json` prints one JSON object a line.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("cannot print the trace: {0}")]
    Print(#[from] std::io::Error),
    #[error("a record cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// # Errors
/// When no agent answers or the output fails.
pub fn trace(args: &Args) -> Result<(), TraceError> {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut failed: Option<TraceError> = None;
    runtime.block_on(wire::watch(&trace_socket(&args.root_dir), args.after_seq, args.follow, |record| {
        let printed = match args.output {
            Output::Table => print_line(&render::line(&record, colour)).map_err(TraceError::from),
            Output::Json => serde_json::to_string(&record)
                .map_err(TraceError::from)
                .and_then(|line| print_line(&line).map_err(TraceError::from)),
        };
        printed.unwrap_or_else(|error| {
            failed = Some(error);
            false
        })
    }))?;
    failed.map_or(Ok(()), Err)
}
