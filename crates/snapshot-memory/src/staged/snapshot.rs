//! A snapshot that is being written to a hidden directory.

use std::sync::Arc;

use snapshot_format::sabotage::Sabotage;
use snapshot_format::{
    Arch, BranchName, Content, Digest, Features, FileEntry, FileKind, Manifest, PAGE_BYTES,
    Placement, SectionKind, SectionPayload, SnapshotId, SnapshotRef, StateFile, VmName,
};

use super::discard::StageDir;
use super::{SealedSnapshot, StagedFile, StagedLive};
use crate::backend::{Backend, InvalidName, RelPath};
use crate::capture::{
    CaptureOptions, CostModel, LiveStart, LiveWriter, MemoryWriter, WrittenMemory,
};
use crate::error::SinkError;
use crate::image::MemoryImage;
use crate::sink::{LivePlan, MemoryPlan, MemoryStats, Pages};
use crate::source::{GuestMemorySource, Stability};

/// Before the id in the name of a directory that is being written.
pub const STAGE_PREFIX: &str = ".stage-";

/// What the page map takes at most for a page: a digest, its state, its owner.
const MAP_BYTES_PER_PAGE: u64 = 36;

/// Room for all that is not memory: state, manifest, placement, the roots of the map.
const OTHER_BYTES: u64 = 1 << 20;

/// Bytes that a snapshot with so many bytes of pages takes at most.
#[must_use]
pub const fn snapshot_room(memory_bytes: u64) -> u64 {
    let map_bytes = (memory_bytes / PAGE_BYTES).saturating_mul(MAP_BYTES_PER_PAGE);
    memory_bytes
        .saturating_add(map_bytes)
        .saturating_add(OTHER_BYTES)
}

/// A snapshot being written to `<folder>/.stage-<id>`, a hidden sibling of its final directory
/// `<folder>/<id>`.
///
/// Nothing of it is visible. Dropping it removes it.
#[derive(Debug)]
pub struct StagedSnapshot {
    dir: StageDir,
    folder: RelPath,
    id: SnapshotId,
    parent: Option<SnapshotRef>,
    arch: Arch,
    options: CaptureOptions,
    cost: CostModel,
    sections: Vec<SectionPayload>,
    memory: Option<WrittenMemory>,
    /// Written and not yet durable.
    open: Vec<StagedFile>,
    /// What the placement will name.
    files: Vec<FileEntry>,
}

/// What a snapshot is, apart from what its stage knows.
#[derive(Clone, Debug)]
pub struct SnapshotFacts {
    /// The virtual machine that it is of.
    pub vm: VmName,
    /// Its place in the history of the virtual machine.
    pub seq: u64,
    /// The branch that it is made on.
    pub branch: BranchName,
    /// When it is made, in milliseconds since 1970; informational.
    pub created_unix_ms: u64,
    /// The VMM's configuration of the machine, opaque.
    pub vm_config: Vec<u8>,
    /// What a host must have to run the guest, where no section of the state says so.
    pub fingerprint: Option<SectionPayload>,
}

impl StagedSnapshot {
    /// Makes the staged directory of `id` in `folder`, which must exist.
    pub fn begin(
        backend: Arc<dyn Backend>,
        folder: RelPath,
        id: SnapshotId,
        parent: Option<SnapshotRef>,
        arch: Arch,
    ) -> Result<Self, SinkError> {
        let stage = join(&folder, &format!("{STAGE_PREFIX}{id}"))?;
        // Advice: where a file system does not say what it is, the usual one is taken.
        let file_system = backend.file_system();
        let cost = file_system.map_or_else(|_| CostModel::default(), |kind| CostModel::of(&kind));
        let mut dir = StageDir::create(backend, stage)?;
        if Sabotage::Unstaged.is_on() {
            dir.rename(&join(&folder, &id.to_string())?)?;
        }
        Ok(Self {
            dir,
            folder,
            id,
            parent,
            arch,
            options: CaptureOptions::default(),
            cost,
            sections: Vec::new(),
            memory: None,
            open: Vec::new(),
            files: Vec::new(),
        })
    }

    /// The identity that it will be published under.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Sets how memory is written.
    pub fn set_options(&mut self, options: CaptureOptions) {
        self.options = options;
    }

    /// Prepares for memory before the machine is stopped; see
    /// [`StagedSink::prepare`](crate::StagedSink::prepare). A diff needs the memory of the parent.
    pub fn prepare(
        &mut self,
        plan: MemoryPlan<'_>,
        parent: Option<&MemoryImage>,
    ) -> Result<(), SinkError> {
        if let Some(found) = plan.base {
            let expected = self.parent;
            let Some(parent) = parent.filter(|_| expected == Some(found)) else {
                return Err(SinkError::WrongParent { expected, found });
            };
            parent.warm()?;
        }
        self.require_room(plan.bytes)?;
        let control = &mut self.options.control;
        control.cancel = control.cancel.clone().or(plan.cancel.clone());
        Ok(())
    }

    /// Refuses a snapshot with so many bytes of pages that the file system has no room for.
    fn require_room(&self, memory_bytes: u64) -> Result<(), SinkError> {
        self.dir.require_room(snapshot_room(memory_bytes))
    }

    /// Adds a section of machine state.
    pub fn section(&mut self, section: SectionPayload) {
        self.sections.push(section);
    }

    /// Writes guest memory, once. A diff needs the memory of the parent.
    pub fn memory(
        &mut self,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        stability: Stability,
        parent: Option<&MemoryImage>,
    ) -> Result<MemoryStats, SinkError> {
        if self.memory.is_some() {
            return Err(SinkError::Twice { what: "memory" });
        }
        let mut writer = MemoryWriter::new(self.id, stability)
            .options(self.options.clone())
            .cost(self.cost);
        if let Some(reference) = self.parent {
            writer = writer.parent(reference, parent);
        }
        let mut data = self.create(&FileKind::MemoryData.file_name(0))?;
        let mut map = self.create(&FileKind::MemoryMap.file_name(0))?;
        let written = writer.write(source, pages, &mut data, &mut map)?;
        Ok(self.keep_memory(written, [data, map]))
    }

    /// Begins to write guest memory, once, while the machine runs; see
    /// [`StagedSink::live`](crate::StagedSink::live). A diff needs the memory of the parent.
    pub fn live<'a>(
        &'a mut self,
        plan: LivePlan<'_>,
        parent: Option<&'a MemoryImage>,
    ) -> Result<StagedLive<'a>, SinkError> {
        if self.memory.is_some() {
            return Err(SinkError::Twice { what: "memory" });
        }
        let start = LiveStart {
            snapshot: self.id,
            parent: self.parent,
            parent_image: parent,
            options: self.options.clone(),
        };
        let data = self.create(&FileKind::MemoryData.file_name(0))?;
        let map = self.create(&FileKind::MemoryMap.file_name(0))?;
        let writer = LiveWriter::new(start, plan, data, map)?;
        Ok(StagedLive::new(self, writer))
    }

    /// Notes memory that is written, and its data file and map.
    pub(super) fn keep_memory(
        &mut self,
        written: WrittenMemory,
        files: [StagedFile; 2],
    ) -> MemoryStats {
        let entry = |kind, len_bytes, digest| FileEntry {
            kind,
            index: 0,
            len_bytes,
            digest,
        };
        self.files.extend([
            entry(
                FileKind::MemoryData,
                written.data_len_bytes,
                written.map_root,
            ),
            entry(
                FileKind::MemoryMap,
                written.map_len_bytes,
                written.map_frame,
            ),
        ]);
        self.open.extend(files);
        let stats = written.stats;
        self.memory = Some(written);
        stats
    }

    /// Adds a file that the placement does not name, because its content may be replaced later.
    pub fn side_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        let mut file = self.create(name)?;
        file.write_all_at(0, bytes)?;
        self.open.push(file);
        Ok(())
    }

    /// Makes durable what is written so far. Memory takes long: call this before taking a lock
    /// under which the snapshot is sealed and published.
    pub fn make_durable(&mut self) -> Result<(), SinkError> {
        for file in self.open.drain(..) {
            file.seal()?;
        }
        Ok(())
    }

    /// Writes state, manifest and, last, the placement that names them all; makes everything
    /// durable.
    pub fn seal(mut self, facts: SnapshotFacts) -> Result<SealedSnapshot, SinkError> {
        let span = tracing::debug_span!("seal", snapshot = %self.id);
        let _entered = span.enter();
        let written = self
            .memory
            .take()
            .ok_or(SinkError::Missing { what: "memory" })?;
        // The state's own, if it has one: what is checked before a restore is what binds it.
        let of_state = |section: &&SectionPayload| section.kind == SectionKind::FINGERPRINT;
        let fingerprint = self.sections.iter().find(of_state).cloned();
        let state = self.write_state()?;
        let manifest = Manifest {
            id: self.id,
            arch: self.arch,
            vm: facts.vm,
            seq: facts.seq,
            branch: facts.branch,
            parent: self.parent,
            created_unix_ms: facts.created_unix_ms,
            layout: written.layout,
            map_root: Some(written.map_root),
            state,
            vm_config: facts.vm_config,
            fingerprint: fingerprint.or(facts.fingerprint),
            features: Features::default(),
        };
        let digest = self.write_file(FileKind::Manifest, 0, &manifest.encode())?;
        self.make_durable()?;
        let target = join(&self.folder, &self.id.to_string())?;
        if Sabotage::RenameFirst.is_on() {
            self.dir.rename(&target)?;
        }
        let mut files = std::mem::take(&mut self.files);
        files.sort_by_key(|file| (file.kind.number(), file.index));
        let placement = Placement {
            id: self.id,
            generation: 1,
            manifest: digest,
            files,
            dependencies: written.dependencies,
            flattened: written.flattened,
            features: Features::default(),
        };
        self.checked_file(&placement.file_name(), &placement.encode())?;
        self.make_durable()?;
        self.dir.sync()?;
        let reference = SnapshotRef {
            id: self.id,
            digest,
        };
        Ok(SealedSnapshot::new(
            self.dir,
            self.folder,
            target,
            reference,
            manifest,
            placement,
            written.stats,
        ))
    }

    fn write_state(&mut self) -> Result<Option<Digest>, SinkError> {
        if self.sections.is_empty() {
            return Ok(None);
        }
        let state = StateFile {
            id: self.id,
            parent: self.parent.map(|parent| parent.id),
            arch: self.arch,
            sections: std::mem::take(&mut self.sections),
        };
        self.write_file(FileKind::State, 0, &state.encode())
            .map(Some)
    }

    /// Writes a small file whole; its digest.
    fn write_file(
        &mut self,
        kind: FileKind,
        index: u32,
        bytes: &[u8],
    ) -> Result<Digest, SinkError> {
        let digest = Digest::of(bytes);
        self.checked_file(&kind.file_name(index), bytes)?;
        self.files.push(FileEntry {
            kind,
            index,
            len_bytes: bytes.len() as u64,
            digest,
        });
        Ok(digest)
    }

    /// Writes a small file whole, if it is one that can be read back: nothing is published that
    /// nobody can open.
    fn checked_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        Content::read(bytes).map_err(|source| SinkError::Unreadable {
            file: name.to_owned(),
            source,
        })?;
        self.side_file(name, bytes)
    }

    fn create(&self, name: &str) -> Result<StagedFile, SinkError> {
        let path = join(self.dir.path(), name)?;
        Ok(StagedFile::create(&**self.dir.backend(), path)?)
    }
}

pub(super) fn join(folder: &RelPath, name: &str) -> Result<RelPath, SinkError> {
    folder
        .join(name)
        .map_err(|error: InvalidName| SinkError::Catalog(Box::new(error)))
}

#[cfg(test)]
mod tests;
