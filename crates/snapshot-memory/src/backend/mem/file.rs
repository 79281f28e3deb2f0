//! Open files of a tree in memory.

use std::io;
use std::os::fd::BorrowedFd;

use super::MemBackend;
use super::content::Content;
use super::disk::Inode;
use super::late::LateWrites;
use super::op::Op;
use crate::backend::{ReadFile, WriteFile};
use crate::capture::Engine;
use crate::direct::{DirectQueue, QueueMode, WriteQueue, WriteThrough};
use crate::source::HostRun;

/// The longest file that Linux has.
const MAX_FILE_BYTES: u64 = i64::MAX.cast_unsigned();

#[derive(Debug)]
pub(super) struct MemReadFile {
    backend: MemBackend,
    inode: Inode,
}

impl MemReadFile {
    pub(super) fn new(backend: MemBackend, inode: Inode) -> Self {
        Self { backend, inode }
    }

    fn with<T>(&self, look: impl FnOnce(&Content) -> T) -> io::Result<T> {
        let disk = self.backend.look()?;
        disk.content(self.inode).map(look)
    }
}

impl ReadFile for MemReadFile {
    fn len(&self) -> io::Result<u64> {
        self.with(Content::len)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.with(|content| content.read_at(offset, out))? {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let disk = self.backend.look()?;
        let content = disk.content(self.inode)?;
        Ok(disk.hints.answer(content, offset))
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.with(Content::allocated_bytes)
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
        check_end(offset.checked_add(bytes.len() as u64))?;
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

    fn share(
        &mut self,
        offset: u64,
        source: &dyn ReadFile,
        from: u64,
        len_bytes: u64,
    ) -> io::Result<bool> {
        if !self.backend.look()?.shares_blocks {
            return Ok(false);
        }
        let len = usize::try_from(len_bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; len];
        source.read_exact_at(from, &mut bytes)?;
        // To whoever loses power it is a write like any other.
        self.write_all_at(offset, &bytes)?;
        Ok(true)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.backend.look()?;
        if disk.content(self.inode)?.read_at(offset, out) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        check_end(Some(len))?;
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
        disk.content(self.inode).map(Content::allocated_bytes)
    }

    fn reserve(&mut self, len_bytes: u64) -> io::Result<()> {
        let len = {
            let disk = self.backend.look()?;
            disk.content(self.inode).map(Content::len)?
        };
        self.set_len(len.max(len_bytes))
    }

    fn write_queue<'m>(
        &'m mut self,
        mode: QueueMode,
        _buffers: usize,
    ) -> io::Result<Box<dyn WriteQueue<'m> + 'm>> {
        if mode == QueueMode::Buffered {
            return Ok(Box::new(WriteThrough::new(self)));
        }
        // Nobody ever waits for a buffer: when that happens depends on the threads that fill them,
        // and the order of changes must not.
        let late = LateWrites::new(self);
        Ok(Box::new(DirectQueue::new(late, Engine::Direct, usize::MAX)))
    }
}

fn check_end(end: Option<u64>) -> io::Result<()> {
    match end {
        Some(end) if end <= MAX_FILE_BYTES => Ok(()),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}
