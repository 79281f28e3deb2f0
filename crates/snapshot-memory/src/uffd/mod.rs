//! What the kernel says of memory that this process maps: its dirty pages, by userfaultfd, and
//! whether it is on huge pages.

#[expect(
    unreachable_pub,
    reason = "the ioctl macros make public functions of these types"
)]
mod abi;
mod huge_pages;
mod ioctl;
mod wp_async;

pub(crate) use huge_pages::{Backing, backing};
pub use wp_async::{WpAsyncMemory, WpAsyncSource};
