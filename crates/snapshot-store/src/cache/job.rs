//! Building a materialised image in the background, and hearing of its end.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use snapshot_format::SnapshotId;
use snapshot_memory::CaptureControl;

use super::build::WarmReport;
use crate::error::StoreError;
use crate::store::Store;

/// A materialised image that is to be built, by whoever has a thread for it.
#[derive(Debug)]
#[must_use = "nothing is built before it is run"]
pub struct WarmJob {
    store: Store,
    id: SnapshotId,
    control: CaptureControl,
    bells: Vec<Bell>,
}

/// The end of a job, as a descriptor for an event loop.
///
/// It becomes readable when the job has ended, in whatever way: done, failed, cancelled, in a panic,
/// or dropped before it was run. It stays readable. What came of the job is with whoever ran it: its
/// thread is about to end, or has.
#[derive(Debug)]
pub struct WarmEnd(PipeReader);

/// The other side of a [`WarmEnd`]: it rings when it is dropped.
#[derive(Debug)]
struct Bell(PipeWriter);

impl WarmJob {
    /// A job for `id` that reports to `control`.
    pub(super) fn new(store: Store, id: SnapshotId, control: CaptureControl) -> Self {
        Self {
            store,
            id,
            control,
            bells: Vec::new(),
        }
    }

    /// What becomes readable when this job has ended. Asked for before the job is given away.
    pub fn end(&mut self) -> io::Result<WarmEnd> {
        let (reader, writer) = io::pipe()?;
        self.bells.push(Bell(writer));
        Ok(WarmEnd(reader))
    }

    /// Builds the image, unless it is there, as [`Store::warm`] does.
    pub fn run(self) -> Result<WarmReport, StoreError> {
        self.store.warm(self.id, &self.control)
    }
}

impl AsFd for WarmEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<WarmEnd> for OwnedFd {
    fn from(end: WarmEnd) -> Self {
        end.0.into()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // A pipe that nobody writes to any more hangs up, which some loops do not take for readable.
        if let Err(error) = self.0.write_all(&[1]) {
            // Nobody listens any more.
            tracing::trace!(%error, "the end of a job is told to nobody");
        }
    }
}
