//! What carries writes out.

use std::fmt;
use std::io;

use super::Write;

/// A write that a device is done with, and how many bytes it wrote.
#[derive(Debug)]
pub(crate) struct Completion<'m> {
    pub(crate) write: Write<'m>,
    pub(crate) result: io::Result<usize>,
}

/// What carries writes out. It decides nothing: short writes and errors are told as they are.
pub(crate) trait Device<'m>: Send + fmt::Debug {
    /// Writes that it takes before one must be waited for; at least 1.
    fn depth(&self) -> usize;

    /// Takes a write. It may be carried out at once, or not before [`wait`](Self::wait).
    fn start(&mut self, write: Write<'m>) -> io::Result<()>;

    /// Makes sure that what was taken is under way, waits until `at_least` writes are done or none
    /// is left, and puts those that are done to `done`.
    fn wait(&mut self, at_least: usize, done: &mut Vec<Completion<'m>>) -> io::Result<()>;

    /// Sets whether later writes go past the page cache.
    fn set_direct(&mut self, is_direct: bool) -> io::Result<()>;
}
