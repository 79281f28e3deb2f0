//! Dirty pages: bitmaps, where they come from, and the epochs that never lose them.

mod bitmap;
mod source;

pub use bitmap::{BitmapError, DirtyBitmap};
pub use source::{DirtyGuarantee, DirtySource};
