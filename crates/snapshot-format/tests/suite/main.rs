//! The files of the format against its rules: golden files, damaged files, random ones, and the
//! specification itself.

#![expect(clippy::expect_used, reason = "a test that cannot be set up must stop")]

mod cases;
mod damaged;
mod framed;
mod framed_rules;
mod frames;
mod golden;
mod machine;
mod machine_arm64;
mod map_rules;
mod merged;
mod props;
mod rules;
mod spec;
mod working_set;
