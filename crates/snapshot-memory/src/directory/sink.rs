//! A sink into a plain directory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use snapshot_format::{
    Arch, BranchName, Operation, SectionPayload, SnapshotId, SnapshotRef, VmName,
};
use uuid::Uuid;

use super::published::{DirectoryError, PublishedSnapshot};
use crate::backend::{Backend, EntryKind, RelPath};
use crate::capture::CaptureOptions;
use crate::error::{FileError, PublishError, SinkError};
use crate::image::MemoryImage;
use crate::sink::{
    LiveMemory, LivePlan, MemoryPlan, MemoryStats, Pages, Published, SealedSink, SnapshotSink,
    StagedSink,
};
use crate::source::{GuestMemorySource, Stability};
use crate::staged::{self, STAGE_PREFIX, SealedSnapshot, SnapshotFacts, StagedSnapshot};

/// Puts each snapshot into a directory of its own, named by its id, below the backend's root.
///
/// Each is the parent of the next. There are no locks: one process writes, and nothing is deleted
/// while it does. See `specs/06-publish.md` for what a crash leaves.
#[derive(Debug)]
pub struct DirectorySink {
    backend: Arc<dyn Backend>,
    vm: VmName,
    arch: Arch,
    vm_config: Vec<u8>,
    fingerprint: Option<SectionPayload>,
    capture: CaptureOptions,
    last: Arc<Mutex<Option<Last>>>,
}

/// The snapshot that the next one is a child of.
#[derive(Clone, Copy, Debug)]
struct Last {
    reference: SnapshotRef,
    seq: u64,
}

impl DirectorySink {
    /// A sink for snapshots of the virtual machine `vm`; the first has no parent.
    pub fn new(backend: Arc<dyn Backend>, vm: VmName, arch: Arch) -> Self {
        Self {
            backend,
            vm,
            arch,
            vm_config: Vec::new(),
            fingerprint: None,
            capture: CaptureOptions::default(),
            last: Arc::default(),
        }
    }

    /// Makes `parent`, which lies in the same directory, the parent of the next snapshot.
    pub fn with_parent(self, parent: SnapshotId) -> Result<Self, DirectoryError> {
        let parent = PublishedSnapshot::open(&*self.backend, parent)?;
        let last = Last {
            reference: parent.reference(),
            seq: parent.manifest.seq,
        };
        Ok(Self {
            last: Arc::new(Mutex::new(Some(last))),
            ..self
        })
    }

    /// The VMM's configuration, kept with each snapshot; opaque.
    #[must_use]
    pub fn with_vm_config(self, vm_config: Vec<u8>) -> Self {
        Self { vm_config, ..self }
    }

    /// What a host must have to run the guest, kept with each snapshot.
    #[must_use]
    pub fn with_fingerprint(self, fingerprint: SectionPayload) -> Self {
        Self {
            fingerprint: Some(fingerprint),
            ..self
        }
    }

    /// How memory is written.
    #[must_use]
    pub fn with_capture(self, capture: CaptureOptions) -> Self {
        Self { capture, ..self }
    }

    /// Removes what writers that died left behind: every staged directory. How many there were.
    ///
    /// Call it while nobody writes to the directory: a stage in use is removed as well.
    pub fn remove_leftovers(&self) -> Result<usize, FileError> {
        let root = RelPath::root();
        let entries = self.backend.list(&root);
        let entries = entries.map_err(FileError::at("list", &root))?;
        let stages = entries.iter().filter(|entry| {
            let id = entry.name.strip_prefix(STAGE_PREFIX).unwrap_or_default();
            entry.kind == EntryKind::Directory && id.parse::<SnapshotId>().is_ok()
        });
        let mut removed = 0;
        for stage in stages {
            staged::remove_stage(&*self.backend, &root, &stage.name)?;
            removed += 1;
        }
        Ok(removed)
    }

    fn last(&self) -> Option<Last> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotSink for DirectorySink {
    fn begin(&mut self) -> Result<Box<dyn StagedSink>, SinkError> {
        let id = SnapshotId(*Uuid::now_v7().as_bytes());
        let last = self.last();
        let parent = match last {
            None => None,
            Some(last) => {
                let found = PublishedSnapshot::open(&*self.backend, last.reference.id);
                let image =
                    found.and_then(|parent| parent.image_to(Operation::Extend, &*self.backend));
                Some(image.map_err(|error| SinkError::Catalog(Box::new(error)))?)
            }
        };
        let reference = last.map(|last| last.reference);
        let backend = self.backend.clone();
        let mut snapshot =
            StagedSnapshot::begin(backend, RelPath::root(), id, reference, self.arch)?;
        snapshot.set_options(self.capture.clone());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let created = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let facts = SnapshotFacts {
            vm: self.vm.clone(),
            seq: last.map_or(1, |last| last.seq.saturating_add(1)),
            branch: BranchName::main(),
            created_unix_ms: created,
            vm_config: self.vm_config.clone(),
            fingerprint: self.fingerprint.clone(),
        };
        let last = self.last.clone();
        Ok(Box::new(Staged {
            snapshot,
            parent,
            facts,
            last,
        }))
    }
}

#[derive(Debug)]
struct Staged {
    snapshot: StagedSnapshot,
    parent: Option<MemoryImage>,
    facts: SnapshotFacts,
    last: Arc<Mutex<Option<Last>>>,
}

impl StagedSink for Staged {
    fn id(&self) -> SnapshotId {
        self.snapshot.id()
    }

    fn prepare(&mut self, plan: MemoryPlan<'_>) -> Result<(), SinkError> {
        self.snapshot.prepare(plan, self.parent.as_ref())
    }

    fn section(&mut self, section: SectionPayload) -> Result<(), SinkError> {
        self.snapshot.section(section);
        Ok(())
    }

    fn memory(
        &mut self,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        stability: Stability,
    ) -> Result<MemoryStats, SinkError> {
        self.snapshot
            .memory(source, pages, stability, self.parent.as_ref())
    }

    fn live(&mut self, plan: LivePlan<'_>) -> Result<Box<dyn LiveMemory + '_>, SinkError> {
        let live = self.snapshot.live(plan, self.parent.as_ref())?;
        Ok(Box::new(live))
    }

    fn seal(self: Box<Self>) -> Result<Box<dyn SealedSink>, SinkError> {
        let seq = self.facts.seq;
        Ok(Box::new(Sealed {
            snapshot: self.snapshot.seal(self.facts)?,
            seq,
            last: self.last,
        }))
    }
}

#[derive(Debug)]
struct Sealed {
    snapshot: SealedSnapshot,
    seq: u64,
    last: Arc<Mutex<Option<Last>>>,
}

impl SealedSink for Sealed {
    fn publish(self: Box<Self>) -> Result<Published, PublishError> {
        let published = self.snapshot.publish()?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Last {
            reference: published.snapshot,
            seq: self.seq,
        });
        Ok(published)
    }
}

#[cfg(test)]
mod tests;
