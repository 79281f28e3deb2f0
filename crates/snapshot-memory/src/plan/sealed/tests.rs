use std::os::fd::AsRawFd;

use snapshot_format::PAGE_BYTES;

use super::*;
use crate::capture::LayoutChoice;
use crate::mapping::MappingOptions;
use crate::plan::tests::rig::{Chain, bytes_of};

fn chain() -> Chain {
    let mut chain = Chain::of_pages(700);
    chain.write(PageRange::new(3, 90), 1);
    chain.write(PageRange::new(600, 1), 1);
    chain.take(None, LayoutChoice::Packed);
    chain
}

// spec: RPL-12
#[test]
fn guests_share_a_memfd_that_nobody_can_change() {
    let chain = chain();
    let (sealed, filled) = SealedMemory::fill(&chain.image(), &FillOptions::default()).unwrap();
    assert_eq!(filled.copied_bytes, 91 * PAGE_BYTES);
    let error = sealed.file.write_all_at(b"x", 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(sealed.file.set_len(0).is_err());
    assert!(sealed.file.set_len(1 << 30).is_err());

    let guest = || {
        let layout = sealed.layout().clone();
        let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
        sealed.map_over(&memory).unwrap();
        memory
    };
    let (first, second) = (guest(), guest());
    first.write(3 * PAGE_BYTES, b"only the first").unwrap();
    assert!(bytes_of(&second) == chain.bytes());
    let mut seen = [0; 14];
    first.read(3 * PAGE_BYTES, &mut seen).unwrap();
    assert_eq!(&seen, b"only the first");
}

// spec: RPL-12
#[test]
fn a_descriptor_that_could_still_be_changed_is_refused() {
    let chain = chain();
    let (sealed, _) = SealedMemory::fill(&chain.image(), &FillOptions::default()).unwrap();
    let copy = sealed.as_fd().try_clone_to_owned().unwrap();
    assert_ne!(copy.as_raw_fd(), sealed.as_fd().as_raw_fd());
    let again = SealedMemory::from_fd(sealed.layout().clone(), copy).unwrap();
    assert_eq!(again.layout(), sealed.layout());

    let copy = sealed.as_fd().try_clone_to_owned().unwrap();
    let other = MemoryLayout::single(PAGE_BYTES).unwrap();
    let error = SealedMemory::from_fd(other, copy).unwrap_err();
    assert!(matches!(error, SealedError::Length { found, .. } if found == 700 * PAGE_BYTES));

    let open = memfd_create(c"open", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let error = SealedMemory::from_fd(sealed.layout().clone(), open).unwrap_err();
    assert!(matches!(error, SealedError::NotSealed), "{error}");
    let file = tempfile::tempfile().unwrap();
    let error = SealedMemory::from_fd(sealed.layout().clone(), file.into()).unwrap_err();
    assert!(matches!(error, SealedError::NotSealed), "{error}");
}
