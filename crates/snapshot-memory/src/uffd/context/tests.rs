use std::fs::File;

use snapshot_format::MemoryLayout;

use super::*;
use crate::mapping::{MappedMemory, MappingOptions};

fn memory() -> MappedMemory {
    MappedMemory::new(
        MemoryLayout::single(1 << 20).unwrap(),
        MappingOptions::default(),
    )
    .unwrap()
}

fn context(options: UffdOptions) -> Option<UffdContext> {
    match UffdContext::new(options) {
        Err(error @ (UffdError::Lacks { .. } | UffdError::NotPermitted)) => {
            crate::skip::skip("uffd", &error.to_string());
            None
        }
        made => Some(made.unwrap()),
    }
}

const MISSING: FaultModes = FaultModes {
    missing: true,
    minor: false,
    writes: false,
};

#[test]
fn memory_has_one_context_at_a_time() {
    let (Some(one), Some(other)) = (
        context(UffdOptions::default()),
        context(UffdOptions::default()),
    ) else {
        return;
    };
    let memory = memory();
    let ranges = one.register(&memory, MISSING).unwrap();
    assert_eq!(ranges.len(), 1);
    assert_eq!(ranges[0].pages().count, 256);
    assert!(matches!(
        other.register(&memory, MISSING),
        Err(UffdError::Busy)
    ));
    one.unregister(&ranges).unwrap();
    other.register(&memory, MISSING).unwrap();
}

#[test]
fn pages_are_filled_once_and_the_rest_is_told() {
    let Some(context) = context(UffdOptions::default()) else {
        return;
    };
    let memory = memory();
    let start = context.register(&memory, MISSING).unwrap()[0]
        .addresses
        .start;
    let mode = FillMode {
        wake: true,
        protect: false,
    };
    let filled = |pages: u64, stopped| Filled {
        len_bytes: pages * 4096,
        stopped,
    };
    assert_eq!(
        context.copy(start + 8192, &[7; 4096], mode),
        filled(1, None)
    );
    let stopped = context.copy(start, &[8; 4 * 4096], mode);
    assert_eq!(stopped, filled(2, Some(Errno::EAGAIN)));
    let there = context.copy(start + 8192, &[8; 8192], mode);
    assert_eq!(there, filled(0, Some(Errno::EEXIST)));
    let zero = context.zero(&(start + 3 * 4096..start + 5 * 4096), true);
    assert_eq!(zero, filled(2, None));
    let elsewhere = context.copy(start - 4096, &[8; 4096], mode);
    assert_eq!(elsewhere.stopped, Some(Errno::ENOENT));
    let mut bytes = vec![0; 5 * 4096];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(
        [0, 4096, 8192, 12288, 16384].map(|at| bytes[at]),
        [8, 8, 7, 0, 0]
    );
}

// spec: SRV-03
#[test]
fn a_descriptor_that_was_received_is_a_userfaultfd_that_is_ready() {
    let file = File::open("/dev/null").unwrap();
    assert!(matches!(
        UffdContext::from_fd(file.into()),
        Err(UffdError::NotUffd)
    ));
    if context(UffdOptions::default()).is_none() {
        return;
    }
    let fresh = open(true).unwrap();
    assert!(matches!(
        UffdContext::from_fd(fresh),
        Err(UffdError::NotAgreed)
    ));
    let made = context(UffdOptions::default()).unwrap();
    let memory = memory();
    let ranges = made.register(&memory, MISSING).unwrap();
    let received = UffdContext::from_fd(made.fd.try_clone().unwrap()).unwrap();
    drop(made);
    let mode = FillMode {
        wake: true,
        protect: false,
    };
    let start = ranges[0].addresses.start;
    assert_eq!(received.copy(start, &[7; 4096], mode).stopped, None);
    assert_eq!(received.read_messages(&mut Vec::new()), Ok(0));
}

/// Memory of which no address is known.
struct Elsewhere(MemoryLayout);

impl GuestMemorySource for Elsewhere {
    fn layout(&self) -> &MemoryLayout {
        &self.0
    }
    fn read_pages(
        &self,
        _: snapshot_format::PageRange,
        _: &mut [u8],
    ) -> Result<(), crate::MemoryError> {
        Ok(())
    }
    fn host_run(&self, _: snapshot_format::PageRange) -> Option<crate::HostRun<'_>> {
        None
    }
}

#[test]
fn memory_that_is_not_mapped_cannot_be_registered() {
    let Some(context) = context(UffdOptions::default()) else {
        return;
    };
    let memory = Elsewhere(MemoryLayout::single(4096).unwrap());
    let refused = context.register(&memory, MISSING);
    assert!(matches!(refused, Err(UffdError::NotMapped)));
}
