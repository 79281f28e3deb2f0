//! Packs: records of chunks, with a table at the end.

mod builder;
mod record;
mod table;

pub(crate) use builder::{BuiltPack, PackBuilder};
pub(crate) use record::{Entry, PageMask, RECORD_BYTES, Representation, parse_record};
pub(crate) use table::{PackTable, PackTail, TAIL_BYTES, check_len, scan};

#[cfg(test)]
mod tests;
