//! Memory of a stage that is written while its machine runs.

use super::StagedSnapshot;
use crate::capture::LiveWriter;
use crate::dirty::DirtyBitmap;
use crate::error::SinkError;
use crate::sink::{LiveMemory, LiveRound, MemoryStats};
use crate::source::{GuestMemorySource, Stability};

/// The memory of a live snapshot, on its way to a stage. The stage has its memory once this is
/// finished; dropped before, it cannot be sealed.
#[derive(Debug)]
pub struct StagedLive<'a> {
    stage: &'a mut StagedSnapshot,
    writer: LiveWriter<'a>,
}

impl<'a> StagedLive<'a> {
    pub(super) fn new(stage: &'a mut StagedSnapshot, writer: LiveWriter<'a>) -> Self {
        Self { stage, writer }
    }
}

impl LiveMemory for StagedLive<'_> {
    fn round(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
        stability: Stability,
    ) -> Result<LiveRound, SinkError> {
        self.writer.round(source, dirty, stability)
    }

    fn set_aside(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
    ) -> Result<u64, SinkError> {
        self.writer.set_aside(source, dirty)
    }

    fn finish(self: Box<Self>) -> Result<MemoryStats, SinkError> {
        let Self { stage, writer } = *self;
        let (written, files) = writer.finish()?;
        Ok(stage.keep_memory(written, files))
    }
}
