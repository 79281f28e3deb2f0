//! The ways in which memory gets to its data file. A crash must leave each of them whole.

use std::fmt;
use std::num::NonZeroUsize;

use snapshot_memory::{CaptureOptions, EngineChoice, LayoutChoice};

/// An engine and a layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Way {
    /// How pages get to the data file.
    pub engine: EngineChoice,
    /// How they lie in it.
    pub layout: LayoutChoice,
}

impl Way {
    /// Every engine with every layout that it writes.
    pub const ALL: [Self; 8] = [
        Self::new(EngineChoice::Vectored, LayoutChoice::Sparse),
        Self::new(EngineChoice::Vectored, LayoutChoice::Auto),
        Self::new(EngineChoice::Buffered, LayoutChoice::Sparse),
        Self::new(EngineChoice::Buffered, LayoutChoice::Packed),
        Self::new(EngineChoice::Buffered, LayoutChoice::Auto),
        Self::new(EngineChoice::Direct, LayoutChoice::Sparse),
        Self::new(EngineChoice::Direct, LayoutChoice::Packed),
        Self::new(EngineChoice::Direct, LayoutChoice::Auto),
    ];

    const fn new(engine: EngineChoice, layout: LayoutChoice) -> Self {
        Self { engine, layout }
    }

    /// The options of a capture, with so many threads.
    #[must_use]
    pub fn options(self, threads: NonZeroUsize) -> CaptureOptions {
        CaptureOptions::default()
            .engine(self.engine)
            .layout(self.layout)
            .threads(threads)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.engine, self.layout)
    }
}
