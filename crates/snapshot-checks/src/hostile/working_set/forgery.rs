//! A working set that says what it must not, with every checksum and digest right.

use snapshot_format::{
    Digest, PageRange, SnapshotId, WORKING_SET_UNIT_BYTES, WorkingSetIndex, WorkingSetRun,
};

use super::rig::Held;
use crate::hostile::store::Fallible;
use crate::seal;

/// The parts of a working set, before they are sealed.
#[derive(Clone)]
pub(super) struct Forgery {
    pub(super) id: SnapshotId,
    pub(super) index: WorkingSetIndex,
    pub(super) data: Vec<u8>,
}

impl Forgery {
    /// The working set as it was written.
    pub(super) fn of(held: &Held) -> Self {
        let data = held.bytes.get(held.data_start()..held.data_end());
        Self {
            id: held.known.id,
            index: held.index.clone(),
            data: data.unwrap_or_default().to_vec(),
        }
    }

    /// The same with a run, and the bytes of its pages where it has some.
    pub(super) fn with_run(mut self, start: u64, count: u64, bytes: Option<&[u8]>) -> Self {
        self.index.runs.push(WorkingSetRun {
            pages: PageRange::new(start, count),
            is_zero: bytes.is_none(),
        });
        self.data.extend(bytes.unwrap_or_default());
        self
    }

    /// The same with the digests that its data has.
    pub(super) fn digested(mut self) -> Self {
        let units = self.data.chunks(WORKING_SET_UNIT_BYTES);
        self.index.digests = units.map(Digest::of).collect();
        self
    }

    /// The same with its runs in another order, and the data in the order of the runs.
    pub(super) fn reordered(self, order: impl FnOnce(&mut Vec<(WorkingSetRun, Vec<u8>)>)) -> Self {
        let mut data = self.data.as_slice();
        let part = |run: &WorkingSetRun| {
            let len = usize::try_from(run.data_pages() * 4096).unwrap_or(usize::MAX);
            let bytes = data.split_off(..len).unwrap_or_default();
            (*run, bytes.to_vec())
        };
        let mut parts: Vec<_> = self.index.runs.iter().map(part).collect();
        order(&mut parts);
        let mut reordered = Self {
            data: parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect(),
            ..self
        };
        reordered.index.runs = parts.into_iter().map(|(run, _)| run).collect();
        reordered.digested()
    }

    /// The file. The data is as long as it is, whatever the index says.
    pub(super) fn seal(&self) -> Fallible<Vec<u8>> {
        let frame = self.index.frame(self.id, Digest::of(&self.data));
        let said = usize::try_from(self.index.data_len())?;
        let mut bytes = [&frame.head, self.data.as_slice()].concat();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let table = bytes.len() as u64;
        bytes.extend(&frame.tail);
        if said != self.data.len() {
            let len = (self.data.len() as u64).to_le_bytes();
            seal::put(&mut bytes, seal::TABLE_OFFSET, &table.to_le_bytes());
            let file_len = (bytes.len() as u64).to_le_bytes();
            seal::put(&mut bytes, seal::FILE_LEN, &file_len);
            let entry = seal::entries(&bytes).pop().ok_or("no entry of the data")?;
            seal::put(&mut bytes, entry + seal::ENTRY_STORED_LEN, &len);
            seal::put(&mut bytes, entry + seal::ENTRY_DECODED_LEN, &len);
            seal::seal_all(&mut bytes);
        }
        Ok(bytes)
    }
}
