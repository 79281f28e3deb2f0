//! A file that is written at a rate.

use std::io;

use snapshot_memory::backend::{ReadFile, WriteFile};
use snapshot_memory::{HostRun, Pace, QueueMode, WriteQueue, WriteThrough};

/// A file whose bytes are spent from a [`Pace`] before they are written.
#[derive(Debug)]
pub(crate) struct PacedFile<'a> {
    file: &'a mut dyn WriteFile,
    pace: Pace,
}

impl<'a> PacedFile<'a> {
    pub(crate) fn new(file: &'a mut dyn WriteFile, pace: Pace) -> Self {
        Self { file, pace }
    }

    fn spend(&mut self, len_bytes: u64) -> io::Result<()> {
        // It fails only once the user asked for the end.
        self.pace
            .spend(len_bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::Interrupted, error))
    }
}

impl WriteFile for PacedFile<'_> {
    fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.spend(bytes.len() as u64)?;
        self.file.write_all_at(offset, bytes)
    }

    fn write_runs_at(&mut self, offset: u64, runs: &[HostRun<'_>]) -> io::Result<()> {
        self.spend(runs.iter().map(|run| run.len_bytes() as u64).sum())?;
        self.file.write_runs_at(offset, runs)
    }

    /// Costs nothing of the rate: no byte is moved.
    fn share(
        &mut self,
        offset: u64,
        source: &dyn ReadFile,
        from: u64,
        len_bytes: u64,
    ) -> io::Result<bool> {
        self.file.share(offset, source, from, len_bytes)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(offset, out)
    }

    fn set_len(&mut self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    fn make_read_only(&mut self) -> io::Result<()> {
        self.file.make_read_only()
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }

    fn reserve(&mut self, len_bytes: u64) -> io::Result<()> {
        self.file.reserve(len_bytes)
    }

    /// One write at a time, as each waits for its turn.
    fn write_queue<'m>(
        &'m mut self,
        mode: QueueMode,
        _: usize,
    ) -> io::Result<Box<dyn WriteQueue<'m> + 'm>> {
        if mode == QueueMode::Direct {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Box::new(WriteThrough::new(self)))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use snapshot_memory::Cancel;
    use snapshot_memory::backend::{Backend, MemBackend, RelPath};

    use super::*;

    // spec: CLI-31
    #[test]
    fn bytes_wait_for_their_turn_and_an_interrupt_ends_the_wait() {
        let backend = MemBackend::new();
        let path = RelPath::root().join("file").unwrap();
        let mut file = backend.create(&path).unwrap();
        let cancel = Cancel::default();
        let pace = Pace::start(cancel.clone(), NonZeroU64::new(1 << 40));
        let mut paced = PacedFile::new(file.as_mut(), pace);
        paced.write_all_at(0, b"four").unwrap();
        cancel.ask();
        let ended = paced.write_all_at(4, b"more").unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::Interrupted);
        assert_eq!(backend.open(&path).unwrap().len().unwrap(), 4);
    }
}
