//! Choosing what carries out the writes of a file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::description::Description;
use super::flight::DirectQueue;
use super::plain::PlainWrites;
use super::queue::ALIGN_BYTES;
use super::ring::Ring;
use super::{DirectRefused, WriteQueue, alignment};
use crate::capture::Engine;

/// What is known of a file system and of the kernel, once the first file was looked at. Clones
/// share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe(Arc<OnceLock<Support>>);

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Support {
    files: Result<(), DirectRefused>,
    has_rings: bool,
}

impl Probe {
    /// What is known, found out with `file` where nothing is.
    fn support(&self, file: BorrowedFd<'_>) -> io::Result<Support> {
        if let Some(known) = self.0.get() {
            return Ok(*known);
        }
        let files = look_at(file)?;
        let ring = Ring::probe();
        if let Err(error) = &ring {
            tracing::info!(%error, "no io_uring: direct writes go one at a time");
        }
        let found = Support {
            files,
            has_rings: ring.is_ok(),
        };
        // A kernel that is short of something now may not be so later.
        if ring.map_or_else(|error| is_final(&error), |()| true) {
            return Ok(*self.0.get_or_init(|| found));
        }
        Ok(found)
    }
}

/// A queue that writes to `file` past the page cache, with so many buffers. Until it is dropped
/// *all* writes to the file description go that way.
pub(crate) fn open<'m>(
    file: BorrowedFd<'_>,
    probe: &Probe,
    buffers: usize,
) -> io::Result<Box<dyn WriteQueue<'m> + 'm>> {
    let support = probe.support(file)?;
    support.files?;
    let direct = Description::of(file)?;
    if let Err(error) = direct.set_direct(true) {
        tracing::debug!(%error, "no direct writes to this file");
        return Err(DirectRefused::NotTaken.into());
    }
    if support.has_rings {
        match Ring::new(Description::of(file)?) {
            Ok(ring) => return Ok(Box::new(DirectQueue::new(ring, Engine::Direct, buffers))),
            Err(error) => tracing::info!(%error, "no io_uring: direct writes go one at a time"),
        }
    }
    let plain = PlainWrites::new(direct);
    Ok(Box::new(DirectQueue::new(
        plain,
        Engine::DirectSync,
        buffers,
    )))
}

/// Whether files like `file` take direct writes of pages.
fn look_at(file: BorrowedFd<'_>) -> io::Result<Result<(), DirectRefused>> {
    // tmpfs takes the flag since Linux 6.6, and then writes as ever.
    if fstatfs(file)?.filesystem_type() == TMPFS_MAGIC {
        return Ok(Err(DirectRefused::NoDevice));
    }
    // Where it is not said, the first write tells.
    let demand = alignment::of(file.as_fd()).ok().flatten();
    Ok(
        match demand.map(|it| it.memory_bytes.max(it.offset_bytes)) {
            Some(0) => Err(DirectRefused::NotTaken),
            Some(bytes) if bytes as usize > ALIGN_BYTES => Err(DirectRefused::LargeBlocks),
            _ => Ok(()),
        },
    )
}

/// Whether an error of setting up a ring will come again.
fn is_final(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(errno) => matches!(
            errno,
            libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP
        ),
        None => true,
    }
}

#[cfg(test)]
mod tests;
