mod chain;
mod choices;
mod plugged;
mod threads;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};

use super::*;
use crate::backend::{Fault, FaultBackend, MemBackend, RelPath};
use crate::capture::LayoutChoice;
use crate::capture::rig::{Chain, PAGE, bytes_of, layout, mapped};
use crate::dirty::DirtyBitmap;
use crate::error::MemoryError;
use crate::mapping::MappedMemory;
use crate::source::HostRun;

/// Memory that is not mapped, and that changes with every read.
struct Restless(MemoryLayout, std::sync::atomic::AtomicU8);

impl GuestMemorySource for Restless {
    fn layout(&self) -> &MemoryLayout {
        &self.0
    }

    fn read_pages(&self, _: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        out.fill(1 + self.1.fetch_add(1, Ordering::Relaxed) % 200);
        Ok(())
    }

    fn host_run(&self, _: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

// spec: MEM-03
#[test]
fn what_is_digested_of_running_memory_is_what_is_written() {
    let source = Restless(layout(&[(0, 1000)]), 0.into());
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    chain.take(&source, None, Stability::Running).unwrap();
    chain.assert_sound();
}

#[test]
fn a_run_of_dirty_pages_is_one_write() {
    let memory = mapped(&layout(&[(0, 1000)]));
    memory.write(0, &vec![7; 1000 * PAGE]).unwrap();
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    chain.options = CaptureOptions::default()
        .layout(LayoutChoice::Sparse)
        .engine(EngineChoice::Vectored);
    let full = chain.take(&memory, None, Stability::Paused).unwrap();
    // 1000 pages in chunks of 512 KiB.
    assert_eq!(full.stats.write_calls, 8);
    let dirty = DirtyBitmap::new(1000);
    dirty.set_range(PageRange::new(100, 50));
    dirty.set(PageIndex(700));
    let diff = chain
        .take(&memory, Some(&dirty), Stability::Paused)
        .unwrap();
    assert_eq!(diff.stats.write_calls, 2);
    assert_eq!(diff.stats.inherited, 1000 - 51);
}

// spec: MEM-04
#[test]
fn a_diff_of_another_parent_is_refused() {
    let memory = mapped(&layout(&[(0, 10)]));
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    chain.take(&memory, None, Stability::Paused).unwrap();
    let image = chain.image(0);
    let backend = MemBackend::new();
    let refused = |parent, memory: &MappedMemory, dirty: &DirtyBitmap| {
        let create = |name| {
            let path = RelPath::root().join(name).unwrap();
            StagedFile::create(&backend.snapshot(), path).unwrap()
        };
        let pages = Pages::Since {
            base: Chain::reference(0),
            dirty,
        };
        MemoryWriter::new(Chain::id(1), Stability::Paused)
            .parent(parent, Some(&image))
            .write(memory, pages, &mut create("d"), &mut create("m"))
            .unwrap_err()
    };
    let dirty = DirtyBitmap::new(10);
    let error = refused(Chain::reference(5), &memory, &dirty);
    assert!(matches!(error, SinkError::WrongParent { .. }), "{error}");
    let error = refused(Chain::reference(0), &memory, &DirtyBitmap::new(11));
    assert!(matches!(error, SinkError::DirtyPageCount { .. }), "{error}");
    // As many pages as the guest has, and numbered in other memory.
    let other = DirtyBitmap::of_layout(Arc::new(layout(&[(5, 10)])));
    let error = refused(Chain::reference(0), &memory, &other);
    assert!(matches!(error, SinkError::LayoutDiffers), "{error}");
}

// spec: MEM-07
#[test]
fn a_fault_of_any_call_is_an_error() {
    let memory = mapped(&layout(&[(0, 600)]));
    memory.write(5 * PAGE_BYTES, &vec![7; 400 * PAGE]).unwrap();
    let take = |backend: &FaultBackend| {
        let mut chain = Chain::new(Arc::new(backend.clone()));
        chain.take(&memory, None, Stability::Paused).map(|_| ())
    };
    let backend = FaultBackend::new(&MemBackend::new());
    take(&backend).unwrap();
    let calls = backend.call_count();
    assert!(calls > 8, "{calls} calls");
    for number in 1..=calls {
        let backend = FaultBackend::new(&MemBackend::new());
        backend.fail_at(number, Fault::Errno(libc::EIO));
        let error = take(&backend).unwrap_err();
        assert!(
            matches!(error, SinkError::File(_)),
            "call {number}: {error}"
        );
    }
    for bytes in [0, 1, 4096, 1_000_000] {
        let backend = FaultBackend::new(&MemBackend::new());
        backend.limit_bytes(bytes);
        let error = take(&backend).unwrap_err();
        let full = matches!(&error, SinkError::File(error) if error.is_no_space());
        assert!(full, "{bytes} bytes: {error}");
    }
}

// spec: MEM-05
#[test]
fn holes_made_or_filled_by_a_copy_change_nothing() {
    let memory = mapped(&layout(&[(0, 100)]));
    memory.write(10 * PAGE_BYTES, &vec![7; 5 * PAGE]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backend = crate::backend::FsBackend::open(dir.path()).unwrap();
    let mut chain = Chain::new(Arc::new(backend));
    chain.take(&memory, None, Stability::Paused).unwrap();
    memory.write(12 * PAGE_BYTES, &[0; PAGE]).unwrap();
    let dirty = DirtyBitmap::new(100);
    dirty.set(PageIndex(12));
    chain
        .take(&memory, Some(&dirty), Stability::Paused)
        .unwrap();
    let expected = bytes_of(&memory);
    for sparse in ["always", "never"] {
        for n in 0..2 {
            let file = dir.path().join(format!("{n}.img"));
            let copy = dir.path().join("copy");
            let how = format!("--sparse={sparse}");
            let status = std::process::Command::new("cp")
                .arg(how)
                .args([&file, &copy])
                .status();
            assert!(status.unwrap().success());
            std::fs::rename(&copy, &file).unwrap();
        }
        assert!(
            bytes_of(&chain.image(1)) == expected,
            "after cp --sparse={sparse}"
        );
    }
}

#[test]
fn a_staged_file_names_itself_in_errors() {
    let backend = FaultBackend::new(&MemBackend::new());
    let mut file = StagedFile::create(&backend, Chain::path(0, "img")).unwrap();
    backend.limit_bytes(0);
    let error = file.write_all_at(0, &[1]).unwrap_err();
    assert_eq!(error.to_string(), "write 0.img");
    assert!(error.is_no_space());
}

#[test]
fn a_chain_that_is_too_long_asks_for_a_full_snapshot() {
    assert_eq!(number_of(limits::MAX_DATA_FILES).unwrap(), 4096);
    let error = number_of(limits::MAX_DATA_FILES + 1).unwrap_err();
    assert!(
        error.to_string().contains("take a full snapshot"),
        "{error}"
    );
}
