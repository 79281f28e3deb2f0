//! Serving pages of a snapshot when they are touched.
//!
//! | Module | Holds |
//! |---|---|
//! | `server`, `worker`, `fill_all`, `prefetch` | the server, its threads, and what is done while nobody waits |
//! | `engine`, `buffer`, `state`, `flight`, `addresses` | the one way in which pages get into memory |
//! | `origin`, `shared` | where they come from: a source, or a memfd that clones share |
//! | `lazy` | memory, userfaultfd and server in one |
//! | `discards`, `stats`, `trace` | what is told of it |

mod addresses;
mod bell;
mod buffer;
mod discards;
mod engine;
mod error;
mod fill_all;
mod flight;
mod lazy;
mod options;
mod origin;
mod prefetch;
#[cfg(test)]
mod rig;
mod server;
mod shared;
mod state;
mod stats;
mod trace;
mod worker;

pub(crate) use prefetch::Prefetcher;

pub use discards::ServedDiscards;
pub use error::ServeError;
pub use lazy::{LazyMemory, LazyOptions};
pub use options::{Background, ServeOptions};
pub use server::PageServer;
pub use shared::SharedPages;
pub use stats::ServeStats;
pub use trace::FaultTrace;
