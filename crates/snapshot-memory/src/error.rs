//! One error enum for each family of operations.

use std::io;

use snapshot_format::PageRange;

/// Reading or writing guest memory failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Pages beyond the layout were asked for.
    #[error("pages {}..{} lie beyond the {page_count} pages of the guest", range.start.0, range.end().0)]
    OutOfRange {
        /// What was asked for.
        range: PageRange,
        /// What there is.
        page_count: u64,
    },
    /// The memory could not be read.
    #[error("read guest pages {}..{}", range.start.0, range.end().0)]
    Read {
        /// What was asked for.
        range: PageRange,
        /// Why.
        #[source]
        source: io::Error,
    },
}
