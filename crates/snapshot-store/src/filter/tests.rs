use super::*;
use crate::directory::Location;
use crate::metadata::Metadata;
use snapshot_format::{Description, Digest, MemoryLayout, SnapshotId, SnapshotName, SnapshotRef};
use std::collections::{BTreeMap, BTreeSet};

fn record() -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId([0xab; 16]),
        digest: Digest([1; 32]),
        vm: VmName::new("Web").unwrap(),
        seq: 3,
        branch: BranchName::new("Fix").unwrap(),
        parent: Some(SnapshotRef {
            id: SnapshotId([2; 16]),
            digest: Digest([2; 32]),
        }),
        created_unix_ms: 0,
        layout: MemoryLayout::single(4096).unwrap(),
        has_memory: true,
        has_state: false,
        location: Location::Live,
        metadata: Metadata {
            name: Some(SnapshotName::new("Nightly-7").unwrap()),
            description: Description::new("before the\nÜbergang").unwrap(),
            labels: BTreeMap::from([(
                LabelKey::new(CATEGORY).unwrap(),
                LabelValue::new("Backup").unwrap(),
            )]),
            tags: BTreeSet::from([Tag::new("keep").unwrap()]),
            protected: false,
        },
        metadata_problem: None,
    }
}

fn finds(change: impl FnOnce(&mut Filter)) -> bool {
    let mut filter = Filter::default();
    change(&mut filter);
    filter.selects(&record())
}

// spec: TRE-14
// spec: TRE-15
#[test]
fn what_is_set_must_fit_and_what_is_not_does_not_matter() {
    let vm = |text| VmName::new(text).ok();
    let branch = |text| BranchName::new(text).ok();
    let tag = |text| Tag::new(text).unwrap();
    let label = |key, value: Option<&str>| {
        let value = value.map(|value| LabelValue::new(value).unwrap());
        (LabelKey::new(key).unwrap(), value)
    };
    assert!(finds(|_| {}));
    assert!(finds(|f| f.vm = vm("web")));
    assert!(!finds(|f| f.vm = vm("db")));
    assert!(finds(|f| f.branch = branch("fix")));
    assert!(!finds(|f| f.branch = branch("main")));
    assert!(finds(|f| f.tags = vec![tag("keep")]));
    assert!(!finds(|f| f.tags = vec![tag("keep"), tag("old")]));
    assert!(finds(|f| f.labels = vec![label(CATEGORY, None)]));
    assert!(finds(|f| f.labels = vec![label(CATEGORY, Some("Backup"))]));
    assert!(!finds(|f| f.labels = vec![label(CATEGORY, Some("backup"))]));
    assert!(!finds(|f| f.labels = vec![label("team", None)]));
    assert!(finds(|f| f.has_parent = Some(true)));
    assert!(!finds(|f| f.has_parent = Some(false)));
    assert!(finds(|f| f.name = "night*".parse().ok()));
    assert!(!finds(|f| f.name = "night".parse().ok()));
    // One that does not fit is enough.
    assert!(!finds(|f| {
        f.vm = vm("web");
        f.has_parent = Some(false);
    }));
}

// spec: TRE-15
#[test]
fn a_search_finds_its_text_wherever_people_put_it() {
    for text in ["GHTLY", "übergang", "KEEP", "categ", "backup", "abababab"] {
        assert!(finds(|f| f.text = text.parse().ok()), "{text}");
    }
    for text in ["web", "fix", "nightly 7"] {
        assert!(!finds(|f| f.text = text.parse().ok()), "{text}");
    }
    let too_long = "x".repeat(MAX_PATTERN_BYTES + 1);
    for text in ["", too_long.as_str()] {
        text.parse::<SearchText>().unwrap_err();
    }
    // What could not be read is found by none.
    let mut unread = record();
    unread.metadata = Metadata::unreadable();
    let filter = Filter {
        name: "*".parse().ok(),
        ..Filter::default()
    };
    assert!(!filter.selects(&unread));
}
