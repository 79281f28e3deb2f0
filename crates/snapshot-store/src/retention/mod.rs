//! Which snapshots of a machine stay in use: policies, what they decide, and what that would do.
//!
//! Nothing here reads a store or a clock: what is decided follows from what is given.

mod age;
mod candidate;
mod caps;
mod decision;
mod error;
mod period;
mod policy;
mod rules;
mod simulation;
mod space;
mod verdict;
mod zone;

pub use age::Age;
pub use candidate::{Candidate, Extent, Hold};
pub use decision::{Action, Decision, Exceeded, Reason, RetentionPlan, Standing, UnmetCap};
pub use error::PolicyError;
pub use period::Period;
pub use policy::{Caps, KeepRule, Limit, RetentionPolicy};
pub use simulation::{Schedule, SimulatedDay, SimulatedSnapshot, Simulation, simulate};
pub use verdict::decide;
pub use zone::ZoneName;

#[cfg(test)]
mod tests;
