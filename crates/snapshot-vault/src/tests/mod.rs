//! The whole of it: against the specification and a model, from several threads, with the power cut.

mod crash;
#[cfg(feature = "age")]
mod golden;
mod model;
mod protocol;
mod spec;
mod threads;
