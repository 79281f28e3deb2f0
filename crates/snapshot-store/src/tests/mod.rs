//! What the store promises, through its public interface.

mod access;
mod analysis;
mod audit;
mod bound;
mod branches;
mod cache;
mod chain_policy;
mod concurrency;
mod consolidation;
mod damage;
mod defects;
mod due;
mod feature;
mod garbage;
mod golden;
#[cfg(feature = "index")]
mod index;
mod known;
mod lifecycle;
mod lost;
mod merge;
mod model;
mod on_demand;
mod parity;
mod plugged;
mod preparation;
mod protocol;
mod prune;
mod recreate;
mod refresher;
mod relayout;
mod repair;
mod repair_merged;
pub(crate) mod rig;
mod working_set;
