//! Frames of a data file: up to 16 pages compressed as one, and decoded again.
//!
//! A capture never compresses: this is for rewriting a data file in the background.

mod decoder;
mod encoder;

pub use decoder::{FrameDecoder, FrameFault};
pub use encoder::{FrameCodec, FrameCodecError, FrameEncoder};

#[cfg(test)]
mod tests;
