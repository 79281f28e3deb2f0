//! The real binary, in directories of its own.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "a test that cannot go on fails, and names in a store have one spelling"
)]

mod bad_input;
mod bad_luck;
mod chain;
mod check;
mod clock;
mod consolidate;
mod copies;
mod demo;
mod disk;
mod due;
mod frozen;
mod full_disk;
mod lease;
mod limits;
mod map;
mod operator;
mod planted;
mod privileges;
mod relayout;
mod reload;
mod repair;
mod retention;
mod sandbox;
mod schemas;
#[cfg(target_os = "linux")]
mod serve;
mod signals;
mod vault;
mod warm;
mod working_set;
mod writing;
