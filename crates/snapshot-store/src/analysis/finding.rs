//! What is worth doing something about.

use std::time::Instant;

use serde::Serialize;
use snapshot_format::{FileKind, SnapshotId, limits};
use snapshot_memory::backend::RelPath;
use snapshot_memory::{MAX_MAPPINGS, MappingCount};

use super::chain::ChainReport;
use super::space::SpaceReport;
use crate::error::StoreError;
use crate::placed;
use crate::store::Store;

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// How many snapshots were looked at closely.
    pub snapshots: u64,
    /// What is worth doing something about.
    pub findings: Vec<Finding>,
}

/// One thing that is worth doing something about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Which snapshot it is about; `None`: the store.
    pub snapshot: Option<SnapshotId>,
    /// The figure that was found.
    pub found: u64,
    /// The figure that it was held against.
    pub limit: u64,
    /// What was found, in words.
    pub message: String,
    /// What to do.
    pub advice: &'static str,
}

/// What is worth doing something about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// Many data files.
    LongChain,
    /// Nearly as many as there may be: a diff will be refused.
    NearLimit,
    /// Too many runs to map.
    Fragmented,
    /// Most of what the chain stores is not used.
    Wasteful,
    /// Much in the trash that nobody needs.
    Trash,
    /// Little room for the next snapshot.
    LittleSpace,
    /// A snapshot that cannot be read.
    Damaged,
    /// Locks and indexes do not work there as elsewhere.
    NetworkFileSystem,
    /// Reading takes long.
    SlowDisk,
}

/// Data files of a chain that is no longer short.
const LONG_CHAIN: u64 = 32;

/// Bytes that a disk should read each second.
const SLOW_BYTES_PER_SECOND: u64 = 100_000_000;

/// Bytes that are read to find out.
const PROBE_BYTES: u64 = 64 << 20;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;

impl FindingKind {
    const fn advice(self) -> &'static str {
        match self {
            Self::LongChain | Self::Wasteful => "consolidate it, or take a full snapshot next",
            Self::NearLimit => "take a full snapshot next, or consolidate it",
            Self::Fragmented => "warm it, or consolidate it, so that it can be mapped",
            Self::Trash => "collect garbage",
            Self::LittleSpace => "collect garbage, delete snapshots, or move some to another store",
            Self::Damaged => "verify it, and put back a copy of its files",
            Self::NetworkFileSystem => "keep the store on a disk of the host that uses it",
            Self::SlowDisk => {
                "keep what is restored often on a faster disk, or record working sets"
            }
        }
    }

    fn finding(
        self,
        snapshot: Option<SnapshotId>,
        found: u64,
        limit: u64,
        message: String,
    ) -> Finding {
        Finding {
            kind: self,
            snapshot,
            found,
            limit,
            message,
            advice: self.advice(),
        }
    }
}

impl Store {
    /// Looks for what is worth doing something about: in the store, and in the chain of `id`, or of
    /// the heads of all branches. With `probe_disk` data files are read to see how long that takes.
    pub fn diagnose(
        &self,
        id: Option<SnapshotId>,
        probe_disk: bool,
    ) -> Result<Diagnosis, StoreError> {
        let span = tracing::info_span!("diagnose");
        let _inside = span.enter();
        let listing = self.list(None)?;
        let mut findings: Vec<Finding> = listing
            .damaged
            .iter()
            .map(|one| FindingKind::Damaged.finding(Some(one.id), 1, 0, one.problem.clone()))
            .collect();
        findings.extend(of_space(&self.space()?));
        let file_system = self.backend().file_system();
        let file_system = file_system.map_err(|error| {
            StoreError::io("look at the file system of", &RelPath::root(), error)
        })?;
        if file_system.is_network {
            let message = format!(
                "the store lies on a network file system ({})",
                file_system.name
            );
            findings.push(FindingKind::NetworkFileSystem.finding(None, 1, 0, message));
        }
        // By ascending number: the last one of a branch stays.
        let heads = listing.snapshots.iter().filter(|record| record.has_memory);
        let heads = heads.map(|record| ((record.vm.key(), record.branch.key()), record.id));
        let heads: std::collections::BTreeMap<_, _> = heads.collect();
        let chosen: Vec<SnapshotId> = match id {
            Some(id) => vec![id],
            None => heads.into_values().collect(),
        };
        for &id in &chosen {
            match self.chain(id) {
                Ok(chain) => findings.extend(of_chain(&chain)),
                Err(error) => {
                    let message = error.to_string();
                    findings.push(FindingKind::Damaged.finding(Some(id), 1, 0, message));
                }
            }
        }
        if probe_disk && let Some(&id) = chosen.last() {
            findings.extend(self.probe_disk(id)?);
        }
        Ok(Diagnosis {
            snapshots: chosen.len() as u64,
            findings,
        })
    }

    /// Reads data of a snapshot, and says if that took long.
    fn probe_disk(&self, id: SnapshotId) -> Result<Option<Finding>, StoreError> {
        let placed = self.live(id)?;
        let own = placed.placement.own_data(placed.manifest.map_root);
        let Some(own) = own.ok().flatten() else {
            return Ok(None);
        };
        let kind = FileKind::MemoryData;
        let (path, file) = placed::open_file(self.backend(), id, kind, own.index)?;
        let failed = |error| StoreError::io("read", &path, error);
        let bytes = file.len().map_err(failed)?.min(PROBE_BYTES);
        let mut piece = vec![0; PIECE_BYTES];
        let (mut done, since) = (0, Instant::now());
        while done < bytes {
            let count = usize::try_from(bytes - done).unwrap_or(PIECE_BYTES);
            let out = piece.get_mut(..count.min(PIECE_BYTES)).unwrap_or_default();
            file.read_exact_at(done, out).map_err(failed)?;
            done += out.len() as u64;
        }
        let nanoseconds = since.elapsed().as_nanos().max(1);
        let rate = u128::from(done) * 1_000_000_000 / nanoseconds;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        Ok((done > 0 && rate < SLOW_BYTES_PER_SECOND).then(|| {
            let message = format!("{path} was read at {rate} bytes each second");
            let limit = SLOW_BYTES_PER_SECOND;
            FindingKind::SlowDisk.finding(Some(id), rate, limit, message)
        }))
    }
}

fn of_space(space: &SpaceReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    let total = space.live_bytes.saturating_add(space.trash_bytes);
    let (unneeded, limit) = (space.trash_unneeded_bytes, total / 4);
    if unneeded > limit {
        let message = format!("{unneeded} bytes of the trash are needed by no snapshot");
        findings.push(FindingKind::Trash.finding(None, unneeded, limit, message));
    }
    let (free, limit) = (space.free_bytes, space.live_bytes / 10);
    if free < limit {
        let message = format!("{free} bytes are free");
        findings.push(FindingKind::LittleSpace.finding(None, free, limit, message));
    }
    findings
}

fn of_chain(chain: &ChainReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |kind: FindingKind, found, limit, message| {
        findings.push(kind.finding(Some(chain.id), found, limit, message));
    };
    let files = chain.layers.len() as u64;
    let near = limits::MAX_DATA_FILES as u64 / 4 * 3;
    let message = format!("its memory lies in {files} data files");
    if files > near {
        found(FindingKind::NearLimit, files, near, message);
    } else if files > LONG_CHAIN {
        found(FindingKind::LongChain, files, LONG_CHAIN, message);
    }
    if chain.mappings == MappingCount::TooMany {
        let message = format!("its memory is in {} runs", chain.runs);
        found(
            FindingKind::Fragmented,
            chain.runs,
            MAX_MAPPINGS as u64,
            message,
        );
    }
    let used = chain.stored_pages.saturating_sub(chain.waste_pages);
    if used < chain.stored_pages / 2 {
        let stored = chain.stored_pages;
        let message = format!("it uses {used} of {stored} pages that its data files store");
        found(FindingKind::Wasteful, used, stored / 2, message);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Location;

    fn chain(files: usize, stored: u64, used: u64, mappings: MappingCount) -> ChainReport {
        let layer = super::super::chain::ChainLayer {
            snapshot: SnapshotId([1; 16]),
            vm: None,
            location: Some(Location::Live),
            generation: 0,
            layout: "sparse",
            stored_pages: 0,
            used_pages: 0,
            runs: 0,
            allocated_bytes: 0,
        };
        ChainReport {
            id: SnapshotId([1; 16]),
            pages: stored,
            zero_pages: 0,
            own_pages: used,
            inherited_pages: 0,
            stored_pages: stored,
            waste_pages: stored - used,
            runs: 9,
            mappings,
            consolidation_bytes: 0,
            layers: vec![layer; files],
        }
    }

    // spec: ANA-08
    #[test]
    fn each_finding_has_its_limit_and_advice() {
        let kinds = |chain: &ChainReport| {
            let findings = of_chain(chain);
            assert!(
                findings
                    .iter()
                    .all(|one| !one.advice.is_empty() && !one.message.is_empty())
            );
            findings
                .into_iter()
                .map(|one| (one.kind, one.found, one.limit))
                .collect::<Vec<_>>()
        };
        let fine = MappingCount::Counted { mappings: 3 };
        assert_eq!(kinds(&chain(32, 100, 50, fine)), []);
        let long = chain(33, 100, 49, MappingCount::TooMany);
        let expected = [
            (FindingKind::LongChain, 33, 32),
            (FindingKind::Fragmented, 9, MAX_MAPPINGS as u64),
            (FindingKind::Wasteful, 49, 50),
        ];
        assert_eq!(kinds(&long), expected);
        assert_eq!(
            kinds(&chain(3073, 0, 0, fine)),
            [(FindingKind::NearLimit, 3073, 3072)]
        );

        let space = |live_bytes, trash_unneeded_bytes, free_bytes| SpaceReport {
            snapshots: Vec::new(),
            machines: Vec::new(),
            live_bytes,
            trash_bytes: trash_unneeded_bytes,
            trash_unneeded_bytes,
            cache_bytes: 0,
            free_bytes,
        };
        let kinds = |space| {
            of_space(&space)
                .iter()
                .map(|one| one.kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(space(300, 100, 30)), []);
        assert_eq!(
            kinds(space(300, 101, 29)),
            [FindingKind::Trash, FindingKind::LittleSpace]
        );
        assert_eq!(kinds(space(0, 0, 0)), []);
    }
}
