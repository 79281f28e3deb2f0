//! Snapshots that fail on the way, in every engine and layout: full disks, broken disks, and
//! callers who change their mind.
//!
//! Whatever happens: the error says what it was and names the file, the dirty bits are there for
//! the next snapshot, nothing is published, and nothing of the attempt is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cancel;
mod disk;
mod machine;
mod order;
mod rig;
mod space;
