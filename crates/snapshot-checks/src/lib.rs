//! How the promises of vmsnap are proved: crash points, hostile inputs, restores from random
//! instants and the bodies of the fuzz targets.
//!
//! Which module holds what:
//!
//! - `block`: the real command on real file systems, cut at every sync and rename
//! - `fuse`: the real command on a file system that loses what was not synced
//! - `mount`: file systems of their own, for the real ones
//! - `crash`: every call of a store's operations cut, failed and torn, in memory
//! - `instants`: guests that compute, snapshotted at random instants and restored in new processes
//! - `soak`: one guest after the other, each from the snapshot of the one before, every byte compared
//! - `operations`: random operations on a store, every byte of every snapshot against a model
//! - `kill`: processes that use a store, ended in the middle; what they published stays
//! - `stored_guest`, `compare`: guests snapshotted into a store; every byte against an array
//! - `bring`, `beside`: guests brought back by restore plans, and what goes on beside them
//! - `campaign`: options and endings of the last three
//! - `random`, `watchdog`: numbers that come again with their seed; an end for what stands still
//! - `golden`: the golden files, which the others start from
//! - `way`: the engines and layouts that memory is written with
//! - `whole_file`: every check of one file, and everything that it says
//! - `seal`: makes the checksums and digests of changed bytes right again
//! - `hostile`: flips, truncations, lies and swaps, and how each is judged
//! - `defect`: switches a deliberate defect on, to see a check find it
//! - `cold_vault`: a small vault, which checks of archives start from
//! - `fuzz`: what each fuzz target does with its bytes; stable tests replay it

mod beside;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
pub mod block;
mod bring;
mod campaign;
mod cold_vault;
mod compare;
pub mod crash;
mod defect;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
pub mod fuse;
pub mod fuzz;
pub mod golden;
pub mod hostile;
pub mod instants;
pub mod kill;
#[cfg(target_os = "linux")]
pub mod mount;
pub mod operations;
mod random;
pub mod seal;
pub mod soak;
mod stored_guest;
mod watchdog;
mod way;
mod whole_file;

pub use campaign::{Campaign, CampaignOptions, Tally, run_campaign};
pub use defect::switch_on;
pub use way::Way;
pub use whole_file::WholeFile;

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[derive(Debug)]
pub struct Readme;
