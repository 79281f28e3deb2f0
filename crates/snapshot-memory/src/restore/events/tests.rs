use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use snapshot_format::PageRange;

use super::*;
use crate::restore::FailureCause;

fn failure(page: u64) -> MemoryFailure {
    MemoryFailure {
        pages: PageRange::new(page, 1),
        cause: FailureCause::ServerGone,
    }
}

fn rings(events: &MemoryEvents) -> bool {
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

fn pages(events: &MemoryEvents) -> Vec<u64> {
    let taken = events.take();
    taken.iter().map(|failure| failure.pages.start.0).collect()
}

#[test]
fn a_report_rings_until_it_is_taken() {
    let (events, reporter) = MemoryEvents::new().unwrap();
    assert!(!rings(&events));
    assert_eq!(pages(&events), [0; 0]);
    let other = reporter.clone();
    reporter.report(failure(7));
    thread::spawn(move || other.report(failure(9)))
        .join()
        .unwrap();
    assert!(rings(&events));
    assert_eq!(pages(&events), [7, 9]);
    assert!(!rings(&events));
    reporter.report(failure(8));
    assert!(rings(&events));
    assert_eq!(pages(&events), [8]);
}

#[test]
fn failures_that_nobody_takes_do_not_fill_memory() {
    let (events, reporter) = MemoryEvents::new().unwrap();
    for page in 0..2 * KEPT as u64 {
        reporter.report(failure(page));
    }
    let kept = pages(&events);
    assert_eq!((kept.len(), kept[0]), (KEPT, 0));
}
