//! Dirty pages: bitmaps, where they come from, and the epochs that never lose them.

mod source;

pub use source::{DirtyGuarantee, DirtySource};
