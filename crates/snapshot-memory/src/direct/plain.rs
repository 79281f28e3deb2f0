//! The device that is a system call: one write at a time.

use std::io;
use std::os::fd::AsFd;

use super::description::Description;
use super::{Completion, Device, Write};
use crate::guest_io;

/// `pwrite`, for a kernel or a sandbox without io_uring.
#[derive(Debug)]
pub(super) struct PlainWrites<'m> {
    file: Description,
    done: Vec<Completion<'m>>,
}

impl PlainWrites<'_> {
    pub(super) fn new(file: Description) -> Self {
        Self {
            file,
            done: Vec::new(),
        }
    }
}

impl<'m> Device<'m> for PlainWrites<'m> {
    fn depth(&self) -> usize {
        1
    }

    fn start(&mut self, write: Write<'m>) -> io::Result<()> {
        let result = guest_io::write_once_at(self.file.as_fd(), write.offset(), &write.run());
        self.done.push(Completion { write, result });
        Ok(())
    }

    fn wait(&mut self, _at_least: usize, done: &mut Vec<Completion<'m>>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }

    fn set_direct(&mut self, is_direct: bool) -> io::Result<()> {
        self.file.set_direct(is_direct)
    }
}
