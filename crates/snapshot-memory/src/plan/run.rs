//! Doing what a plan says.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::Serialize;
use snapshot_format::PageRange;

use super::background::BackgroundCheck;
use super::check::{Mapped, MappedFiles, RawImage};
use super::fill::{FillError, FillOptions, fill_memory};
use super::mappings::{FileRun, MAX_MAPPINGS, Mappable};
use super::method::{MappedFrom, RestoreMethod};
use super::restore_plan::{CheckedBy, RestorePlan};
use super::sealed::SealedMemory;
use crate::capture::Cancel;
use crate::image::{ImageError, MemoryImage};
use crate::mapping::MappedMemory;
use crate::restore::{MemoryFailure, MemoryReporter, Verification};
use crate::source::GuestMemorySource;

/// What a plan works on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreFrom {
    /// The memory of the snapshot. Whoever opened it keeps its files from being deleted.
    pub image: Arc<MemoryImage>,
    /// The raw image in the cache, where the plan was made with one.
    pub raw: Option<RawImage>,
    /// The memfd of this snapshot that guests share, filled already; a plan that needs one makes it
    /// where there is none.
    pub sealed: Option<Arc<SealedMemory>>,
    /// Who is told of memory that is lost once the guest runs.
    pub events: MemoryReporter,
    /// Breaks off what runs before the guest does.
    pub cancel: Cancel,
}

/// Memory that is in place, and what has to live as long as it is used.
#[derive(Debug)]
#[must_use = "dropping it drops what brings pages of a running guest"]
pub struct RestoredMemory {
    /// What was done.
    pub report: MemoryReport,
    /// The check that the plan promises, to be run beside the guest; of
    /// [`Verification::Background`] only.
    pub check: Option<BackgroundCheck>,
    /// The memfd that other guests of the snapshot can be restored from.
    pub sealed: Option<Arc<SealedMemory>>,
}

/// What was done to bring memory back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct MemoryReport {
    /// How memory was put in place.
    pub method: RestoreMethod,
    /// When its pages are checked.
    pub verification: Verification,
    /// What checks them.
    pub checked_by: CheckedBy,
    /// Bytes that were read and checked before the guest may run.
    pub checked_bytes: u64,
    /// Bytes that were copied to memory of this guest, or to a memfd that guests share.
    pub copied_bytes: u64,
}

/// Memory could not be put in place: the machine must not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreMemoryError {
    /// The snapshot cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Memory could not be filled.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// The memfd that guests share could not be made.
    #[error(transparent)]
    Sealed(#[from] super::sealed::SealedError),
    /// A file could not be mapped.
    #[error("map {file} at page {page} of the guest")]
    Map {
        /// The file.
        file: String,
        /// The first page of the run.
        page: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is reached through something that has no descriptor.
    #[error("{file} has no descriptor to be mapped; plan to read it instead")]
    NoDescriptor {
        /// The file.
        file: String,
    },
    /// A file is not what the snapshot holds.
    #[error(transparent)]
    Damaged(Box<MemoryFailure>),
    /// Something that the plan needs was not given.
    #[error("the plan needs {what}")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// The plan was made for another snapshot, or of facts that no longer hold.
    #[error("the plan does not fit the snapshot: {what}; make it anew")]
    Stale {
        /// What does not fit.
        what: &'static str,
    },
    /// The memory is of another layout than the snapshot.
    #[error("the memory has another layout than the snapshot")]
    LayoutDiffers,
}

impl RestoreFrom {
    /// The memory of a snapshot, whose lost pages are told to `events`.
    #[must_use]
    pub fn new(image: Arc<MemoryImage>, events: MemoryReporter) -> Self {
        Self {
            image,
            raw: None,
            sealed: None,
            events,
            cancel: Cancel::default(),
        }
    }

    /// The same, with a raw image in the cache.
    #[must_use]
    pub fn raw(mut self, raw: RawImage) -> Self {
        self.raw = Some(raw);
        self
    }

    /// The same, with the memfd that was filled for another guest of the snapshot.
    #[must_use]
    pub fn sealed(mut self, sealed: Arc<SealedMemory>) -> Self {
        self.sealed = Some(sealed);
        self
    }

    /// The same, with a flag that breaks it off.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }
}

impl RestorePlan {
    /// Brings the snapshot to `memory`, which is fresh: zero, and nobody runs on it.
    ///
    /// The plan is followed or fails; nothing else is done instead. The memory must stay where it
    /// is for as long as the result lives.
    pub fn run(
        &self,
        memory: &Arc<MappedMemory>,
        from: &RestoreFrom,
    ) -> Result<RestoredMemory, RestoreMemoryError> {
        let span = tracing::info_span!("restore memory", method = %self.method.kind());
        let _inside = span.enter();
        if memory.layout() != from.image.layout() {
            return Err(RestoreMemoryError::LayoutDiffers);
        }
        match self.method {
            RestoreMethod::Mapped {
                from: what,
                mappings,
            } => match what {
                MappedFrom::DataFiles => self.map_data_files(memory, from, mappings),
                MappedFrom::RawImage => self.map_raw(memory, from),
                MappedFrom::SealedMemfd => self.map_sealed(memory, from),
            },
            RestoreMethod::Served { .. } => Err(RestoreMemoryError::Missing {
                what: "a page server",
            }),
            RestoreMethod::Eager => {
                let options = self.fill_options(from);
                let filled = fill_memory(&*from.image, &**memory, &options)?;
                Ok(self.done(filled.copied_bytes, filled.copied_bytes))
            }
        }
    }

    fn map_data_files(
        &self,
        memory: &MappedMemory,
        from: &RestoreFrom,
        mappings: u64,
    ) -> Result<RestoredMemory, RestoreMemoryError> {
        let runs = match Mappable::of(&from.image, MAX_MAPPINGS)? {
            Mappable::Runs(runs) => runs,
            Mappable::TooMany | Mappable::Compressed { .. } => {
                let what = "its data files cannot be mapped";
                return Err(RestoreMemoryError::Stale { what });
            }
        };
        if runs.len() as u64 != mappings {
            let what = "it has another number of runs";
            return Err(RestoreMemoryError::Stale { what });
        }
        self.check_verity(|| Ok(super::verity::has_all(&from.image)?))?;
        let files = MappedFiles {
            image: Arc::clone(&from.image),
            mapped: Mapped::Runs(runs.clone()),
        };
        self.check_and_map(files, from, || {
            runs.iter()
                .try_for_each(|run| map_run(memory, &from.image, run))
        })
    }

    fn map_raw(
        &self,
        memory: &MappedMemory,
        from: &RestoreFrom,
    ) -> Result<RestoredMemory, RestoreMemoryError> {
        let what = "the raw image";
        let raw = from
            .raw
            .clone()
            .ok_or(RestoreMemoryError::Missing { what })?;
        let found = raw
            .file
            .len()
            .map_err(ImageError::file_at("measure", &raw.name))?;
        let expected = memory.layout().len_bytes();
        if found != expected {
            return Err(RestoreMemoryError::Image(ImageError::DataLength {
                file: raw.name,
                expected,
                found,
            }));
        }
        let file = Arc::clone(&raw.file);
        let name = raw.name.clone();
        let descriptor = descriptor(file.as_fd(), &name)?;
        self.check_verity(|| {
            let found = super::verity::has_verity(descriptor);
            Ok(found.map_err(ImageError::file_at("look at", &name))?)
        })?;
        let files = MappedFiles {
            image: Arc::clone(&from.image),
            mapped: Mapped::Raw(raw),
        };
        let pages = PageRange::new(0, memory.layout().page_count());
        self.check_and_map(files, from, || {
            let mapped = memory.map_file(pages, descriptor, 0);
            mapped.map_err(failed_to_map(&name, 0))
        })
    }

    fn map_sealed(
        &self,
        memory: &MappedMemory,
        from: &RestoreFrom,
    ) -> Result<RestoredMemory, RestoreMemoryError> {
        let (sealed, copied_bytes) = match &from.sealed {
            Some(sealed) if sealed.layout() == memory.layout() => (Arc::clone(sealed), 0),
            Some(_) => return Err(RestoreMemoryError::LayoutDiffers),
            None => {
                let options = self.fill_options(from);
                let (sealed, filled) = SealedMemory::fill(&*from.image, &options)?;
                (Arc::new(sealed), filled.copied_bytes)
            }
        };
        let mapped = sealed.map_over(memory);
        mapped.map_err(failed_to_map("the memfd that guests share", 0))?;
        Ok(RestoredMemory {
            sealed: Some(sealed),
            ..self.done(copied_bytes, copied_bytes)
        })
    }

    /// Maps files with `map`, after a check or with one to follow, as the plan says.
    fn check_and_map(
        &self,
        files: MappedFiles,
        from: &RestoreFrom,
        map: impl FnOnce() -> Result<(), RestoreMemoryError>,
    ) -> Result<RestoredMemory, RestoreMemoryError> {
        let mut checked_bytes = 0;
        if self.verification == Verification::Eager {
            checked_bytes = files.check_all(&self.fill_options(from))?;
        }
        map()?;
        let is_due = self.verification == Verification::Background;
        let check = is_due
            .then(|| BackgroundCheck::new(files, from.events.clone()))
            .transpose()?;
        Ok(RestoredMemory {
            check,
            ..self.done(checked_bytes, 0)
        })
    }

    /// Fails where the plan rests on fs-verity and a file is no longer under it.
    fn check_verity(
        &self,
        has_verity: impl FnOnce() -> Result<bool, RestoreMemoryError>,
    ) -> Result<(), RestoreMemoryError> {
        if self.checked_by == CheckedBy::FsVerity && !has_verity()? {
            let what = "a file that it maps is not under fs-verity";
            return Err(RestoreMemoryError::Stale { what });
        }
        Ok(())
    }

    fn fill_options(&self, from: &RestoreFrom) -> FillOptions {
        let threads = usize::try_from(self.threads)
            .ok()
            .and_then(NonZeroUsize::new);
        FillOptions::default()
            .threads(threads.unwrap_or(NonZeroUsize::MIN))
            .cancel(from.cancel.clone())
    }

    fn done(&self, checked_bytes: u64, copied_bytes: u64) -> RestoredMemory {
        RestoredMemory {
            report: MemoryReport {
                method: self.method,
                verification: self.verification,
                checked_by: self.checked_by,
                checked_bytes,
                copied_bytes,
            },
            check: None,
            sealed: None,
        }
    }
}

fn map_run(
    memory: &MappedMemory,
    image: &MemoryImage,
    run: &FileRun,
) -> Result<(), RestoreMemoryError> {
    let file = image.file(run.file)?;
    let name = &file.names().data;
    let descriptor = descriptor(file.descriptor(), name)?;
    let mapped = memory.map_file(run.pages, descriptor, run.offset);
    mapped.map_err(failed_to_map(name, run.pages.start.0))
}

fn descriptor<'f>(
    found: Option<BorrowedFd<'f>>,
    file: &str,
) -> Result<BorrowedFd<'f>, RestoreMemoryError> {
    found.ok_or_else(|| RestoreMemoryError::NoDescriptor {
        file: file.to_owned(),
    })
}

fn failed_to_map(file: &str, page: u64) -> impl FnOnce(io::Error) -> RestoreMemoryError {
    let file = file.to_owned();
    move |source| RestoreMemoryError::Map { file, page, source }
}

#[cfg(test)]
mod tests;
