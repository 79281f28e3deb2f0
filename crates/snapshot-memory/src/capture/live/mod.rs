//! Writing memory while its machine runs: rounds, a last set that is copied aside, the map.

mod aside;
mod leaves;
mod place;
mod writer;

pub(crate) use writer::{LiveStart, LiveWriter};
