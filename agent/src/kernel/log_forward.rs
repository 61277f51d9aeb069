//! Carries the eBPF programs' own log lines (aya-log) into `tracing`.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

const TARGET: &str = "oomlet::ebpf";

/// aya-log speaks to the `log` crate; this is its receiving end.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let message = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: TARGET, "{message}"),
            log::Level::Warn => tracing::warn!(target: TARGET, "{message}"),
            log::Level::Info => tracing::info!(target: TARGET, "{message}"),
            log::Level::Debug => tracing::debug!(target: TARGET, "{message}"),
            log::Level::Trace => tracing::trace!(target: TARGET, "{message}"),
        }
    }

    fn flush(&self) {}
}

/// Starts the task that reads the log map. Needs a tokio runtime.
pub(super) fn spawn(ebpf: &mut Ebpf) -> io::Result<JoinHandle<()>> {
    let logger = EbpfLogger::init_with_logger(ebpf, ToTracing).map_err(io::Error::other)?;
    // SAFETY: the map's descriptor belongs to the logger, which the AsyncFd owns from here on and which
    // never swaps or closes it while it lives.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = registered.map_err(|error| error.into_parts().1)?;
    Ok(tokio::spawn(async move {
        loop {
            // Lines from before the task began are there already.
            logger.get_mut().flush();
            match logger.readable().await {
                Ok(mut guard) => guard.clear_ready(),
                Err(error) => {
                    tracing::warn!(%error, "the eBPF programs' log lines are no longer read");
                    return;
                }
            }
        }
    }))
}
