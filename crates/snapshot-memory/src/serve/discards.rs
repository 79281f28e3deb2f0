//! Pages that were given back, as a tracker of dirty pages wants to hear of them.

use std::io;
use std::sync::{Arc, Weak};

use snapshot_format::{MemoryLayout, PAGE_BYTES};

use super::engine::Engine;
use crate::dirty::{BlindSpot, BlindSpots, DirtyBitmap, DirtyGuarantee, DirtySource};
use crate::error::DirtyError;

/// Names the pages of served memory that were given back since the last harvest.
///
/// Every page whose `madvise` has returned is named; it sees no writes.
#[derive(Debug)]
pub struct ServedDiscards {
    engine: Weak<Engine>,
    layout: MemoryLayout,
}

impl ServedDiscards {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        let layout = engine.origin.source().layout().clone();
        *engine.lock_discards() = Some(Arc::new(DirtyBitmap::new(layout.page_count())));
        Self {
            engine: Arc::downgrade(engine),
            layout,
        }
    }
}

impl DirtySource for ServedDiscards {
    fn name(&self) -> &'static str {
        NAME
    }

    fn guarantee(&self) -> DirtyGuarantee {
        DirtyGuarantee::Exact
    }

    fn blind_spots(&self) -> BlindSpots {
        let none: [BlindSpot; 0] = [];
        BlindSpots::all_but(&none)
    }

    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn granule_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        // A server that has ended hears of nothing.
        let Some(engine) = self.engine.upgrade() else {
            return Err(failed(io::Error::other(
                "the server of the memory has ended",
            )));
        };
        engine
            .take_discards(into)
            .map_err(|errno| failed(errno.into()))
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        Ok(())
    }
}

fn failed(source: io::Error) -> DirtyError {
    DirtyError::System {
        name: NAME,
        call: "hear of pages that were given back",
        source,
    }
}

const NAME: &str = "served-discards";
