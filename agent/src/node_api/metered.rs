//! What callers make the agent hold before they have shown who they are. All bytes that come in on such connections are
//! counted together; where there are too many, the connection that brings more is closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Of all connections together: some 20,000 handshakes at once, or 600 requests with the longest heads.
pub const UNPROVEN_BYTES: usize = 64 << 20;

/// Bytes that unproven connections have sent.
#[derive(Debug, Default)]
pub struct Unproven {
    bytes: AtomicUsize,
}

/// Whether a connection's first request has been let in.
#[derive(Debug, Default)]
pub struct Proof {
    /// A request's head is there and is being looked at: that takes no longer than the API server's answer.
    asking: AtomicBool,
    given: AtomicBool,
}

impl Proof {
    pub fn asking(&self) {
        self.asking.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed)
    }

    pub fn give(&self) {
        self.given.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_given(&self) -> bool {
        self.given.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    /// What this connection has added to the sum.
    counted: usize,
    unproven: Arc<Unproven>,
    proof: Arc<Proof>,
}

impl<S> Metered<S> {
    #[must_use]
    pub fn new(inner: S, unproven: Arc<Unproven>, proof: Arc<Proof>) -> Metered<S> {
        Metered { inner, counted: 0, unproven, proof }
    }

    fn give_back(&mut self) {
        self.unproven.bytes.fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        if self.proof.is_given() {
            self.give_back();
            return Ok(());
        }
        self.counted += bytes;
        let sum = self.unproven.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if sum > UNPROVEN_BYTES {
            return Err(io::Error::other("too much from callers who have not shown who they are"));
        }
        Ok(())
    }
}

impl<S> Drop for Metered<S> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let read = buf.filled().len() - before;
                Poll::Ready(self.count(read))
            }
            other => other,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_counted_is_given_back() {
        let (unproven, proof) = (Arc::new(Unproven::default()), Arc::new(Proof::default()));
        let (mut here, there) = tokio::io::duplex(64);
        let mut metered = Metered::new(there, Arc::clone(&unproven), Arc::clone(&proof));
        let mut buf = [0; 8];
        here.write_all(b"12345678").await.unwrap();
        metered.read_exact(&mut buf).await.unwrap();
        assert_eq!(unproven.bytes.load(Ordering::Relaxed), 8);
        unproven.bytes.fetch_add(UNPROVEN_BYTES, Ordering::Relaxed);
        here.write_all(b"12345678").await.unwrap();
        assert!(metered.read_exact(&mut buf).await.is_err());
        proof.give();
        here.write_all(b"12345678").await.unwrap();
        metered.read_exact(&mut buf).await.unwrap();
        drop(metered);
        assert_eq!(unproven.bytes.load(Ordering::Relaxed), UNPROVEN_BYTES);
    }
}
