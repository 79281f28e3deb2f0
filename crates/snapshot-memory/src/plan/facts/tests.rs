use snapshot_format::PageRange;

use super::*;
use crate::capture::LayoutChoice;
use crate::plan::tests::rig::Chain;
use crate::plan::{MappedFrom, MethodKind, RestoreCosts, RestoreMethod, RestorePlan};
use crate::restore::Verification;

// spec: RPL-17
#[test]
fn with_a_raw_image_the_page_map_of_a_chain_is_not_read() {
    let mut chain = Chain::of_pages(2000);
    chain.write(PageRange::new(0, 900), 1);
    chain.take(None, LayoutChoice::Sparse);
    chain.write(PageRange::new(100, 7), 2);
    chain.take(Some(&[PageRange::new(100, 7)]), LayoutChoice::Packed);
    let wanted = Wanted::default()
        .method(MethodKind::Mapped)
        .verification(Verification::Trusted);
    let counted = MemoryFacts::of(&chain.image(), wanted).unwrap();
    assert_eq!(counted.mappings, MappingCount::Counted { mappings: 3 });

    // The map of the diff ends in its root, and has leaves of page states before.
    let map = chain.data_path(1).with_extension("map");
    let mut bytes = std::fs::read(&map).unwrap();
    bytes[200] ^= 1;
    std::fs::remove_file(&map).unwrap();
    std::fs::write(&map, bytes).unwrap();
    let image = chain.image();
    MemoryFacts::of(&image, wanted).unwrap_err();
    let facts = MemoryFacts::of_cached(&image, wanted, RawImageFacts { verity: false }).unwrap();
    assert_eq!(facts.mappings, MappingCount::NotCounted);
    let kernel = KernelFacts {
        page_bytes: 4096,
        ..KernelFacts::default()
    };
    let target = TargetFacts::new(TargetKind::Anonymous, kernel);
    let plan = RestorePlan::choose(&facts, &target, wanted, &RestoreCosts::default()).unwrap();
    let raw = RestoreMethod::Mapped {
        from: MappedFrom::RawImage,
        mappings: 1,
    };
    assert_eq!(plan.method, raw);
}
