//! `grpc`: the standard health protocol, `grpc.health.v1`, without TLS (pkg/probe/grpc).

use std::time::Duration;

use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{USER_AGENT, authority, cause, seconds};
use oomlet_core::pod::probe::ProbeOutcome;

pub(super) async fn ask(host: &str, port: u16, service: &str, timeout: Duration) -> ProbeOutcome {
    let address = authority(host, port);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).and_then(|e| e.user_agent(USER_AGENT));
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => return ProbeOutcome::Error(format!("{address} is no address: {}", cause(&error))),
    };
    let answer = async {
        let channel = endpoint.connect().await.map_err(|error| {
            ProbeOutcome::Failure(format!(
                "error: failed to connect service at {address:?}: {}",
                cause(&error)
            ))
        })?;
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(channel).check(request).await.map_err(|status| match status.code() {
            Code::Unimplemented => ProbeOutcome::Failure(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            )),
            Code::DeadlineExceeded => too_late(timeout),
            code => ProbeOutcome::Failure(format!(
                "error: health rpc probe failed: rpc error: code = {code:?} desc = {}",
                status.message()
            )),
        })
    };
    // Dropping it closes the connection.
    match tokio::time::timeout(timeout, answer).await {
        Err(_) => too_late(timeout),
        Ok(Err(outcome)) => outcome,
        Ok(Ok(response)) => match response.into_inner().status() {
            ServingStatus::Serving => ProbeOutcome::Success,
            other => {
                ProbeOutcome::Failure(format!("service unhealthy (responded with {:?})", other.as_str_name()))
            }
        },
    }
}

fn too_late(timeout: Duration) -> ProbeOutcome {
    ProbeOutcome::Failure(format!("timeout: health rpc did not complete within {}", seconds(timeout)))
}
