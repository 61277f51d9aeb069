//! Callers that mean harm, on loopback, bounded in number: connections on which nothing is said, heads that come byte by
//! byte, frames that are too large, and answers that nobody reads.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process;

#[derive(Clone, Debug)]
pub struct Ports {
    pub api: u16,
    pub health: u16,
    pub read_only: u16,
}

impl Ports {
    /// That nobody listens on now.
    pub fn free() -> Result<Ports> {
        let held =
            (0..3).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
        let ports: Vec<u16> =
            held.iter().map(|socket| Ok(socket.local_addr()?.port())).collect::<Result<_>>()?;
        Ok(Ports { api: ports[0], health: ports[1], read_only: ports[2] })
    }
}

#[derive(Clone, Debug)]
pub struct Size {
    pub idle: usize,
    pub slow: usize,
    pub never_read: usize,
}

impl Default for Size {
    fn default() -> Size {
        Size { idle: 10_000, slow: 200, never_read: 100 }
    }
}

#[derive(Debug, Default)]
struct Made {
    idle_now: AtomicUsize,
    connections: AtomicUsize,
    oversized: AtomicUsize,
    unread: AtomicUsize,
}

/// Ends when it is told to, or dropped.
#[derive(Debug)]
pub struct Load {
    ends: Arc<AtomicBool>,
    made: Arc<Made>,
    threads: Vec<JoinHandle<()>>,
    idle: usize,
}

/// Between two steps of a thread: the load is to occupy the agent, not the CPU that both run on.
const PACE: Duration = Duration::from_millis(20);

fn connect(port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

/// The agent has closed it.
fn is_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 256]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

impl Load {
    pub fn start(ports: &Ports, size: &Size) -> Result<Load> {
        raise_open_files(size)?;
        let mut load = Load {
            ends: Arc::new(AtomicBool::new(false)),
            made: Arc::default(),
            threads: Vec::new(),
            idle: size.idle,
        };
        let (ports, size) = (ports.clone(), size.clone());
        let (api, read_only, health) = (ports.api, ports.read_only, ports.health);
        load.thread(move |it| it.idle(api, size.idle))?;
        load.thread(move |it| it.slow(&[api, read_only, health], size.slow))?;
        load.thread(move |it| it.oversized(&[api, read_only]))?;
        load.thread(move |it| it.never_read(read_only, size.never_read))?;
        Ok(load)
    }

    fn thread(&mut self, work: impl FnOnce(&Caller) + Send + 'static) -> Result<()> {
        let caller = Caller { ends: Arc::clone(&self.ends), made: Arc::clone(&self.made) };
        let thread = thread::Builder::new().spawn(move || work(&caller)).context("starting a thread")?;
        self.threads.push(thread);
        Ok(())
    }

    pub fn wait_built_up(&self, bound: Duration) -> Result<()> {
        // Some have been closed by the time that the last are there.
        let enough = self.idle * 8 / 10;
        let now = || self.made.idle_now.load(Ordering::Relaxed);
        ensure!(
            process::holds_within(bound, || now() >= enough),
            "only {} idle connections within {bound:?}",
            now()
        );
        Ok(())
    }

    /// What was done, in words.
    pub fn end(mut self) -> String {
        self.stop();
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let Made { idle_now, connections, oversized, unread } = &*self.made;
        format!(
            "{} idle connections at the end, {} made; {} oversized frames, {} requests whose answer nobody read",
            of(idle_now),
            of(connections),
            of(oversized),
            of(unread)
        )
    }

    fn stop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Caller {
    ends: Arc<AtomicBool>,
    made: Arc<Made>,
}

impl Caller {
    fn goes_on(&self) -> bool {
        thread::sleep(PACE);
        !self.ends.load(Ordering::Relaxed)
    }

    fn connect(&self, port: u16) -> Option<TcpStream> {
        let stream = connect(port)?;
        self.made.connections.fetch_add(1, Ordering::Relaxed);
        Some(stream)
    }

    fn idle(&self, port: u16, count: usize) {
        let mut held: Vec<TcpStream> = Vec::new();
        while self.goes_on() {
            held.retain(|stream| !is_closed(stream));
            let missing = count.saturating_sub(held.len()).min(200);
            held.extend((0..missing).filter_map(|_| self.connect(port)));
            self.made.idle_now.store(held.len(), Ordering::Relaxed);
        }
    }

    /// A byte each second or so: of a TLS record, or of a request's head.
    fn slow(&self, ports: &[u16], count: usize) {
        let mut held: Vec<(TcpStream, usize)> = Vec::new();
        let said = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        let head = b"GET /healthz HTTP/1.1\r\nHost: n\r\nX-Long: ";
        let mut turn = 0_usize;
        while self.goes_on() {
            turn += 1;
            held.retain(|(stream, _)| !is_closed(stream));
            while held.len() < count {
                let port = ports[held.len() % ports.len()];
                let Some(stream) = self.connect(port) else { break };
                held.push((stream, 0));
            }
            for (index, (stream, at)) in
                held.iter_mut().enumerate().filter(|(index, _)| index % 50 == turn % 50)
            {
                let text: &[u8] = if index % ports.len() == 0 { said } else { head };
                let byte = text.get(*at).copied().unwrap_or(b'x');
                *at += 1;
                let _ = stream.write(&[byte]);
            }
        }
    }

    fn oversized(&self, ports: &[u16]) {
        // A TLS record as long as none may be, a head without end, and SPDY where HTTP is expected.
        let record = [&b"\x16\x03\x01\xff\xff"[..], &[0x41; 65_535]].concat();
        let head = [&b"GET /"[..], &[b'x'; 300_000]].concat();
        let frame = [&b"\x80\x03\x00\x01\x01\xff\xff\xff"[..], &[0; 100_000]].concat();
        while self.goes_on() {
            for port in ports {
                for bytes in [&record, &head, &frame] {
                    let Some(mut stream) = self.connect(*port) else { continue };
                    let _ = stream.write(bytes);
                    self.made.oversized.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Request after request on one connection, until the agent takes no more.
    fn never_read(&self, port: u16, count: usize) {
        let mut held: Vec<TcpStream> = Vec::new();
        let requests = b"GET /pods HTTP/1.1\r\nHost: n\r\n\r\n".repeat(20);
        while self.goes_on() {
            while held.len() < count {
                let Some(stream) = self.connect(port) else { break };
                held.push(stream);
            }
            held.retain_mut(|stream| match stream.write(&requests) {
                Ok(_) => {
                    self.made.unread.fetch_add(20, Ordering::Relaxed);
                    true
                }
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            });
        }
    }
}

/// Asked as a service manager does.
pub fn is_healthy(ports: &Ports) -> Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports.health)).context("the health port")?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// The load's own end of each connection is a file of this process.
fn raise_open_files(size: &Size) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = (size.idle + size.slow + size.never_read + 1000) as u64;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        most >= wanted,
        "{wanted} open files are needed, and no more than {most} are allowed (ulimit -Hn)"
    );
    if limit.current.is_some_and(|now| now < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
            .context("raising the limit of open files")?;
    }
    Ok(())
}
