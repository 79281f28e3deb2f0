//! What was read last and costs more to read again than to keep: a decoded frame, a checked unit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use snapshot_format::{GuestPage, IndexLeaf, PageRange};

use super::data_file::DataFile;
use super::error::ImageError;
use super::framed::DecodedFrame;

/// What the data files of one image have in common.
#[derive(Debug, Default)]
pub(super) struct Spares {
    pub(super) frame: Spare<DecodedFrame>,
    pub(super) unit: Spare<CheckedUnit>,
}

/// What the last reader left for the next.
///
/// A reader takes it out and puts it back; where another has it, the reader starts with an empty
/// one. So there are as many as readers at one time, and one stays.
#[derive(Debug, Default)]
pub(super) struct Spare<T> {
    last: Mutex<Option<T>>,
}

/// A unit of a data file that was read whole and compared with its digest: 64 KiB.
#[derive(Debug, Default)]
pub(super) struct CheckedUnit {
    /// Which it is: number of the data file, and its place there.
    held: Option<(u16, u64)>,
    bytes: Vec<u8>,
}

impl<T: Default> Spare<T> {
    pub(super) fn take(&self) -> T {
        self.lock().take().unwrap_or_default()
    }

    pub(super) fn put(&self, spare: T) {
        *self.lock() = Some(spare);
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        // What is in it is whole at any time.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckedUnit {
    /// The bytes of the unit of a present page, read and checked unless it was the last one; and
    /// its pages in the layout of `file`.
    pub(super) fn bytes(
        &mut self,
        file: &DataFile,
        leaf: &IndexLeaf,
        page: GuestPage,
    ) -> Result<(PageRange, &[u8]), ImageError> {
        let (unit, offset) = file.held_unit(leaf, page)?;
        let wanted = Some((file.root.file, offset));
        if self.held != wanted {
            self.held = None;
            file.read_unit(leaf, page, &mut self.bytes)?;
            self.held = wanted;
        }
        Ok((unit, &self.bytes))
    }
}
