//! Snapshots in every engine and layout: on disks that fill or break, with callers who change their
//! mind, and on real file systems.
//!
//! Whatever fails: the error says what it was and names the file, the dirty bits are there for the
//! next snapshot, nothing is published, and nothing of the attempt is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod broken;
mod cancel;
#[cfg(target_os = "linux")]
mod file_system;
mod machine;
mod order;
mod rig;
mod space;
