//! Doing what a plan says.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use snapshot_format::PageRange;

use super::background::BackgroundCheck;
use super::check::{Mapped, MappedFiles};
use super::fill::{FillError, FillOptions, fill_memory};
use super::mappings::{FileRun, MAX_MAPPINGS, Mappable};
use super::method::{MappedFrom, RestoreMethod};
use super::report::MemoryReport;
use super::restore_from::RestoreFrom;
use super::restore_plan::{CheckedBy, RestorePlan};
use super::restored::RestoredMemory;
use super::sealed::SealedMemory;
use super::watch::{GuardedMemory, MappedPart};
use crate::bus_guard::BusGuardError;
use crate::image::{ImageError, MemoryImage};
use crate::mapping::MappedMemory;
use crate::restore::{MemoryEvents, MemoryFailure, Verification};
use crate::serve::ServeError;
use crate::source::GuestMemorySource;
use crate::working_set::TouchedPages;

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
    /// Memory could not be served.
    #[error(transparent)]
    Serve(Box<ServeError>),
    /// Mapped files could not be watched.
    #[error(transparent)]
    Guard(#[from] BusGuardError),
    /// Nobody could be told of lost memory.
    #[error("make an eventfd")]
    Events(#[source] io::Error),
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

impl From<ServeError> for RestoreMemoryError {
    fn from(error: ServeError) -> Self {
        Self::Serve(Box::new(error))
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
        let mut restored = self.follow(memory, from)?;
        restored.keeper.clone_from(&from.working_set);
        Ok(restored)
    }

    fn follow(
        &self,
        memory: &Arc<MappedMemory>,
        from: &RestoreFrom,
    ) -> Result<RestoredMemory, RestoreMemoryError> {
        match self.method {
            RestoreMethod::Mapped {
                from: what,
                mappings,
            } => match what {
                MappedFrom::DataFiles => self.map_data_files(memory, from, mappings),
                MappedFrom::RawImage => self.map_raw(memory, from),
                MappedFrom::SealedMemfd => self.map_sealed(memory, from),
            },
            RestoreMethod::Served { faults, .. } => self.serve(memory, from, faults),
            RestoreMethod::Eager => {
                let options = self.fill_options(from);
                let filled = fill_memory(&*from.image, &**memory, &options)?;
                let report = self.report().copied(filled.copied_bytes);
                Ok(RestoredMemory::new(memory, report))
            }
        }
    }

    fn map_data_files(
        &self,
        memory: &Arc<MappedMemory>,
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
        let parts = runs.iter().map(|run| part_of(&from.image, run));
        let parts: Vec<MappedPart> = parts.collect::<Result<_, _>>()?;
        self.check_and_map(memory, files, from, &parts, || {
            runs.iter()
                .try_for_each(|run| map_run(memory, &from.image, run))
        })
    }

    fn map_raw(
        &self,
        memory: &Arc<MappedMemory>,
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
        let part = MappedPart {
            pages,
            file: Arc::from(name.as_str()),
            offset: 0,
        };
        self.check_and_map(memory, files, from, &[part], || {
            let mapped = memory.map_file(pages, descriptor, 0);
            mapped.map_err(failed_to_map(&name, 0))
        })
    }

    fn map_sealed(
        &self,
        memory: &Arc<MappedMemory>,
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
        let report = self.report().copied(copied_bytes);
        let mut restored = RestoredMemory::new(memory, report);
        restored.sealed = Some(sealed);
        Ok(restored)
    }

    /// Maps files with `map`, after a check or with one to follow, as the plan says.
    fn check_and_map(
        &self,
        memory: &Arc<MappedMemory>,
        files: MappedFiles,
        from: &RestoreFrom,
        parts: &[MappedPart],
        map: impl FnOnce() -> Result<(), RestoreMemoryError>,
    ) -> Result<RestoredMemory, RestoreMemoryError> {
        let mut report = self.report();
        if self.verification == Verification::Eager {
            report.checked_bytes = files.check_all(&self.fill_options(from))?;
        }
        map()?;
        let (events, reporter) = MemoryEvents::new().map_err(RestoreMemoryError::Events)?;
        let mut restored = RestoredMemory::new(memory, report);
        if let Some(guard) = from.guard {
            let guarded = GuardedMemory::new(guard, memory, parts, &reporter)?;
            restored.guarded = Some(guarded);
        }
        if self.verification == Verification::Background {
            restored.check = Some(BackgroundCheck::new(files, reporter)?);
        }
        restored.events = Some(events);
        if from.hold_back.is_some() {
            // Without it the guest runs as well, and cannot be observed.
            restored.resident_before = TouchedPages::resident(&**memory).ok();
        }
        Ok(restored)
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

    pub(super) fn report(&self) -> MemoryReport {
        MemoryReport::new(self.method, self.verification, self.checked_by)
    }
}

fn part_of(image: &MemoryImage, run: &FileRun) -> Result<MappedPart, RestoreMemoryError> {
    Ok(MappedPart {
        pages: run.pages,
        file: Arc::from(image.file(run.file)?.names().data.as_str()),
        offset: run.offset,
    })
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

pub(super) fn failed_to_map(file: &str, page: u64) -> impl FnOnce(io::Error) -> RestoreMemoryError {
    let file = file.to_owned();
    move |source| RestoreMemoryError::Map { file, page, source }
}

#[cfg(test)]
mod tests;
