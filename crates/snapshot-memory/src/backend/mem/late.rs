//! Writes that happen late and in another order than they were asked for.

use std::io;

use super::file::MemWriteFile;
use crate::backend::WriteFile;
use crate::direct::{Completion, Device, Write};

/// Writes that are held before one must be waited for: few, so that short tests wait, too.
const DEPTH: usize = 8;

/// What an io_uring may do at its worst, and always in the same way: nothing is written before
/// so many writes are held or the queue is finished, and then the last comes first. Bytes are read
/// when they are written; errors are told then.
#[derive(Debug)]
pub(super) struct LateWrites<'m> {
    file: &'m mut MemWriteFile,
    held: Vec<Write<'m>>,
}

impl<'m> LateWrites<'m> {
    pub(super) fn new(file: &'m mut MemWriteFile) -> Self {
        let held = Vec::new();
        Self { file, held }
    }
}

impl<'m> Device<'m> for LateWrites<'m> {
    fn depth(&self) -> usize {
        DEPTH
    }

    fn start(&mut self, write: Write<'m>) -> io::Result<()> {
        self.held.push(write);
        Ok(())
    }

    fn wait(&mut self, at_least: usize, done: &mut Vec<Completion<'m>>) -> io::Result<()> {
        if at_least > 0 {
            while let Some(write) = self.held.pop() {
                let run = write.run();
                let written = self.file.write_runs_at(write.offset(), &[run]);
                let result = written.map(|()| run.len_bytes());
                done.push(Completion { write, result });
            }
        }
        Ok(())
    }

    fn set_direct(&mut self, _is_direct: bool) -> io::Result<()> {
        Ok(())
    }
}
