//! Open files of a tree in memory.

use std::io;
use std::os::fd::BorrowedFd;

use super::MemBackend;
use super::disk::{Inode, Op};
use crate::backend::{ReadFile, WriteFile};
use crate::source::HostRun;

const BLOCK_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct MemReadFile {
    backend: MemBackend,
    inode: Inode,
}

impl MemReadFile {
    pub(super) fn new(backend: MemBackend, inode: Inode) -> Self {
        Self { backend, inode }
    }

    fn with<T>(&self, look: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let disk = self.backend.look()?;
        Ok(look(disk.bytes(self.inode).unwrap_or_default()))
    }
}

impl ReadFile for MemReadFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|bytes| bytes.len() as u64)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|bytes| {
            let from = usize::try_from(offset).ok();
            let range = from.and_then(|from| Some(from..from.checked_add(out.len())?));
            match range.and_then(|range| bytes.get(range)) {
                Some(found) => {
                    out.copy_from_slice(found);
                    Ok(())
                }
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })?
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.with(|bytes| {
            let len = bytes.len() as u64;
            let first = usize::try_from(offset).unwrap_or(usize::MAX) / BLOCK_BYTES;
            let mut blocks = bytes.chunks(BLOCK_BYTES).enumerate().skip(first);
            let found = blocks.find(|(_, block)| is_data(block));
            let Some((start, _)) = found else {
                return Some((len, len));
            };
            let hole = blocks.find(|(_, block)| !is_data(block));
            let end = hole.map_or(len, |(index, _)| (index * BLOCK_BYTES) as u64);
            Some((((start * BLOCK_BYTES) as u64).max(offset), end))
        })
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.with(allocated_bytes)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[derive(Debug)]
pub(super) struct MemWriteFile {
    backend: MemBackend,
    inode: Inode,
}

impl MemWriteFile {
    pub(super) fn new(backend: MemBackend, inode: Inode) -> Self {
        Self { backend, inode }
    }

    fn change(&self, op: Op) -> io::Result<()> {
        self.backend.change(|_| Ok((op, ())))
    }
}

impl WriteFile for MemWriteFile {
    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Op::Write {
            inode: self.inode,
            offset,
            bytes: bytes.into(),
        })
    }

    fn write_runs_at(&mut self, offset: u64, runs: &[HostRun<'_>]) -> io::Result<()> {
        let mut bytes = vec![0; runs.iter().map(HostRun::len_bytes).sum()];
        let mut rest = bytes.as_mut_slice();
        for run in runs {
            let (here, after) = rest.split_at_mut(run.len_bytes());
            run.copy_to(0, here);
            rest = after;
        }
        self.write_all_at(offset, &bytes)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.change(Op::SetLen {
            inode: self.inode,
            len,
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.change(Op::Sync { inode: self.inode })
    }

    fn make_read_only(&mut self) -> io::Result<()> {
        self.change(Op::ReadOnly { inode: self.inode })
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        let disk = self.backend.look()?;
        Ok(allocated_bytes(disk.bytes(self.inode).unwrap_or_default()))
    }
}

/// Bytes of the blocks that are not zero: what a file system would keep at least.
pub(super) fn allocated_bytes(bytes: &[u8]) -> u64 {
    let data = bytes.chunks(BLOCK_BYTES).filter(|block| is_data(block));
    (data.count() * BLOCK_BYTES) as u64
}

fn is_data(block: &[u8]) -> bool {
    block.iter().any(|byte| *byte != 0)
}
