//! What a store keeps of itself, as builds before this one wrote it. The files were made from the
//! specs, not by this code.

use std::sync::Arc;

use snapshot_format::{SnapshotId, VmName};
use snapshot_memory::backend::MemBackend;

use super::rig::{image, named, path, reopen, store, take};
use crate::{AuditEvent, ReadAccess, Store};

const ACCESS: &str = include_str!("../../tests/golden/v1/access.json");
const AUDIT: &str = include_str!("../../tests/golden/v1/audit.jsonl");
const MACHINE: &str = include_str!("../../tests/golden/v1/vm.json");
const VERIFIED: &str = include_str!("../../tests/golden/v1/verified.json");

/// The chain of the last entry.
const HEAD: &str = "ce4a5b21c7a1ae7bc653fb10b2f83518af16c8024cc489ddc649e73b54be5ec4";

fn id() -> SnapshotId {
    "01890000-0000-7000-8000-000000000001".parse().unwrap()
}

/// A store of which a file is golden.
fn with(name: &str, text: &str) -> (MemBackend, Store) {
    use snapshot_memory::backend::Backend;
    let (tree, _) = store();
    let at = path(name);
    drop(tree.remove_file(&at));
    drop(at.parent().map(|folder| tree.create_dir(&folder)));
    let mut file = tree.create(&at).unwrap();
    file.write_all_at(0, text.as_bytes()).unwrap();
    let store = reopen(&tree);
    (tree, store)
}

// spec: AUD-04
#[test]
fn the_golden_log_is_whole_with_its_torn_line_and_goes_on() {
    let (_, store) = with("audit.jsonl", AUDIT);
    let mut seen = Vec::new();
    let report = store.read_audit(Some(HEAD.parse().unwrap()), &mut |entry, _| {
        seen.push(entry.clone());
    });
    let report = report.unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!(report.head, HEAD.parse().unwrap());
    assert_eq!((report.entries, report.head_found), (3, Some(true)));
    assert_eq!(report.unfinished.len(), 1);
    assert_eq!(seen[0].snapshots, [id()]);
    assert!(
        matches!(&seen[1].event, AuditEvent::Outcome { of: 1, result, .. } if result == "done")
    );
    assert!(seen[2].torn.is_some());
    let next = store.audit_intent(seen[0].actor.clone(), "next", &[], &[]);
    assert_eq!(next.unwrap().seq(), 4);
}

// spec: ACC-01
#[test]
fn the_golden_access_is_read_and_written_the_same() {
    let (tree, store) = with("access.json", ACCESS);
    let access = ReadAccess::new(None, Some(7), 0o440).unwrap();
    assert_eq!(store.read_access(), access);
    store.set_read_access(access, false).unwrap();
    assert_eq!(contents(&tree, "access.json"), ACCESS);
}

// spec: TRE-09
#[test]
fn the_golden_machine_gives_numbers_branch_and_start() {
    let (tree, store) = with("vms/vm.json", MACHINE);
    let vm = VmName::new("vm").unwrap();
    assert_eq!(store.branch_for_next(&vm).as_str(), "side");
    let taken = take(&store, named("vm", "one"), &image(&[1; 8])).unwrap();
    let record = store.snapshot(taken.id).unwrap();
    assert_eq!((record.seq, record.branch.as_str()), (10, "main"));
    let written = contents(&tree, "vms/vm.json");
    let expected = format!(
        "{{\"version\":2,\"vm\":\"vm\",\"last_seq\":10,\"heads\":{{\"main\":\"{}\"}},\"starts\":{{\"side\":\"{}\"}},\"current\":\"side\"}}",
        taken.id,
        id()
    );
    assert!(written.contains(&expected), "{written}");
}

// spec: VFY-02
#[test]
fn the_golden_check_is_remembered() {
    let (_, store) = with(&format!("verified/{}.json", id()), VERIFIED);
    let check = store.last_check(id()).unwrap();
    assert_eq!(
        (check.seq, check.unix_ms, check.sound),
        (3, 1_700_000_000_000, true)
    );
}

#[test]
fn the_examples_of_the_specs_are_the_golden_files() {
    let spec = |text: &str, golden: &str| {
        let fenced = format!("```json\n{golden}```");
        assert!(text.contains(&fenced), "{golden}");
    };
    spec(include_str!("../../../../specs/35-access.md"), ACCESS);
    spec(include_str!("../../../../specs/32-audit.md"), AUDIT);
    spec(include_str!("../../../../specs/30-trees.md"), MACHINE);
    spec(include_str!("../../../../specs/29-repair.md"), VERIFIED);
}

fn contents(tree: &MemBackend, name: &str) -> String {
    use snapshot_memory::backend::Backend;
    let tree: Arc<dyn Backend> = Arc::new(tree.clone());
    let file = tree.open(&path(name)).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}
