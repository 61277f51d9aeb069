//! Files of the kernel that are kept open and read from their start again and again.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::CgroupError;

pub(super) fn open(path: &Path) -> Result<OwnedFd, CgroupError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| CgroupError::io("open", path, e))
}

/// One `pread` from the start makes the kernel write the file anew. These are single-record seq_files, which
/// hand over the whole text at once if the buffer holds it; a text that fills the buffer goes on beyond it.
///
/// # Errors
/// EOVERFLOW for such a text; what the kernel says.
pub(super) fn read_all<'b>(fd: &OwnedFd, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let length = loop {
        match rustix::io::pread(fd, &mut *buffer, 0) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    if length == buffer.len() {
        return Err(io::Error::from(Errno::OVERFLOW));
    }
    Ok(&buffer[..length])
}
