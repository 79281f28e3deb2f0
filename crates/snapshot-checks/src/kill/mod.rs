//! Processes that use a store are ended by SIGKILL at random instants: what they said they had
//! published is there afterwards, every byte of it, and whatever else is there is whole.
//!
//! - `options`: the command line
//! - `task`: what the process of a victim is told to do, and the words that it says
//! - `vmm`, `writer`, `handler`, `client`: the victims
//! - `victim`: starts one, listens to it, and ends it
//! - `judge`: what the store holds, against what was said
//! - `served`: a handler and its client, of which one is ended
//! - `campaign`: who is ended when, and the verdict

mod campaign;
mod client;
mod handler;
mod judge;
mod options;
mod served;
mod task;
mod victim;
mod vmm;
mod writer;

pub use options::{Options, Work};
pub use task::{Role, Task};
