//! `tcpSocket`: somebody accepts a connection (pkg/probe/tcp).

use std::time::Duration;

use tokio::net::TcpStream;

use super::{authority, cause};
use oomlet_core::pod::probe::ProbeOutcome;

pub(super) async fn ask(host: &str, port: u16, timeout: Duration) -> ProbeOutcome {
    let address = authority(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => ProbeOutcome::Success,
        Ok(Err(error)) => ProbeOutcome::Failure(format!("dial tcp {address}: connect: {}", cause(&error))),
        Err(_) => ProbeOutcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}
