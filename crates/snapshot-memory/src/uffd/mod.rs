//! userfaultfd: dirty pages of memory that this process maps.

#[expect(
    unreachable_pub,
    reason = "the ioctl macros make public functions of these types"
)]
mod abi;
mod ioctl;
mod wp_async;

pub use wp_async::WpAsyncSource;
