//! What the kernel says of memory that a process maps, by userfaultfd: its missing pages, which are
//! served, and its dirty pages; and whether it is on huge pages.

#[expect(
    unreachable_pub,
    reason = "the ioctl macros make public functions of these types"
)]
mod abi;
mod context;
mod error;
mod fill;
mod huge_pages;
mod ioctl;
mod message;
mod present;
mod served_range;
mod wp_async;

pub use context::{FaultModes, UffdContext, UffdOptions};
pub use error::UffdError;
pub(crate) use fill::{FillMode, Filled};
pub(crate) use huge_pages::{Backing, backing};
pub(crate) use message::Message;
pub(crate) use present::present_runs;
pub use served_range::ServedRange;
pub use wp_async::{WpAsyncMemory, WpAsyncSource};
