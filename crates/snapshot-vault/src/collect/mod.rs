//! Collecting what no archive needs: tombstone, mark again, copy, delete.

mod mark;
mod plan;
mod sweep;

pub use plan::{CollectOptions, CollectPlan, CondemnedPack};
pub use sweep::Collected;

#[cfg(test)]
mod tests;
