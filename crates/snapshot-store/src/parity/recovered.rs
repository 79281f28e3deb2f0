//! A damaged file as it was, read through its parity.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use reed_solomon_simd::ReedSolomonDecoder;
use snapshot_format::{Digest, FileKind, ParityFile};
use snapshot_memory::backend::ReadFile;

use super::open::OpenParity;

/// A file that parity covers. Every byte that is read of it is what was written; what cannot be had
/// any more is an error.
#[derive(Debug)]
pub(crate) struct Recovered {
    parity: Arc<OpenParity>,
    kind: FileKind,
    index: u32,
    /// What is left of the file.
    rest: Option<Box<dyn ReadFile>>,
    members: Vec<usize>,
    /// The shards that were recovered last: of one group.
    last: Mutex<BTreeMap<usize, Vec<u8>>>,
}

impl Recovered {
    /// The file as it was; `None` if it is not covered.
    pub(crate) fn of(
        parity: &Arc<OpenParity>,
        kind: FileKind,
        index: u32,
        rest: Option<Box<dyn ReadFile>>,
    ) -> Option<Self> {
        let (entry, _) = parity.table.file(kind, index)?;
        Some(Self {
            members: entry.members(),
            parity: Arc::clone(parity),
            kind,
            index,
            rest,
            last: Mutex::default(),
        })
    }

    fn entry(&self) -> io::Result<(&ParityFile, u64)> {
        let entry = self.parity.table.file(self.kind, self.index);
        entry.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn shard(&self, entry: &ParityFile, offset: u64, number: usize) -> io::Result<Vec<u8>> {
        let len = usize::try_from(entry.shard_bytes).map_err(io::Error::other)?;
        let digest = entry
            .shards
            .get(number)
            .copied()
            .unwrap_or(ParityFile::ZERO);
        if digest == ParityFile::ZERO {
            return Ok(vec![0; len]);
        }
        if let Some(bytes) = self.own(entry, number, digest) {
            return Ok(bytes);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.contains_key(&number) {
            *last = self.recover(entry, offset, number)?;
        }
        last.get(&number).cloned().ok_or_else(lost)
    }

    /// A shard as it is in the file, filled up with zeros, if it has its digest.
    fn own(&self, entry: &ParityFile, number: usize, digest: Digest) -> Option<Vec<u8>> {
        let start = (number as u64).checked_mul(entry.shard_bytes.into())?;
        let mut bytes = vec![0; usize::try_from(entry.shard_bytes).ok()?];
        let held = entry.len_bytes.checked_sub(start)?;
        let held = usize::try_from(held).unwrap_or(usize::MAX).min(bytes.len());
        let rest = self.rest.as_ref()?;
        rest.read_exact_at(start, bytes.get_mut(..held)?).ok()?;
        digest.check(&bytes).is_ok().then_some(bytes)
    }

    /// Every damaged shard of the group of one.
    fn recover(
        &self,
        entry: &ParityFile,
        offset: u64,
        number: usize,
    ) -> io::Result<BTreeMap<usize, Vec<u8>>> {
        let place = self.members.binary_search(&number).map_err(|_| lost())?;
        let groups = entry.groups(self.members.len()).max(1);
        let group = place % groups;
        let members: Vec<usize> = self
            .members
            .iter()
            .skip(group)
            .step_by(groups)
            .copied()
            .collect();
        let recovery = usize::from(entry.recovery_of_group);
        let len = usize::try_from(entry.shard_bytes).map_err(io::Error::other)?;
        let decoder = ReedSolomonDecoder::new(members.len(), recovery, len);
        let mut decoder = decoder.map_err(io::Error::other)?;
        let mut missing = Vec::new();
        for (at, member) in members.iter().enumerate() {
            let digest = entry
                .shards
                .get(*member)
                .copied()
                .unwrap_or(ParityFile::ZERO);
            match self.own(entry, *member, digest) {
                Some(bytes) => decoder
                    .add_original_shard(at, bytes)
                    .map_err(io::Error::other)?,
                None => missing.push((at, *member, digest)),
            }
        }
        let mut left = missing.len();
        for at in 0..recovery {
            let number = group + at * groups;
            let digest = entry
                .recovery
                .get(number)
                .copied()
                .unwrap_or(ParityFile::ZERO);
            let found = self
                .parity
                .recovery(offset, number, entry.shard_bytes, digest);
            let Some(bytes) = found.filter(|_| left > 0) else {
                continue;
            };
            decoder
                .add_recovery_shard(at, bytes)
                .map_err(io::Error::other)?;
            left -= 1;
        }
        if left > 0 {
            return Err(lost());
        }
        let decoded = decoder.decode().map_err(io::Error::other)?;
        let mut recovered = BTreeMap::new();
        for (at, member, digest) in missing {
            let bytes = decoded.restored_original(at).ok_or_else(lost)?;
            digest.check(bytes).map_err(|_| lost())?;
            recovered.insert(member, bytes.to_vec());
        }
        Ok(recovered)
    }
}

fn lost() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "more is lost than its parity gives back",
    )
}

impl ReadFile for Recovered {
    fn len(&self) -> io::Result<u64> {
        Ok(self.entry()?.0.len_bytes)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (entry, area) = self.entry()?;
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > entry.len_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let shard_bytes = u64::from(entry.shard_bytes);
        let (mut at, mut out) = (offset, out);
        while !out.is_empty() {
            let number = usize::try_from(at / shard_bytes).map_err(io::Error::other)?;
            let within = usize::try_from(at % shard_bytes).map_err(io::Error::other)?;
            let shard = self.shard(entry, area, number)?;
            let there = shard.get(within..).unwrap_or_default();
            let len = there.len().min(out.len());
            if len == 0 {
                return Err(lost());
            }
            let (now, behind) = out.split_at_mut(len);
            now.copy_from_slice(there.get(..len).unwrap_or_default());
            (at, out) = (at + len as u64, behind);
        }
        Ok(())
    }

    fn next_data(&self, _offset: u64) -> io::Result<Option<(u64, u64)>> {
        Ok(None)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
