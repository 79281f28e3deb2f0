//! Files of the real file system.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::{STAT_BLOCK_BYTES, read_only, system, unsigned};
use crate::backend::{ReadFile, WriteFile};
use crate::direct::{self, DirectRefused, Probe, QueueMode, WriteQueue, WriteThrough};
use crate::guest_io;
use crate::source::HostRun;

#[derive(Debug)]
pub(super) struct FsReadFile {
    file: File,
}

impl FsReadFile {
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }

    fn seek(&self, offset: i64, whence: Whence) -> io::Result<Option<u64>> {
        match lseek(&self.file, offset, whence) {
            Ok(found) => Ok(Some(unsigned(found)?)),
            // ENXIO: at or past the end, or only a hole follows.
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl ReadFile for FsReadFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let Ok(from) = i64::try_from(offset) else {
            return Ok(None);
        };
        let data = match self.seek(from, Whence::SeekData) {
            Ok(Some(data)) => data,
            Ok(None) => {
                let len = self.len()?;
                return Ok(Some((len, len)));
            }
            // No support here: there is no hint to be had.
            Err(_) => return Ok(None),
        };
        let Ok(at) = i64::try_from(data) else {
            return Ok(None);
        };
        match self.seek(at, Whence::SeekHole) {
            Ok(Some(hole)) if data >= offset && hole > data => Ok(Some((data, hole))),
            _ => Ok(None),
        }
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        allocated_bytes(&self.file)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

#[derive(Debug)]
pub(super) struct FsWriteFile {
    file: File,
    probe: Probe,
}

impl FsWriteFile {
    /// A file; `probe` is what is known of the file system that it lies on.
    pub(super) fn new(file: File, probe: Probe) -> Self {
        Self { file, probe }
    }
}

impl WriteFile for FsWriteFile {
    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_runs_at(&mut self, offset: u64, runs: &[HostRun<'_>]) -> io::Result<()> {
        guest_io::write_runs_at(self.file.as_fd(), offset, runs)
    }

    fn share(
        &mut self,
        offset: u64,
        source: &dyn ReadFile,
        from: u64,
        len_bytes: u64,
    ) -> io::Result<bool> {
        match source.as_fd() {
            Some(source) => system::share(&self.file, offset, source, from, len_bytes),
            None => Ok(false),
        }
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&mut self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn make_read_only(&mut self) -> io::Result<()> {
        self.file.set_permissions(read_only())
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        allocated_bytes(&self.file)
    }

    fn reserve(&mut self, len_bytes: u64) -> io::Result<()> {
        let len = i64::try_from(len_bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if len == 0 {
            return Ok(());
        }
        if system::allocate(&self.file, len)? {
            return Ok(());
        }
        self.set_len(len_bytes.max(self.file.metadata()?.len()))
    }

    fn write_queue<'m>(
        &'m mut self,
        mode: QueueMode,
        buffers: usize,
    ) -> io::Result<Box<dyn WriteQueue<'m> + 'm>> {
        if mode != QueueMode::Buffered {
            match direct::open(self.file.as_fd(), &self.probe, buffers) {
                Err(error) if mode == QueueMode::PreferDirect => {
                    let _ = DirectRefused::of(&error).ok_or(error)?;
                }
                opened => return opened,
            }
        }
        Ok(Box::new(WriteThrough::new(self)))
    }
}

fn allocated_bytes(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(STAT_BLOCK_BYTES))
}
