//! A working set that is open: its index checked, its data still to be read.

use snapshot_format::{
    FileKind, MemoryLayout, SectionKind, SnapshotRef, WorkingSetIndex, WorkingSetView,
};

use super::error::WorkingSetError;
use crate::backend::ReadFile;
use crate::envelope_file::EnvelopeFile;
use crate::image::ImageError;

/// The working set of a snapshot.
///
/// Opening it reads and checks the index, about 12 bytes a page at most; bytes of pages are read
/// when it is [replayed](Self::replay), and checked before they are put anywhere.
#[derive(Debug)]
pub struct WorkingSet {
    pub(super) file: EnvelopeFile,
    pub(super) index: WorkingSetIndex,
}

impl WorkingSet {
    /// Opens the working set of `snapshot`; `name` stands for the file in errors.
    ///
    /// Whoever has a placement compares its digest with [`EnvelopeFile::digest`] first, and then
    /// uses [`from_file`](Self::from_file).
    pub fn open(
        file: Box<dyn ReadFile>,
        name: &str,
        snapshot: SnapshotRef,
        layout: &MemoryLayout,
    ) -> Result<Self, WorkingSetError> {
        let opened = EnvelopeFile::open(file, name.to_owned(), FileKind::WorkingSet);
        let file = opened.map_err(|error| image_error(name, error))?;
        Self::from_file(file, snapshot, layout)
    }

    /// The working set of `snapshot`, whose memory is `layout`, in an open file.
    pub fn from_file(
        file: EnvelopeFile,
        snapshot: SnapshotRef,
        layout: &MemoryLayout,
    ) -> Result<Self, WorkingSetError> {
        let name = file.name();
        let section = file.section(SectionKind::WORKING_SET, 0);
        let section = section.map_err(|error| image_error(name, error))?;
        let index = WorkingSetIndex::parse(file.header(), file.table(), &section);
        let index = index.map_err(WorkingSetError::damaged(name))?;
        if file.header().id != snapshot.id || index.manifest != snapshot.digest {
            return Err(WorkingSetError::OtherSnapshot {
                file: name.to_owned(),
                expected: snapshot.id,
                found: file.header().id,
            });
        }
        if index.page_count != layout.page_count() {
            return Err(WorkingSetError::PageCount {
                expected: layout.page_count(),
                found: index.page_count,
            });
        }
        Ok(Self { file, index })
    }

    /// Which pages, in which order.
    #[must_use]
    pub fn index(&self) -> &WorkingSetIndex {
        &self.index
    }

    /// What there is of it, in numbers.
    #[must_use]
    pub fn view(&self) -> WorkingSetView {
        WorkingSetView::of(&self.index)
    }
}

/// A failure of the file, in the words of this folder.
fn image_error(name: &str, error: ImageError) -> WorkingSetError {
    match error {
        ImageError::File {
            operation,
            file,
            source,
        } => WorkingSetError::File {
            operation,
            file,
            source,
        },
        ImageError::Map { file, source } => WorkingSetError::Damaged { file, source },
        other => WorkingSetError::File {
            operation: "read",
            file: name.to_owned(),
            source: std::io::Error::other(other),
        },
    }
}

#[cfg(test)]
mod tests;
