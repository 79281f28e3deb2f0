//! The pages that guests wrote, where the hypervisor keeps no log of them.
//!
//! Memory is made read-only; the fault of the first write is the record of it. See
//! `specs/14-hvf.md`.

mod source;
mod stripe;

pub use source::{WriteFaults, WriteProtect, WriteProtectOptions};

#[cfg(test)]
mod tests;
