//! A snapshot that comes back under the identity that it had, from copies of its files and its memory.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;

use snapshot_format::{
    Content, DataFileRef, Digest, FileEntry, FileKind, LeafTable, Manifest, PAGE_BYTES, PageRange,
    Placement, SnapshotRef,
};

use super::discard::StageDir;
use super::snapshot::{STAGE_PREFIX, join};
use super::{SealedSnapshot, StagedFile};
use crate::backend::{Backend, RelPath};
use crate::capture::{CaptureControl, Pace};
use crate::error::{FileError, SinkError};
use crate::image::{DamagedUnit, DataFile, DataFileNames, ImageError};
use crate::relayout::{self, RelayoutError, RelayoutOptions, WrittenLayout};
use crate::restore::{PageSource, SourceError};
use crate::sink::MemoryStats;

/// A snapshot being written again to `<folder>/.stage-<id>`: its manifest as it was, so that whoever
/// names it by that finds it.
///
/// Its first map comes back byte for byte and its first data file by that; the memory that it took
/// from others comes back in a merged file. Nothing is visible before it is published, and dropping
/// it removes it.
#[derive(Debug)]
pub struct StagedReturn {
    dir: StageDir,
    folder: RelPath,
    manifest: Manifest,
    reference: SnapshotRef,
    /// Written and not yet durable.
    open: Vec<StagedFile>,
    /// What the placement will name.
    files: Vec<FileEntry>,
    own: Option<(DataFileRef, LeafTable)>,
    stats: MemoryStats,
}

impl StagedReturn {
    /// Makes the staged directory of the snapshot that these bytes are the manifest of.
    pub fn begin(
        backend: Arc<dyn Backend>,
        folder: RelPath,
        bytes: &[u8],
    ) -> Result<Self, SinkError> {
        let manifest = Manifest::parse(bytes).map_err(|source| SinkError::Unreadable {
            file: FileKind::Manifest.file_name(0),
            source,
        })?;
        let id = manifest.id;
        let stage = join(&folder, &format!("{STAGE_PREFIX}{id}"))?;
        let mut staged = Self {
            dir: StageDir::create(backend, stage)?,
            folder,
            reference: SnapshotRef {
                id,
                digest: Digest::of(bytes),
            },
            manifest,
            open: Vec::new(),
            files: Vec::new(),
            own: None,
            stats: MemoryStats::default(),
        };
        staged.file(FileKind::Manifest, bytes)?;
        Ok(staged)
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes the machine state, which must be the one that the manifest names.
    pub fn state(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        if self.manifest.state != Some(Digest::of(bytes)) {
            return Err(SinkError::Missing {
                what: "machine state with the digest that its manifest names",
            });
        }
        self.file(FileKind::State, bytes)
    }

    /// Adds a file that the placement does not name, because its content may be replaced later.
    pub fn side_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        let mut file = self.create(name)?;
        file.write_all_at(0, bytes)?;
        self.open.push(file);
        Ok(())
    }

    /// Writes memory: `map` is the first map, and `source` has all pages. Bytes that the map has
    /// digests of are checked against them. Refused before a page is written where there is no room.
    pub fn memory(
        &mut self,
        map: &[u8],
        source: &dyn PageSource,
        control: &CaptureControl,
    ) -> Result<MemoryStats, RelayoutError> {
        let Some(map_root) = self.manifest.map_root else {
            return Err(missing("memory that its manifest names"));
        };
        let first = DataFileRef {
            snapshot: self.manifest.id,
            index: 0,
            map_root,
        };
        self.durable_file(FileKind::MemoryMap, map)?;
        let shell = DataFile::open_damaged(
            self.opened(FileKind::MemoryMap)?,
            None,
            self.names(),
            &first,
        )?;
        let layout = &self.manifest.layout;
        if (&shell.root().layout, source.layout()) != (layout, layout)
            || shell.root().parent != self.manifest.parent
        {
            return Err(missing(
                "memory of the layout and the parent in its manifest",
            ));
        }
        let stands_alone = shell.root().file == 1;
        let pages = layout.page_count();
        let filled = relayout::filled_pages(source)?;
        let own_pages = shell.stored_bytes()? / PAGE_BYTES;
        let merged = if stands_alone { 0 } else { filled };
        self.dir
            .require_room(relayout::refill_room(own_pages + merged, pages))?;
        let mut data = self.create(&FileKind::MemoryData.file_name(0))?;
        mend(&shell, source, control, &mut data)?;
        let mut allocated_bytes = data.allocated_bytes()?;
        data.seal()?;
        let entry = |kind, len_bytes, digest| FileEntry {
            kind,
            index: 0,
            len_bytes,
            digest,
        };
        self.files.extend([
            entry(FileKind::MemoryData, shell.root().data_len_bytes, map_root),
            entry(FileKind::MemoryMap, map.len() as u64, shell.frame_digest()),
        ]);
        let mut present = own_pages;
        if stands_alone {
            self.own = Some((first, shell.root().owners.clone()));
        } else {
            let written = self.merged(&shell, source, filled, control)?;
            present = written.present;
            allocated_bytes += written.allocated_bytes;
        }
        self.stats = MemoryStats {
            present,
            zero: pages.saturating_sub(present),
            allocated_bytes,
            layout: Some(shell.root().data_layout),
            ..MemoryStats::default()
        };
        Ok(self.stats)
    }

    /// Writes the placement that names all files, and makes everything durable.
    pub fn seal(mut self) -> Result<SealedSnapshot, SinkError> {
        let has = |kind| self.files.iter().any(|file| file.kind == kind);
        if self.manifest.state.is_some() && !has(FileKind::State) {
            return Err(SinkError::Missing {
                what: "machine state",
            });
        }
        if self.manifest.map_root.is_some() && self.own.is_none() {
            return Err(SinkError::Missing { what: "memory" });
        }
        let mut files = std::mem::take(&mut self.files);
        files.sort_by_key(|file| (file.kind.number(), file.index));
        let (own, flattened) = self.own.take().unzip();
        let placement = Placement {
            id: self.manifest.id,
            // What its memory lay in before, generation 1 said.
            generation: own.map_or(1, |own| own.index + 1),
            manifest: self.reference.digest,
            files,
            dependencies: own.into_iter().collect(),
            flattened: flattened.unwrap_or_default(),
            features: self.manifest.features,
        };
        let bytes = placement.encode();
        self.checked(&placement.file_name(), &bytes)?;
        for file in self.open.drain(..) {
            file.seal()?;
        }
        self.dir.sync()?;
        let target = join(&self.folder, &self.manifest.id.to_string())?;
        Ok(SealedSnapshot::new(
            self.dir,
            self.folder,
            target,
            self.reference,
            self.manifest,
            placement,
            self.stats,
        ))
    }

    /// Writes all memory to a merged file.
    fn merged(
        &mut self,
        first: &DataFile,
        source: &dyn PageSource,
        filled: u64,
        control: &CaptureControl,
    ) -> Result<WrittenLayout, RelayoutError> {
        let options = RelayoutOptions::of(first.root().data_layout).control(control.clone());
        let mut data = self.create(&FileKind::MemoryData.file_name(MERGED))?;
        let mut map = self.create(&FileKind::MemoryMap.file_name(MERGED))?;
        let written = relayout::refill(first, source, filled, &options, [&mut data, &mut map])?;
        data.seal()?;
        map.seal()?;
        let entry = |kind, len_bytes, digest| FileEntry {
            kind,
            index: MERGED,
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
        let own = DataFileRef {
            snapshot: self.manifest.id,
            index: MERGED,
            map_root: written.map_root,
        };
        self.own = Some((own, written.owners.clone()));
        Ok(written)
    }

    /// Writes a small file whole, if it can be read back.
    fn file(&mut self, kind: FileKind, bytes: &[u8]) -> Result<(), SinkError> {
        self.checked(&kind.file_name(0), bytes)?;
        self.files.push(FileEntry {
            kind,
            index: 0,
            len_bytes: bytes.len() as u64,
            digest: Digest::of(bytes),
        });
        Ok(())
    }

    fn checked(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        Content::read(bytes).map_err(|source| SinkError::Unreadable {
            file: name.to_owned(),
            source,
        })?;
        self.side_file(name, bytes)
    }

    fn durable_file(&self, kind: FileKind, bytes: &[u8]) -> Result<(), SinkError> {
        let mut file = self.create(&kind.file_name(0))?;
        file.write_all_at(0, bytes)?;
        Ok(file.seal()?)
    }

    fn create(&self, name: &str) -> Result<StagedFile, SinkError> {
        let path = join(self.dir.path(), name)?;
        Ok(StagedFile::create(&**self.dir.backend(), path)?)
    }

    fn opened(&self, kind: FileKind) -> Result<Box<dyn crate::backend::ReadFile>, SinkError> {
        let path = join(self.dir.path(), &kind.file_name(0))?;
        let opened = self.dir.backend().open(&path);
        Ok(opened.map_err(FileError::at("open", &path))?)
    }

    /// What its first map and data file are called in errors: by where they will be.
    fn names(&self) -> DataFileNames {
        let name = |kind: FileKind| {
            let name = kind.file_name(0);
            format!("{}/{}/{name}", self.folder, self.manifest.id)
        };
        DataFileNames {
            map: name(FileKind::MemoryMap),
            data: name(FileKind::MemoryData),
        }
    }
}

/// Writes the first data file again, unit by unit as its map describes them.
fn mend(
    shell: &DataFile,
    source: &dyn PageSource,
    control: &CaptureControl,
    data: &mut StagedFile,
) -> Result<(), RelayoutError> {
    let mut window = Window {
        source,
        pages: PageRange::new(0, 0),
        bytes: Vec::new(),
        failed: None,
    };
    let mut pace = Pace::start(control.cancel.clone(), control.bytes_per_second);
    let (mut stopped, has_failed) = (Ok(()), Cell::new(false));
    let mut find = |unit: &DamagedUnit| {
        let found = window.unit(unit);
        has_failed.set(window.failed.is_some());
        found
    };
    let done = shell.mend(data, &mut find, &mut |bytes| {
        stopped = pace.spend(bytes);
        if stopped.is_err() || has_failed.get() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    stopped?;
    if let Some(error) = window.failed {
        return Err(error.into());
    }
    match done.and_then(|done| done.lost.into_iter().next()) {
        None => Ok(()),
        Some(lost) => {
            let page = lost.first_present();
            let guest = shell.root().layout.guest_page(page);
            let guest = guest.map_or(page.0, |guest| guest.0);
            Err(ImageError::OtherMemory {
                file: "the memory that comes back".to_owned(),
                first: shell.names().map.clone(),
                what: format!("the bytes of guest page {guest:#x} on"),
            }
            .into())
        }
    }
}

/// Pages that were read last, so that each chunk of a source is got once.
struct Window<'s> {
    source: &'s dyn PageSource,
    pages: PageRange,
    bytes: Vec<u8>,
    failed: Option<SourceError>,
}

impl Window<'_> {
    /// The bytes of a unit, zero where a page is not present.
    fn unit(&mut self, unit: &DamagedUnit) -> Option<Vec<u8>> {
        if self.failed.is_some() {
            return None;
        }
        let is_inside =
            self.pages.start.0 <= unit.pages.start.0 && unit.pages.end().0 <= self.pages.end().0;
        if !is_inside {
            let left = self.source.layout().page_count();
            let left = left.saturating_sub(unit.pages.start.0);
            let count = WINDOW_PAGES.max(unit.pages.count).min(left);
            self.pages = PageRange::new(unit.pages.start.0, count);
            let len = self.pages.len_bytes().unwrap_or(0);
            self.bytes.resize(usize::try_from(len).ok()?, 0);
            if let Err(error) = self.source.read_pages(self.pages, &mut self.bytes) {
                self.failed = Some(error);
                self.pages = PageRange::new(0, 0);
                return None;
            }
        }
        let from = (unit.pages.start.0 - self.pages.start.0) * PAGE_BYTES;
        let from = usize::try_from(from).ok()?;
        let bytes = self.bytes.get(from..from + unit.len_bytes())?;
        let mut bytes = bytes.to_vec();
        let pages = bytes.chunks_exact_mut(PAGE).zip(&unit.present);
        for (page, _) in pages.filter(|(_, present)| !**present) {
            page.fill(0);
        }
        Some(bytes)
    }
}

fn missing(what: &'static str) -> RelayoutError {
    SinkError::Missing { what }.into()
}

/// The index of the merged file.
const MERGED: u32 = 1;

/// Pages that are read at once: 256 KiB.
const WINDOW_PAGES: u64 = 64;

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;
