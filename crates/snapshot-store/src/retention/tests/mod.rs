//! What policies keep, and what caps take.

mod caps;
mod rig;
mod rules;
mod settled;
mod simulation;
