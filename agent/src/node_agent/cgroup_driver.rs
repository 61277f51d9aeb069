//! Which cgroup driver the node uses. Agent and runtime must agree, or a pod's containers end up outside of its cgroup.

use crate::cgroup::DriverKind;
use crate::cri::{CriError, RuntimeClient};
use oomlet_core::config;

impl From<config::CgroupDriver> for DriverKind {
    fn from(driver: config::CgroupDriver) -> DriverKind {
        match driver {
            config::CgroupDriver::Cgroupfs => DriverKind::Cgroupfs,
            config::CgroupDriver::Systemd => DriverKind::Systemd,
        }
    }
}

/// The runtime's, where it tells (containerd 2, CRI-O 1.28): kubelet's KubeletCgroupDriverFromCRI. Else the configured one.
///
/// # Errors
/// When the runtime does not answer.
pub async fn choose(
    configured: config::CgroupDriver,
    runtime: &RuntimeClient,
) -> Result<DriverKind, CriError> {
    let configured = DriverKind::from(configured);
    let Some(told) = runtime.cgroup_driver().await? else {
        tracing::info!(
            driver = configured.as_str(),
            "cgroup driver of the configuration: the runtime does not tell its own"
        );
        return Ok(configured);
    };
    if told == configured {
        tracing::info!(driver = told.as_str(), "cgroup driver");
    } else {
        tracing::warn!(
            driver = told.as_str(),
            configured = configured.as_str(),
            "the runtime uses another cgroup driver than `cgroupDriver` says: using the runtime's"
        );
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use k8s_cri::v1 as cri;

    use super::*;
    use crate::cri::Connection;
    use crate::cri::connection::DEFAULT_REQUEST_TIMEOUT;
    use crate::cri::fake::FakeRuntime;

    #[tokio::test]
    async fn the_runtime_has_the_last_word() {
        use config::CgroupDriver::{Cgroupfs, Systemd};
        for (configured, told, expected) in [
            (Cgroupfs, None, DriverKind::Cgroupfs),
            (Systemd, None, DriverKind::Systemd),
            (Cgroupfs, Some(cri::CgroupDriver::Systemd), DriverKind::Systemd),
            (Systemd, Some(cri::CgroupDriver::Systemd), DriverKind::Systemd),
            (Systemd, Some(cri::CgroupDriver::Cgroupfs), DriverKind::Cgroupfs),
        ] {
            let fake = FakeRuntime::start();
            fake.state().cgroup_driver = told;
            let connection = Connection::open(&fake.endpoint(), DEFAULT_REQUEST_TIMEOUT).unwrap();
            let chosen = choose(configured, &RuntimeClient::new(&connection)).await.unwrap();
            assert_eq!(chosen, expected, "{configured:?}, told {told:?}");
        }
    }
}
