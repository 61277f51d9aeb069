//! A TCP relay between two network namespaces, for a node that is in one of its own while the API server is on this one's
//! loopback: it listens inside, at the API server's own address, so that certificates and kubeconfigs hold. The other way
//! round it brings the API server to the node's own API. And the place to put faults in between.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::netns::NetNs;

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Way {
    #[default]
    Open,
    /// New ones are closed at once, and those there are have been cut.
    Cut,
}

#[derive(Debug)]
pub struct Relay {
    state: Arc<Mutex<State>>,
    listen: SocketAddr,
    listener: Arc<TcpListener>,
}

#[derive(Debug, Default)]
struct State {
    way: Way,
    connections: Vec<TcpStream>,
    ended: bool,
}

impl Relay {
    /// Listens on `address` in the namespace and relays to `address` out here.
    pub fn start(namespace: &NetNs, address: SocketAddr) -> Result<Relay> {
        Relay::between(namespace.listen(address)?, move || TcpStream::connect(address))
    }

    /// The other way round: listens on a free port of 127.0.0.1 out here, and relays to the same port of 127.0.0.1 in the
    /// namespace.
    pub fn inward(namespace: &NetNs) -> Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let namespace = namespace.duplicate()?;
        Relay::between(listener, move || namespace.connect(address).map_err(io::Error::other))
    }

    fn between(
        listener: TcpListener,
        connect: impl Fn() -> io::Result<TcpStream> + Send + 'static,
    ) -> Result<Relay> {
        let listen = listener.local_addr()?;
        let listener = Arc::new(listener);
        let state = Arc::new(Mutex::new(State::default()));
        let (accepting, shared) = (Arc::clone(&listener), Arc::clone(&state));
        thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || accept(&accepting, &connect, &shared))
            .context("starting a thread")?;
        Ok(Relay { state, listen, listener })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// With [`Way::Cut`] all connections end now.
    pub fn set(&self, way: Way) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.way = way;
        if way == Way::Cut {
            state.cut();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ended = true;
        state.cut();
        drop(state);
        // What `accept` waits in returns with an error.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
    }
}

impl State {
    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            // Its peer may have closed it.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, connect: &dyn Fn() -> io::Result<TcpStream>, state: &Mutex<State>) {
    loop {
        let accepted = listener.accept();
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return;
        }
        let Ok((inside, _)) = accepted else { continue };
        if state.way == Way::Cut {
            continue;
        }
        // A server that is not there closes the connection, as it would be without a relay.
        let Ok(outside) = connect() else { continue };
        let kept = [inside.try_clone(), outside.try_clone()].into_iter().flatten();
        state.connections.extend(kept);
        let pairs = [(inside.try_clone(), outside.try_clone()), (Ok(outside), Ok(inside))];
        for (from, to) in pairs {
            if let (Ok(from), Ok(to)) = (from, to) {
                thread::spawn(move || copy(from, to));
            }
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    let mut all = || -> io::Result<()> {
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                n => to.write_all(&buffer[..n])?,
            }
        }
    };
    let ended = all();
    // The other direction may still have something to say after an orderly end.
    let how = if ended.is_ok() { Shutdown::Write } else { Shutdown::Both };
    let _ = to.shutdown(how);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_until_it_is_cut() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let namespace = NetNs::new().unwrap();
        let relay = Relay::start(&namespace, address).unwrap();
        let served = thread::spawn(move || {
            let (mut connection, _) = server.accept().unwrap();
            let mut said = [0; 4];
            connection.read_exact(&mut said).unwrap();
            connection.write_all(b"pong").unwrap();
            // Ends when it is cut.
            let mut rest = Vec::new();
            let _ = connection.read_to_end(&mut rest);
            said
        });
        let mut client = namespace.connect(address).unwrap();
        client.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"pong");
        relay.set(Way::Cut);
        assert_eq!(&served.join().unwrap(), b"ping");
        let mut again = namespace.connect(address).unwrap();
        assert_eq!(again.read(&mut answer).unwrap_or(0), 0, "closed at once");
    }
}
