//! Crash points: every call of a store's operations cut, failed and torn, in memory.
//!
//! A scenario is one operation on a store. Its changing calls are counted; then the power is cut
//! at each of them, and each is made to fail. Every tree that a machine may find afterwards is
//! opened, must hold the set of snapshots from before the operation or from after it, byte for
//! byte, must verify, and must take a further snapshot. The clean-up at opening is cut in turn.
//! Snapshots are taken in every way that memory is written in.

mod attempt;
mod branches;
mod cold;
mod enumerate;
mod garbage;
mod guest;
mod judge;
mod laid;
mod model;
mod report;
mod said;
mod scenario;
mod upkeep;

pub use enumerate::{Effort, enumerate};
pub use report::Report;

#[cfg(test)]
mod tests;
