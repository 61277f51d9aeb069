//! Commands in a container.

use std::time::Duration;

use k8s_cri::v1 as cri;

use super::RuntimeClient;
use crate::cri::CriError;

/// Of a command that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecAnswer {
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl ExecAnswer {
    /// stdout, and stderr after it.
    #[must_use]
    pub fn output(&self) -> Vec<u8> {
        [self.stdout.as_slice(), &self.stderr].concat()
    }
}

impl From<cri::ExecSyncResponse> for ExecAnswer {
    fn from(r: cri::ExecSyncResponse) -> ExecAnswer {
        ExecAnswer { exit_code: r.exit_code, stdout: r.stdout, stderr: r.stderr }
    }
}

impl RuntimeClient {
    /// Runs a command in the container to its end. The runtime kills it after `timeout`, rounded up to seconds (all that CRI
    /// knows), and has `slack` to say so. Dropping the future has the runtime kill it.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer; [`tonic::Code::DeadlineExceeded`] when the command took too long.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
        slack: Duration,
    ) -> Result<ExecAnswer, CriError> {
        let timeout_s = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command,
            timeout: i64::try_from(timeout_s).unwrap_or(i64::MAX),
        };
        call!(self, "ExecSync", id, exec_sync, request, timeout + slack).map(ExecAnswer::from)
    }

    /// The same, however long it takes.
    ///
    /// # Errors
    /// When the runtime refuses or goes away.
    pub async fn exec_to_its_end(&self, id: &str, cmd: Vec<String>) -> Result<ExecAnswer, CriError> {
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 0 };
        call!(self, "ExecSync", id, exec_sync, request, Duration::MAX).map(ExecAnswer::from)
    }
}
