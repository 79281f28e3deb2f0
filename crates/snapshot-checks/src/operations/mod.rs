//! Random operations on a store, against a plain model of it: each snapshot a vector of bytes.
//!
//! A step is an operation, and how it goes: undisturbed, with the power cut in the middle of it, with
//! a call of it that fails, or beside a file of which a bit was flipped. After every step, every byte of
//! every snapshot in use is compared with the model, and so are the images that readers hold open.
//! An operation says what the store must hold when it is done, and how it is done: the disturbances
//! are the same for all.
//!
//! - `options`: the command line
//! - `model`: what a store must hold
//! - `plan`: an operation that was decided on, and all the operations there are
//! - `branch`, `cold`, `garbage`, `take`, `trash`, `placement`, `reader`, `look`: those operations
//! - `found`: what a store holds, and which of two models that is
//! - `world`: a store, its model and its readers
//! - `step`: one operation, in one way
//! - `damage`: an operation beside a file of which a bit was flipped
//! - `mended`: a file of which a bit was flipped, repaired
//! - `life`: the steps of one store, and the fewest of them that still fail
//! - `campaign`: store after store, and the verdict

mod branch;
mod campaign;
mod cold;
mod damage;
mod found;
mod garbage;
mod life;
mod look;
mod mended;
mod model;
mod options;
mod placement;
mod plan;
mod reader;
mod step;
mod take;
mod trash;
mod world;

pub use options::Options;

#[cfg(test)]
mod tests;
