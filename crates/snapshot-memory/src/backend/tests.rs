//! The tree in memory answers as the real file system does, errors included.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, mknod};
use proptest::prelude::*;

use super::*;

/// One call, on paths that often meet.
#[derive(Clone, Debug)]
enum Step {
    Create(RelPath),
    CreateDir(RelPath),
    Write(RelPath, u64, usize),
    SetLen(RelPath, u64),
    RenameNoReplace(RelPath, RelPath),
    RenameReplace(RelPath, RelPath),
    RemoveFile(RelPath),
    RemoveDir(RelPath),
    SyncDir(RelPath),
    List(RelPath),
    Metadata(RelPath),
    Read(RelPath),
    Lock(RelPath),
    Plant(RelPath, Planted),
}

/// What a call gave, as far as all backends must agree.
type Outcome = Result<String, (io::ErrorKind, Option<Refusal>)>;

fn outcome<T>(result: io::Result<T>, show: impl FnOnce(T) -> String) -> Outcome {
    result
        .map(show)
        .map_err(|error| (error.kind(), Refusal::of(&error)))
}

fn done<T>(result: io::Result<T>) -> Outcome {
    outcome(result, |_| String::new())
}

fn content(backend: &dyn Backend, path: &RelPath) -> io::Result<Vec<u8>> {
    let file = backend.open(path)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

fn run(backend: &dyn Backend, plant: &dyn Fn(&RelPath, Planted) -> bool, step: &Step) -> Outcome {
    match step {
        Step::Create(path) => done(backend.create(path)),
        Step::CreateDir(path) => done(backend.create_dir(path)),
        Step::Write(path, offset, len) => done(backend.create(path).and_then(|mut file| {
            file.write_all_at(*offset, &vec![7; *len])?;
            file.sync()
        })),
        Step::SetLen(path, len) => done(backend.create(path).and_then(|mut file| {
            file.write_all_at(0, b"some bytes")?;
            file.set_len(*len)?;
            file.make_read_only()
        })),
        Step::RenameNoReplace(from, to) => done(backend.rename_noreplace(from, to)),
        Step::RenameReplace(from, to) => done(backend.rename_replace(from, to)),
        Step::RemoveFile(path) => done(backend.remove_file(path)),
        Step::RemoveDir(path) => done(backend.remove_dir(path)),
        Step::SyncDir(path) => done(backend.sync_dir(path)),
        Step::List(path) => outcome(backend.list(path), |entries| format!("{entries:?}")),
        Step::Metadata(path) => outcome(backend.metadata(path), |found| match found.kind {
            EntryKind::File => format!("{} bytes", found.len_bytes),
            kind => format!("{kind:?}"),
        }),
        Step::Read(path) => outcome(content(backend, path), |bytes| format!("{bytes:?}")),
        Step::Lock(path) => done(backend.lock(path, LockMode::Exclusive, Duration::ZERO)),
        Step::Plant(path, what) => Ok(plant(path, *what).to_string()),
    }
}

fn plant_real(root: &Path, path: &RelPath, what: Planted) -> bool {
    let place = root.join(path.as_str());
    let parent = path.parent().map(|parent| root.join(parent.as_str()));
    // Nothing is planted through a link: the tests' own calls would follow it.
    if parent.is_none_or(|parent| parent.canonicalize().is_ok_and(|real| real != parent)) {
        return false;
    }
    let planted = match what {
        Planted::SymbolicLink => symlink(".", place),
        Planted::Pipe => mknod(&place, SFlag::S_IFIFO, Mode::S_IRWXU, 0).map_err(Into::into),
    };
    planted.is_ok()
}

fn paths() -> impl Strategy<Value = RelPath> + Clone {
    let name = prop_oneof![Just("a"), Just("b")];
    prop::collection::vec(name, 0..4).prop_map(|names| {
        let mut names = names.into_iter();
        let joined = names.try_fold(RelPath::root(), |path, name| path.join(name));
        joined.unwrap_or(RelPath::root())
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let two = (paths(), paths());
    let planted = prop_oneof![Just(Planted::SymbolicLink), Just(Planted::Pipe)];
    prop_oneof![
        1 => paths().prop_map(Step::Create),
        4 => paths().prop_map(Step::CreateDir),
        1 => (paths(), 0..9000_u64, 0..9000_usize).prop_map(|(p, o, l)| Step::Write(p, o, l)),
        1 => (paths(), 0..20_u64).prop_map(|(p, l)| Step::SetLen(p, l)),
        2 => two.clone().prop_map(|(from, to)| Step::RenameNoReplace(from, to)),
        2 => two.prop_map(|(from, to)| Step::RenameReplace(from, to)),
        1 => paths().prop_map(Step::RemoveFile),
        1 => paths().prop_map(Step::RemoveDir),
        1 => paths().prop_map(Step::SyncDir),
        1 => paths().prop_map(Step::List),
        1 => paths().prop_map(Step::Metadata),
        1 => paths().prop_map(Step::Read),
        1 => paths().prop_map(Step::Lock),
        1 => (paths(), planted).prop_map(|(path, what)| Step::Plant(path, what)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_and_file_system_agree(steps in prop::collection::vec(steps(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let real = FsBackend::open(&root).unwrap();
        let memory = MemBackend::new();
        for step in &steps {
            let found = run(&memory, &|path, what| memory.plant(path, what).is_ok(), step);
            let expected = run(&real, &|path, what| plant_real(&root, path, what), step);
            prop_assert_eq!(found, expected, "{:?}", step);
        }
    }
}
