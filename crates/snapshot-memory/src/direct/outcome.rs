//! What follows from a write that is done, or was not.

use std::io;

use super::queue::ALIGN_BYTES;
use super::{Completion, Write};

/// A write that came back so often without a byte written has failed.
const MAX_IDLE_STARTS: u32 = 256;

/// What follows from a completion.
#[derive(Debug)]
pub(super) enum Outcome<'m> {
    /// All is written.
    Done(Write<'m>),
    /// The rest is to be started again as it is.
    Again(Write<'m>),
    /// The rest can only be written through the page cache.
    Refused(Write<'m>),
    /// It failed.
    Failed(io::Error),
}

impl<'m> Outcome<'m> {
    /// What follows from `completion`.
    pub(super) fn of(completion: Completion<'m>) -> Self {
        let Completion { mut write, result } = completion;
        match result {
            // A write of nothing is what a full device may answer.
            Ok(0) => Self::Failed(io::Error::from_raw_os_error(libc::ENOSPC)),
            Ok(written) if written >= write.len_bytes() => {
                write.advance(written);
                Self::Done(write)
            }
            Ok(written) => {
                write.advance(written);
                write.idle_starts = 0;
                if write.is_direct && !written.is_multiple_of(ALIGN_BYTES) {
                    Self::Refused(write)
                } else {
                    Self::Again(write)
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINVAL | libc::EOPNOTSUPP) if write.is_direct => Self::Refused(write),
                // ECANCELED: nobody cancels here, but the thread that started the write has ended.
                Some(libc::EINTR | libc::EAGAIN | libc::ECANCELED)
                    if write.idle_starts < MAX_IDLE_STARTS =>
                {
                    write.idle_starts += 1;
                    Self::Again(write)
                }
                _ => Self::Failed(error),
            },
        }
    }
}

#[cfg(test)]
mod tests;
