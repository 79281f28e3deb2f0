//! Several writes of one file under way at once, past the page cache.

mod buffer;
mod queue;
mod ring;

pub use buffer::DirectBuffer;
pub use queue::{Piece, WriteQueue, WriteThrough};
pub(crate) use ring::RingQueue;
