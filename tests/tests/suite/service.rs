//! The agent as a service of systemd's kind: what it tells the service manager, by a socket of the test's own.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use oomlet_tests::newest;
use oomlet_tests::node::{Node, soon};
use rustix::process::{Pid, Signal, kill_process};
use xtask::node::manifest::pod as workload;

const WATCHDOG: Duration = Duration::from_secs(2);

/// Where systemd listens.
struct Manager(UnixDatagram);

impl Manager {
    /// For the node's agent, from its next start on.
    fn of(node: &mut Node) -> Manager {
        let path = node.scratch().path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        node.set_environment("NOTIFY_SOCKET", path.to_str().unwrap());
        node.set_environment("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string());
        Manager(socket)
    }

    /// The next message; `None` when there is none within `bound`.
    fn next(&self, bound: Duration) -> Option<String> {
        // Zero would mean to wait for ever.
        self.0.set_read_timeout(Some(bound.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 1024];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    #[track_caller]
    fn wait(&self, line: &str) -> String {
        let end = Instant::now() + soon();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.next(left).unwrap_or_else(|| panic!("no {line} within {:?}", soon()));
            if message.lines().any(|l| l == line) {
                return message;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_of_start_life_and_end() {
    let mut node = Node::new("service", newest());
    let manager = Manager::of(&mut node);
    node.put(&workload("pod", "idle", &[]));
    let started = node.start();
    let ready = manager.wait("READY=1");
    assert!(ready.contains(&format!("STATUS={}", started.message)), "{ready}");

    // With nothing to do as well: systemd would end an agent that is quiet for longer.
    node.wait_up(&["pod"]);
    let pod = node.the_container_of("pod");
    manager.wait("WATCHDOG=1");
    for _ in 0..4 {
        assert_eq!(manager.next(WATCHDOG).as_deref(), Some("WATCHDOG=1\n"));
    }

    // One that stands still is quiet, and goes on where it was.
    let agent = Pid::from_raw(node.agent.as_ref().unwrap().pid().cast_signed()).unwrap();
    kill_process(agent, Signal::STOP).unwrap();
    while manager.next(Duration::from_millis(200)).is_some() {}
    assert_eq!(manager.next(WATCHDOG * 2), None);
    kill_process(agent, Signal::CONT).unwrap();
    manager.wait("WATCHDOG=1");

    let status = node.agent.as_mut().unwrap().terminate(soon()).unwrap();
    assert!(status.success(), "{status}");
    manager.wait("STOPPING=1");
    assert_eq!(manager.next(Duration::ZERO), None, "nothing is said after that");
    assert_eq!(node.the_container_of("pod"), pod, "it lives on");
}
