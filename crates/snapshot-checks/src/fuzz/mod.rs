//! What each fuzz target does with its bytes. A broken promise is a panic.
//!
//! The targets of `fuzz/` call these functions; stable tests replay golden files, mutations of
//! them, and everything that once failed.

mod bitmap;
mod captures;
mod epochs;
mod files;
mod handshake;
mod input;
mod leaves;
mod parity;
mod records;
mod vault;
mod working_set;

pub use bitmap::fuzz_dirty_ops;
pub use captures::fuzz_capture_ops;
pub use epochs::fuzz_epochs;
pub use files::{fuzz_envelope, fuzz_inspect, fuzz_manifest, fuzz_placement, fuzz_state};
pub use handshake::fuzz_handshake;
pub use leaves::fuzz_page_map;
pub use parity::fuzz_parity;
pub use records::fuzz_records;
pub use vault::fuzz_vault;
pub use working_set::fuzz_working_set;

/// The body of a target.
pub type Body = fn(&[u8]);

/// Every target by name, sorted.
pub const TARGETS: [(&str, Body); 14] = [
    ("capture_ops", fuzz_capture_ops),
    ("dirty_ops", fuzz_dirty_ops),
    ("envelope", fuzz_envelope),
    ("epochs", fuzz_epochs),
    ("handshake", fuzz_handshake),
    ("inspect", fuzz_inspect),
    ("manifest", fuzz_manifest),
    ("page_map", fuzz_page_map),
    ("parity", fuzz_parity),
    ("placement", fuzz_placement),
    ("records", fuzz_records),
    ("state", fuzz_state),
    ("vault", fuzz_vault),
    ("working_set", fuzz_working_set),
];
