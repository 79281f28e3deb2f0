//! The ways in which pages are laid out anew.

use snapshot_format::DataLayout;
use snapshot_memory::{FrameCodec, RelayoutOptions};

/// How pages are laid out anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Laid {
    Sparse,
    Packed,
    Compressed,
}

impl Laid {
    pub(super) fn options(self) -> RelayoutOptions {
        match self {
            Self::Sparse => RelayoutOptions::of(DataLayout::Sparse),
            Self::Packed => RelayoutOptions::of(DataLayout::Packed),
            Self::Compressed => RelayoutOptions::compressed(FrameCodec::Lz4),
        }
    }
}
