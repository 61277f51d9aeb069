//! How many nodes there are at a time, on the whole machine: several test binaries may run side by side, and tests
//! that wait for a CPU measure nothing but that.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

/// A node's place, free again when this is dropped, or when its process ends in whatever way: it is an abstract
/// socket, which the kernel lets one process bind at a time.
#[derive(Debug)]
pub struct Slot(#[allow(dead_code, reason = "held, not used")] UnixListener);

impl Slot {
    /// Waits for its turn, without a bound: the test runner tells of tests that take long.
    #[must_use]
    pub fn take() -> Slot {
        let slots = std::thread::available_parallelism().map_or(1, usize::from) + 1;
        loop {
            for slot in 0..slots {
                let address = SocketAddr::from_abstract_name(format!("oomlet-tests/slot/{slot}")).unwrap();
                if let Ok(bound) = UnixListener::bind_addr(&address) {
                    return Slot(bound);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
