//! Leaving memory that is not served any more with nobody waiting for it.

use std::thread;

use nix::errno::Errno;
use snapshot_format::PAGE_BYTES;

use crate::uffd::{UffdContext, UffdError};

/// How often is tried, each time with a chance for others to run.
const TRIES: u32 = 10_000;

/// Hears all that waits to be heard about memory that was registered with `context`, and ends when
/// nobody will wait any more. `address` is of a page that is no longer registered.
///
/// A thread that gives pages back waits until that has been heard of, and may have begun just
/// before the registration ended. The kernel tells: as long as there is one, it refuses to put
/// any page in place and says `EAGAIN`.
pub(crate) fn settle(context: &UffdContext, address: u64) -> Result<(), UffdError> {
    let mut heard = Vec::new();
    for _ in 0..TRIES {
        loop {
            heard.clear();
            let count = context.read_messages(&mut heard);
            if count.map_err(failed("read what waits"))? == 0 {
                break;
            }
        }
        let page = address..address.saturating_add(PAGE_BYTES);
        match context.zero(&page, false).stopped {
            Some(Errno::EAGAIN) => thread::yield_now(),
            // No memory of that userfaultfd is there, as it should be.
            _ => return Ok(()),
        }
    }
    Err(failed("wait for threads that give pages back")(
        Errno::EAGAIN,
    ))
}

fn failed(call: &'static str) -> impl FnOnce(Errno) -> UffdError {
    move |errno| UffdError::System {
        call,
        source: errno.into(),
    }
}
