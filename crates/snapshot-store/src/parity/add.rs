//! Making the parity of a snapshot, and taking it away.

use std::io;
use std::ops::ControlFlow;

use reed_solomon_simd::ReedSolomonEncoder;
use serde::Serialize;
use snapshot_format::limits::{MAX_PARITY_GROUP, MAX_PARITY_SHARD_BYTES, MAX_PARITY_SHARDS};
use snapshot_format::{Digest, FileKind, ParityFile, ParityTable, Placement, SnapshotId};
use snapshot_memory::SinkError;
use snapshot_memory::backend::{ReadFile, RelPath, WriteFile};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::parity::{self, PARITY_FILE};
use crate::store::Store;
use crate::verify::Selection;
use crate::{file, quota, recovery};

/// How much parity a snapshot gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ParityOptions {
    /// Bytes of parity for each hundred bytes that are not zero: 1 to 100.
    pub percent: u8,
}

impl Default for ParityOptions {
    fn default() -> Self {
        Self { percent: 5 }
    }
}

impl ParityOptions {
    /// So much of a hundred.
    #[must_use]
    pub fn percent(percent: u8) -> Self {
        Self { percent }
    }
}

/// The parity of a snapshot, as it was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct ParityReport {
    /// Whose.
    pub id: SnapshotId,
    /// The files that it covers.
    pub files: Vec<String>,
    /// Their bytes, holes included.
    pub covered_bytes: u64,
    /// Bytes of the parity file.
    pub parity_bytes: u64,
}

type Tell<'t> = dyn FnMut(u64) -> ControlFlow<()> + 't;

/// A file that is to be covered.
pub(super) struct Source {
    path: RelPath,
    file: Box<dyn ReadFile>,
    pub(super) entry: ParityFile,
}

/// Removes what is staged.
struct Stage<'s>(&'s Store, RelPath);

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Err(error) = recovery::remove_tree(self.0.backend(), &self.1, recovery::MAX_DEPTH) {
            tracing::debug!(%error, "a stage remains");
        }
    }
}

impl Store {
    /// Makes the parity of a snapshot in use, in the place of the one that it may have. The snapshot is
    /// verified first. `tell` is given the bytes of each step, and ends the work by breaking.
    pub fn add_parity(
        &self,
        id: SnapshotId,
        options: &ParityOptions,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ParityReport, StoreError> {
        let span = tracing::info_span!("parity", snapshot = %id);
        let _inside = span.enter();
        if !(1..=100).contains(&options.percent) {
            return Err(StoreError::InvalidText {
                text: options.percent.to_string(),
                what: "share of parity: 1 to 100 percent",
            });
        }
        let read = |placed: &crate::placed::Placed| {
            Ok((placed.placement.clone(), placed.manifest.vm.clone()))
        };
        let (_place_lock, _lease, (before, vm)) = self.begin_placement(id, read)?;
        self.require_sound(id, tell)?;
        let mut sources = Vec::new();
        for (kind, index) in covered(&before) {
            sources.push(self.measure(id, kind, index, options.percent, tell)?);
        }
        let table = ParityTable {
            id,
            files: sources.iter().map(|source| source.entry.clone()).collect(),
        };
        // Digests of recovery shards are not known yet; how many there are is.
        let head = table.head(&table.encode());
        let needed_bytes = head.file_len();
        self.require_room_for_parity(needed_bytes)?;
        quota::check(self, &vm, needed_bytes)?;
        let placing = directory::placing(id);
        let made = self.backend().create_dir(&placing);
        made.map_err(|error| StoreError::io("create", &placing, error))?;
        let stage = Stage(self, placing);
        self.write_parity(&stage.1, table, &mut sources, head.area_offset(), tell)?;
        self.give_placing(id)?;
        let folder = Location::Live.snapshot(id);
        let target = parity::path(Location::Live, id);
        {
            let _commit = self.lock_exclusively(&directory::commit_lock())?;
            if self.live(id)?.placement != before {
                return Err(StoreError::Overtaken {
                    what: format!("the placement of snapshot {id}"),
                });
            }
            let staged = directory::below(&stage.1, PARITY_FILE);
            let renamed = self.backend().rename_replace(&staged, &target);
            renamed.map_err(|error| StoreError::io("publish as", &target, error))?;
            file::sync_dir(self.backend(), &folder).map_err(|source| {
                StoreError::DurabilityUncertain {
                    what: format!("the new {target}"),
                    source,
                }
            })?;
        }
        let names = sources
            .iter()
            .map(|s| s.entry.kind.file_name(s.entry.index));
        Ok(ParityReport {
            id,
            files: names.collect(),
            covered_bytes: sources.iter().map(|source| source.entry.len_bytes).sum(),
            parity_bytes: needed_bytes,
        })
    }

    /// Takes the parity of a snapshot in use away; whether it had one.
    pub fn remove_parity(&self, id: SnapshotId) -> Result<bool, StoreError> {
        let (_place_lock, _lease, ()) = self.begin_placement(id, |_| Ok(()))?;
        let _commit = self.lock_exclusively(&directory::commit_lock())?;
        self.live(id)?;
        let path = parity::path(Location::Live, id);
        match self.backend().remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            removed => removed.map_err(|error| StoreError::io("remove", &path, error))?,
        }
        let folder = Location::Live.snapshot(id);
        let synced = file::sync_dir(self.backend(), &folder);
        synced.map_err(|error| StoreError::io("sync", &folder, error))?;
        Ok(true)
    }

    fn require_room_for_parity(&self, needed_bytes: u64) -> Result<(), StoreError> {
        let free_bytes = self.backend().free_bytes();
        let free_bytes = free_bytes.map_err(|error| {
            StoreError::io("measure the free space of", &RelPath::root(), error)
        })?;
        if free_bytes < needed_bytes {
            return Err(SinkError::NoRoom {
                needed_bytes,
                free_bytes,
            }
            .into());
        }
        Ok(())
    }

    /// Parity of what is damaged would keep the damage.
    fn require_sound(&self, id: SnapshotId, tell: &mut Tell<'_>) -> Result<(), StoreError> {
        let mut told = 0;
        let report = self.verify(Selection::One(id), &mut |progress| {
            let step = progress.bytes - told;
            told = progress.bytes;
            tell(step)
        })?;
        let own = parity::path(Location::Live, id);
        let mut errors = report.errors.iter().filter(|error| error.snapshot == id);
        match errors.find(|error| error.file.as_deref() != Some(own.as_str())) {
            None => Ok(()),
            Some(error) => {
                let problem = format!("it is damaged, repair it first: {}", error.message);
                Err(StoreError::damaged(&Location::Live.snapshot(id), problem))
            }
        }
    }

    /// Reads a file once, for the digests of its shards.
    pub(super) fn measure(
        &self,
        id: SnapshotId,
        kind: FileKind,
        index: u32,
        percent: u8,
        tell: &mut Tell<'_>,
    ) -> Result<Source, StoreError> {
        let path = directory::below(&Location::Live.snapshot(id), &kind.file_name(index));
        let failed = |error| StoreError::io("read", &path, error);
        let file = self.backend().open(&path).map_err(failed)?;
        let len_bytes = file.len().map_err(failed)?;
        let shard_bytes = shard_bytes(len_bytes)?;
        let mut entry = ParityFile {
            kind,
            index,
            len_bytes,
            digest: ParityFile::ZERO,
            shard_bytes,
            group: 1,
            recovery_of_group: 1,
            shards: Vec::new(),
            recovery: Vec::new(),
        };
        let mut hasher = blake3::Hasher::new();
        let mut shard = vec![0; usize::try_from(shard_bytes).unwrap_or(0)];
        let mut at = 0;
        while at < len_bytes {
            let held = fill(&*file, at, len_bytes, &mut shard).map_err(failed)?;
            hasher.update(shard.get(..held).unwrap_or_default());
            let is_zero = shard.iter().all(|byte| *byte == 0);
            entry.shards.push(if is_zero {
                ParityFile::ZERO
            } else {
                Digest::of(&shard)
            });
            at += held as u64;
            if tell(held as u64).is_break() {
                return Err(StoreError::Interrupted);
            }
        }
        entry.digest = Digest(*hasher.finalize().as_bytes());
        let members = entry.members().len();
        let group = members.clamp(1, usize::from(MAX_PARITY_GROUP));
        let recovery = (group * usize::from(percent))
            .div_ceil(100)
            .max(LEAST_RECOVERY);
        entry.group = u16::try_from(group).unwrap_or(1);
        entry.recovery_of_group = u16::try_from(recovery).unwrap_or(1);
        let count = entry.groups(members) * recovery;
        entry.recovery = vec![ParityFile::ZERO; count];
        Ok(Source { path, file, entry })
    }

    /// Writes the parity file, durably, with recovery shards from `area` on.
    pub(super) fn write_parity(
        &self,
        placing: &RelPath,
        mut table: ParityTable,
        sources: &mut [Source],
        area: u64,
        tell: &mut Tell<'_>,
    ) -> Result<(), StoreError> {
        let path = directory::below(placing, PARITY_FILE);
        let failed = |error| StoreError::io("write", &path, error);
        let mut out = self.backend().create(&path).map_err(failed)?;
        let mut offset = area;
        for source in sources.iter_mut() {
            encode(source, &mut *out, offset, tell)?;
            offset += source.entry.recovery_bytes();
        }
        table.files = sources.iter().map(|source| source.entry.clone()).collect();
        let bytes = table.encode();
        let head = table.head(&bytes).encode();
        let mut write = || -> io::Result<()> {
            out.write_all_at(0, &head)?;
            out.write_all_at(head.len() as u64, &bytes)?;
            out.write_all_at(offset, &bytes)?;
            out.write_all_at(offset + bytes.len() as u64, &head)?;
            out.make_read_only()?;
            out.sync()
        };
        write().map_err(failed)?;
        let synced = file::sync_dir(self.backend(), placing);
        synced.map_err(|error| StoreError::io("sync", placing, error))
    }
}

/// Writes the recovery shards of one file from `offset` on.
fn encode(
    source: &mut Source,
    out: &mut dyn WriteFile,
    offset: u64,
    tell: &mut Tell<'_>,
) -> Result<(), StoreError> {
    let Source { path, file, entry } = source;
    let failed = |error| StoreError::io("make the parity of", path, error);
    let len = usize::try_from(entry.shard_bytes).unwrap_or(0);
    let recovery = usize::from(entry.recovery_of_group);
    let members = entry.members();
    let groups = entry.groups(members.len());
    let mut shard = vec![0; len];
    for group in 0..groups {
        let own: Vec<usize> = members
            .iter()
            .skip(group)
            .step_by(groups)
            .copied()
            .collect();
        let encoder = ReedSolomonEncoder::new(own.len(), recovery, len);
        let mut encoder = encoder.map_err(|error| failed(io::Error::other(error)))?;
        for number in own {
            let at = number as u64 * u64::from(entry.shard_bytes);
            fill(&**file, at, entry.len_bytes, &mut shard).map_err(failed)?;
            let digest = entry
                .shards
                .get(number)
                .copied()
                .unwrap_or(ParityFile::ZERO);
            if digest.check(&shard).is_err() {
                return Err(StoreError::damaged(
                    path,
                    "it is not what it was a moment ago",
                ));
            }
            let added = encoder.add_original_shard(&shard);
            added.map_err(|error| failed(io::Error::other(error)))?;
            if tell(entry.shard_bytes.into()).is_break() {
                return Err(StoreError::Interrupted);
            }
        }
        let encoded = encoder.encode();
        let encoded = encoded.map_err(|error| failed(io::Error::other(error)))?;
        for (at, bytes) in encoded.recovery_iter().enumerate() {
            let number = group + at * groups;
            let place = offset + number as u64 * u64::from(entry.shard_bytes);
            out.write_all_at(place, bytes).map_err(failed)?;
            if let Some(digest) = entry.recovery.get_mut(number) {
                *digest = Digest::of(bytes);
            }
        }
    }
    Ok(())
}

/// Fills a shard from `at` on, with zeros behind the end of the file; how many bytes the file has of it.
fn fill(file: &dyn ReadFile, at: u64, len_bytes: u64, shard: &mut [u8]) -> io::Result<usize> {
    let held = usize::try_from(len_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
    let (own, behind) = shard.split_at_mut(held.min(shard.len()));
    file.read_exact_at(at, own)?;
    behind.fill(0);
    Ok(own.len())
}

/// What parity covers: all that the placement which counts names but the working set, and itself.
fn covered(placement: &Placement) -> Vec<(FileKind, u32)> {
    let files = placement.files.iter().map(|file| (file.kind, file.index));
    let mut files: Vec<_> = files
        .filter(|(kind, _)| *kind != FileKind::WorkingSet)
        .collect();
    files.push((FileKind::Placement, placement.generation));
    files.sort_unstable();
    files.dedup();
    files
}

/// Bytes of a shard of a file of this length.
pub(super) fn shard_bytes(len_bytes: u64) -> Result<u32, StoreError> {
    let mut bytes = 64;
    while bytes < USUAL_SHARD_BYTES && len_bytes.div_ceil(bytes.into()) > MAX_PARITY_GROUP.into() {
        bytes *= 2;
    }
    while len_bytes.div_ceil(bytes.into()) > MAX_PARITY_SHARDS as u64 {
        bytes *= 2;
    }
    if bytes > MAX_PARITY_SHARD_BYTES {
        return Err(StoreError::TooMany {
            what: "shards of a file that parity covers",
            limit: MAX_PARITY_SHARDS,
        });
    }
    Ok(bytes)
}

/// Recovery shards of each group at least.
const LEAST_RECOVERY: usize = 2;

/// Bytes of a shard of all but short and very long files.
const USUAL_SHARD_BYTES: u32 = 64 << 10;
