//! A proxy before a container runtime's socket. Every call of the CRI passes through as it came, streams too; those that
//! change something are written down, one JSON object a line, in the order in which they are answered:
//! `{"at": 3, "until": 5, "call": "CreateContainer", "request": {…}, "answer": {…}, "error": "…"}`. `at` counts calls as they
//! came; those from there to before `until` came while this one was under way.
//!
//! Ends with its stdin, so that it never outlives who started it.

mod decode;
mod forward;
mod record;

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lexopt::prelude::*;
use tokio::net::UnixListener;

use forward::Forward;
use record::Record;

const USAGE: &str = "oomlet-cri-recorder --listen SOCKET --runtime SOCKET --record FILE";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oomlet-cri-recorder: {error:#}\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut listen, mut runtime, mut record) = (None, None, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        let place = match argument {
            Long("listen") => &mut listen,
            Long("runtime") => &mut runtime,
            Long("record") => &mut record,
            other => return Err(other.unexpected().into()),
        };
        *place = Some(PathBuf::from(arguments.value()?));
    }
    let listen = listen.context("--listen is missing")?;
    let runtime = runtime.context("--runtime is missing")?;
    let record = Record::create(&record.context("--record is missing")?)?;
    std::thread::spawn(|| {
        // Whatever comes is not for us; an end of any kind is.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    tokio::runtime::Runtime::new().context("starting a runtime of tokio's")?.block_on(async move {
        let forward = Arc::new(Forward::to(&runtime, record)?);
        let listener =
            UnixListener::bind(&listen).with_context(|| format!("listening on {}", listen.display()))?;
        loop {
            let (stream, _) = listener.accept().await.context("waiting for a connection")?;
            let forward = Arc::clone(&forward);
            tokio::spawn(async move {
                let service = service_fn(move |request| Arc::clone(&forward).call(request));
                let served = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                // A client that goes is nothing to tell.
                drop(served);
            });
        }
    })
}
