//! Checking the bytes of a data file by its map.

use snapshot_format::{DataLayout, Digest, GuestPage, IndexLeaf, MapRoot, PAGE_BYTES, SnapshotId};
use snapshot_memory::backend::{Backend, ReadFile, RelPath};

use crate::error::StoreError;
use crate::verify::report::Findings;

/// Bytes that are read at a time where no unit is.
const CHUNK_BYTES: u64 = 1 << 20;

/// A run of bytes that one digest covers.
#[derive(Clone, Copy, Debug)]
struct Unit {
    start: u64,
    end: u64,
    digest: Digest,
}

/// A data file that is being checked.
struct DataFile<'a> {
    id: SnapshotId,
    path: &'a RelPath,
    file: Box<dyn ReadFile>,
    buffer: Vec<u8>,
}

/// Checks the length, each unit by its digest, and that all other bytes are zero.
///
/// Every wrong unit is reported with its offset.
pub(super) fn check(
    backend: &dyn Backend,
    id: SnapshotId,
    path: &RelPath,
    len_bytes: u64,
    root: &MapRoot,
    leaves: &[IndexLeaf],
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("read", path, error);
    let file = backend.open(path).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    for (expected, by) in [(len_bytes, "placement"), (root.data_len_bytes, "map")] {
        if len != expected {
            let problem = format!("it has {len} bytes, and its {by} says {expected}");
            return Err(StoreError::damaged(path, problem));
        }
    }
    let mut data = DataFile {
        id,
        path,
        file,
        buffer: Vec::new(),
    };
    let mut at = 0;
    for leaf in leaves {
        for unit in units(root, leaf) {
            if unit.start < at || unit.end > len {
                let problem = format!("a unit at offset {:#x} is not in the file", unit.start);
                return Err(StoreError::damaged(path, problem));
            }
            data.check_zero(at, unit.start, findings)?;
            data.check_unit(&unit, findings)?;
            at = unit.end;
        }
    }
    // With a leaf that could not be read, nobody knows which bytes are zero behind it.
    if leaves.len() == root.index.len() {
        data.check_zero(at, len, findings)?;
    }
    Ok(())
}

/// The units of a leaf by ascending place in the file.
fn units<'a>(root: &'a MapRoot, leaf: &'a IndexLeaf) -> impl Iterator<Item = Unit> + 'a {
    leaf.units().filter_map(move |(head, digest)| {
        let (start, len) = match root.data_layout {
            DataLayout::Packed => (leaf.packed_offset(head)?, PAGE_BYTES),
            _ => {
                let page = GuestPage(leaf.first_page().0 + head as u64);
                let pages = root.layout.unit(page, leaf.unit_pages())?;
                (pages.start.image_offset()?, pages.len_bytes()?)
            }
        };
        Some(Unit {
            start,
            end: start.checked_add(len)?,
            digest: *digest,
        })
    })
}

impl DataFile<'_> {
    fn check_unit(&mut self, unit: &Unit, findings: &mut Findings<'_>) -> Result<(), StoreError> {
        let found = Digest::of(self.read(unit.start, unit.end)?);
        if found != unit.digest {
            let problem = format!(
                "bytes {:#x}..{:#x} have digest {found}, and {} is expected",
                unit.start, unit.end, unit.digest
            );
            findings.damaged_at(self.id, self.path, unit.start, problem);
        }
        findings.checked(unit.end - unit.start)
    }

    /// Checks bytes that no unit covers. Holes need not be read: they are zero.
    fn check_zero(
        &mut self,
        mut at: u64,
        end: u64,
        findings: &mut Findings<'_>,
    ) -> Result<(), StoreError> {
        while at < end {
            let (start, stop) = match self.file.next_data(at) {
                Ok(Some((start, stop))) => (start.clamp(at, end), stop.clamp(at, end)),
                _ => (at, end),
            };
            if start == end {
                break;
            }
            let stop = stop.max(start + 1).min(start + CHUNK_BYTES).min(end);
            let bytes = self.read(start, stop)?;
            if let Some(within) = bytes.iter().position(|&byte| byte != 0) {
                let offset = start + within as u64;
                let problem = format!("byte {offset:#x} belongs to no page, and is not zero");
                findings.damaged_at(self.id, self.path, offset, problem);
                break;
            }
            findings.checked(stop - start)?;
            at = stop;
        }
        Ok(())
    }

    fn read(&mut self, start: u64, end: u64) -> Result<&[u8], StoreError> {
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        self.buffer.resize(len, 0);
        self.file
            .read_exact_at(start, &mut self.buffer)
            .map_err(|error| StoreError::io("read", self.path, error))?;
        Ok(&self.buffer)
    }
}
