//! A parity file that is there: read from either of its two ends, and checked.

use std::io;
use std::ops::ControlFlow;

use snapshot_format::{
    DecodeError, Digest, ErrorKind, PARITY_HEAD_BYTES, ParityHead, ParityTable, Part, SnapshotId,
};
use snapshot_memory::backend::{ReadFile, RelPath};

use crate::directory::Location;
use crate::error::StoreError;
use crate::parity;
use crate::store::Store;

/// A parity file of which one head and one table can be read.
#[derive(Debug)]
pub(crate) struct OpenParity {
    pub(crate) path: RelPath,
    pub(super) table: ParityTable,
    head: ParityHead,
    file: Box<dyn ReadFile>,
}

impl OpenParity {
    /// Opens the parity of a snapshot; `None` if it has none.
    pub(crate) fn open(
        store: &Store,
        location: Location,
        id: SnapshotId,
    ) -> Result<Option<Self>, StoreError> {
        let path = parity::path(location, id);
        let file = match store.backend().open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| StoreError::io("open", &path, error))?,
        };
        let len = file.len();
        let len = len.map_err(|error| StoreError::io("measure", &path, error))?;
        let read = match front(&*file, len) {
            // The copy at the end is as good.
            Err(error) if error.kind() != ErrorKind::TooNew => back(&*file, len).map_err(|_| error),
            read => read,
        };
        let (head, table) = read.map_err(|error| StoreError::decode(&path, error))?;
        if head.id != id {
            let problem = format!("it is the parity of snapshot {}", head.id);
            return Err(StoreError::damaged(&path, problem));
        }
        Ok(Some(Self {
            path,
            table,
            head,
            file,
        }))
    }

    /// The generations of the placements that it covers.
    pub(crate) fn generations(&self) -> Vec<u32> {
        let files = self.table.files.iter();
        let placements = files.filter(|file| file.kind == snapshot_format::FileKind::Placement);
        placements.map(|file| file.index).collect()
    }

    /// Recovery shard `number` of a file, of so many bytes, whose recovery shards begin at `offset`
    /// among those of all; `None` if it is damaged.
    pub(super) fn recovery(
        &self,
        offset: u64,
        number: usize,
        len: u32,
        digest: Digest,
    ) -> Option<Vec<u8>> {
        let at = (number as u64).checked_mul(len.into())?;
        let at = at
            .checked_add(offset)?
            .checked_add(self.head.area_offset())?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.file.read_exact_at(at, &mut bytes).ok()?;
        digest.check(&bytes).is_ok().then_some(bytes)
    }

    /// Reads all of it; the first thing that is wrong. Bytes are told as they are read.
    pub(crate) fn check(
        &self,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<String>, StoreError> {
        let len = self.file.len();
        let len = len.map_err(|error| StoreError::io("measure", &self.path, error))?;
        let whole = (self.head, self.table.clone());
        for (end, read) in [
            ("front", front(&*self.file, len)),
            ("back", back(&*self.file, len)),
        ] {
            match read {
                Ok(found) if found == whole => {}
                Ok(_) => return Ok(Some("its two tables differ".to_owned())),
                Err(error) => return Ok(Some(format!("the table at its {end}: {error}"))),
            }
        }
        if len != self.head.file_len() {
            let expected = self.head.file_len();
            return Ok(Some(format!(
                "it has {len} bytes, and {expected} are expected"
            )));
        }
        let mut offset = 0;
        for file in &self.table.files {
            for (number, digest) in file.recovery.iter().enumerate() {
                let found = self.recovery(offset, number, file.shard_bytes, *digest);
                if found.is_none() {
                    let name = file.kind.file_name(file.index);
                    return Ok(Some(format!(
                        "recovery shard {number} of {name} is damaged"
                    )));
                }
                if tell(file.shard_bytes.into()).is_break() {
                    return Err(StoreError::Interrupted);
                }
            }
            offset += file.recovery_bytes();
        }
        Ok(None)
    }
}

type Read = Result<(ParityHead, ParityTable), DecodeError>;

fn front(file: &dyn ReadFile, len: u64) -> Read {
    let head = head_at(file, 0, len)?;
    table_at(file, &head, PARITY_HEAD_BYTES as u64, len)
}

fn back(file: &dyn ReadFile, len: u64) -> Read {
    let at = len.saturating_sub(PARITY_HEAD_BYTES as u64);
    let head = head_at(file, at, len)?;
    table_at(file, &head, at.saturating_sub(head.table_len), len)
}

fn head_at(file: &dyn ReadFile, at: u64, len: u64) -> Result<ParityHead, DecodeError> {
    let bytes = bytes_at(file, at, PARITY_HEAD_BYTES as u64, len)?;
    let bytes = bytes
        .first_chunk()
        .ok_or_else(|| short(at, PARITY_HEAD_BYTES as u64, 0))?;
    ParityHead::parse(bytes)
}

fn table_at(file: &dyn ReadFile, head: &ParityHead, at: u64, len: u64) -> Read {
    let bytes = bytes_at(file, at, head.table_len, len)?;
    Ok((*head, ParityTable::parse(head, &bytes)?))
}

/// Bytes that are there, as the length of the file says, before room is made for them.
fn bytes_at(file: &dyn ReadFile, at: u64, needed: u64, len: u64) -> Result<Vec<u8>, DecodeError> {
    let found = len.saturating_sub(at);
    let count = usize::try_from(needed).ok().filter(|_| needed <= found);
    let mut bytes = vec![0; count.ok_or_else(|| short(at, needed, found))?];
    let read = file.read_exact_at(at, &mut bytes);
    read.map_err(|_| short(at, needed, 0))?;
    Ok(bytes)
}

fn short(offset: u64, needed: u64, found: u64) -> DecodeError {
    DecodeError::Length {
        part: Part::File,
        offset,
        needed,
        found,
    }
}
