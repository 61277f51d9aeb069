//! systemd's own socket, as zbus can read it. Nobody gives out unique names there, and systemd signs what it says with
//! its well-known one; zbus 5 takes every sender for a unique name and panics at that. The name is replaced by a unique
//! one of the same length on its way in.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use async_io::Async;
use zbus::connection::socket::{ReadHalf, Socket, Split};
use zbus::export::async_trait::async_trait;
use zbus::fdo::ConnectionCredentials;

/// Of a message's header: field 7, SENDER, a variant with a string of 24 bytes (the D-Bus specification, "Header
/// Fields"). systemd writes in the machine's byte order.
const BEFORE: [u8; 8] = {
    let length = (FOUND.len() as u32).to_ne_bytes();
    [7, 1, b's', 0, length[0], length[1], length[2], length[3]]
};
const FOUND: &[u8] = b"org.freedesktop.systemd1";
const INSTEAD: &[u8; FOUND.len()] = b":1.systemd1.without.a.bu";

#[derive(Debug)]
pub(super) struct PrivateSocket(Async<UnixStream>);

impl PrivateSocket {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Async::new(stream).map(PrivateSocket)
    }
}

impl Socket for PrivateSocket {
    type ReadHalf = Reader;
    type WriteHalf = Arc<Async<UnixStream>>;

    fn split(self) -> Split<Self::ReadHalf, Self::WriteHalf> {
        let (stream, write) = self.0.split().take();
        Split::new(Reader { stream, sender: Rewrite::default() }, write)
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    stream: Arc<Async<UnixStream>>,
    sender: Rewrite,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let (length, fds) = self.stream.recvmsg(buf).await?;
        self.sender.pass(&mut buf[..length]);
        Ok((length, fds))
    }

    fn can_pass_unix_fd(&self) -> bool {
        self.stream.can_pass_unix_fd()
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        ReadHalf::peer_credentials(&mut self.stream).await
    }
}

/// How far into [`BEFORE`] and then the name the stream is: a read may end anywhere.
#[derive(Debug, Default)]
struct Rewrite {
    matched: usize,
}

impl Rewrite {
    fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            match self.matched.checked_sub(BEFORE.len()) {
                None if *byte == BEFORE[self.matched] => self.matched += 1,
                // 7 begins what is looked for and is nowhere else in it.
                None => self.matched = usize::from(*byte == BEFORE[0]),
                Some(at) if *byte == FOUND[at] => {
                    *byte = INSTEAD[at];
                    self.matched = (self.matched + 1) % (BEFORE.len() + FOUND.len());
                }
                Some(_) => self.matched = 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_sender_is_replaced_and_nothing_else() {
        let sender = |name: &[u8]| [b"x\x07\x07", &BEFORE[1..], name, b"\0rest"].concat();
        let elsewhere = [b"\x06\x01s\0", &BEFORE[4..], FOUND].concat();
        for (said, expected) in [
            (sender(FOUND), sender(INSTEAD)),
            ([sender(FOUND), sender(FOUND)].concat(), [sender(INSTEAD), sender(INSTEAD)].concat()),
            (sender(b":1.55"), sender(b":1.55")),
            (elsewhere.clone(), elsewhere),
        ] {
            // However the stream is cut into reads.
            for size in 1..=said.len() {
                let (mut bytes, mut rewrite) = (said.clone(), Rewrite::default());
                bytes.chunks_mut(size).for_each(|chunk| rewrite.pass(chunk));
                assert_eq!(bytes, expected, "reads of {size}");
            }
        }
    }

    #[test]
    fn the_replacement_is_a_unique_name() {
        let name = std::str::from_utf8(INSTEAD).unwrap();
        assert!(zbus::names::UniqueName::try_from(name).is_ok(), "{name}");
    }
}
