//! Mapped files that are cut while they are read.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "maps files that others cut")]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "the tests fail by panicking"
)]

// UNSAFETY: private mappings of files, volatile reads of them, signals that this process gets.

use std::env;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use memmap2::{MmapOptions, MmapRaw};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};
use snapshot_memory::syscalls::{self, PROCESS};
use snapshot_memory::testing::under_filter;
use snapshot_memory::{BusGuard, BusWatch, FailureCause, MappedRun, MemoryEvents, MemoryFailure};

/// Pages of each file.
const PAGES: u64 = 16;

/// The page of the image that the first page of each file is.
const FIRST: u64 = 100;

/// A file that is mapped privately, as a restored guest has it.
struct Mapped {
    file: File,
    memory: Arc<MmapRaw>,
}

impl Mapped {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGES * PAGE_BYTES).unwrap();
        for page in 0..PAGES {
            let fill = u8::try_from(page + 1).unwrap();
            let bytes = vec![fill; usize::try_from(PAGE_BYTES).unwrap()];
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, page * PAGE_BYTES).unwrap();
        }
        // SAFETY: the mapping is turned into a raw one at once: no reference into it is made.
        let memory = unsafe { MmapOptions::new().map_copy(&file) }.unwrap();
        let memory = Arc::new(MmapRaw::from(memory));
        Self { file, memory }
    }

    fn run(&self) -> MappedRun {
        let start = self.memory.as_ptr().addr() as u64;
        MappedRun {
            addresses: start..start + PAGES * PAGE_BYTES,
            first: PageIndex(FIRST),
            file: "memory.img".into(),
            offset: 0,
        }
    }

    fn watch(&self) -> (BusWatch, MemoryEvents) {
        let (events, reporter) = MemoryEvents::new().unwrap();
        let guard = BusGuard::install().unwrap();
        // SAFETY: the tests drop their watches before their mappings, which no reference points to.
        let watch = unsafe { guard.watch(vec![self.run()], &reporter) }.unwrap();
        (watch, events)
    }

    /// Leaves so many pages of the file.
    fn cut(&self, pages: u64) {
        self.file.set_len(pages * PAGE_BYTES).unwrap();
    }

    /// A thread that reads one byte of `page`.
    fn reader(&self, page: u64) -> Reader {
        let memory = Arc::clone(&self.memory);
        let went_on = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&went_on);
        let thread = thread::spawn(move || {
            let byte = read(&memory, page);
            flag.store(true, Ordering::SeqCst);
            byte
        });
        Reader { went_on, thread }
    }
}

struct Reader {
    went_on: Arc<AtomicBool>,
    thread: JoinHandle<u8>,
}

impl Reader {
    fn is_held(&self) -> bool {
        !self.went_on.load(Ordering::SeqCst)
    }
}

fn read(memory: &MmapRaw, page: u64) -> u8 {
    let offset = usize::try_from(page * PAGE_BYTES + 5).unwrap();
    // SAFETY: the byte is in the mapping, and nobody holds a reference to it.
    unsafe { memory.as_ptr().wrapping_add(offset).read_volatile() }
}

/// Waits until there is something to take; a guard that tells nothing fails here.
fn next(events: &MemoryEvents) -> Vec<MemoryFailure> {
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    let rung = poll(&mut fds, PollTimeout::from(30_000_u16)).unwrap();
    assert_eq!(rung, 1, "no event came");
    events.take()
}

fn told(failure: &MemoryFailure) -> (PageRange, u64) {
    match &failure.cause {
        FailureCause::Mapping { file, offset } if file == "memory.img" => (failure.pages, *offset),
        other => panic!("{other:?}"),
    }
}

// spec: HDL-16
#[test]
fn a_reader_of_a_cut_file_is_told_of_and_held_until_the_guest_is_abandoned() {
    let mapped = Mapped::new();
    let (watch, events) = mapped.watch();
    assert_eq!(mapped.reader(9).thread.join().unwrap(), 10);
    mapped.cut(4);
    let reader = mapped.reader(9);
    let failures = next(&events);
    assert_eq!(failures.len(), 1);
    let expected = (PageRange::new(FIRST + 9, 1), 9 * PAGE_BYTES);
    assert_eq!(told(&failures[0]), expected);
    assert!(reader.is_held());
    watch.abandon();
    assert_eq!(reader.thread.join().unwrap(), 0);
    // From now on nobody is held, and what the file still has is what it was.
    let pages: Vec<_> = (2..6)
        .map(|page| mapped.reader(page).thread.join().unwrap())
        .collect();
    assert_eq!(pages, [3, 4, 0, 0]);
    assert!(events.take().is_empty());
}

// spec: HDL-17
#[test]
fn a_guest_that_is_abandoned_frees_no_thread_of_another() {
    let (one, other) = (Mapped::new(), Mapped::new());
    let (first, first_events) = one.watch();
    let (second, second_events) = other.watch();
    one.cut(0);
    other.cut(0);
    let of_first: Vec<_> = (0..3).map(|page| one.reader(page)).collect();
    let of_second = other.reader(7);
    let mut lost = Vec::new();
    while lost.len() < 3 {
        lost.extend(
            next(&first_events)
                .iter()
                .map(|failure| told(failure).0.start.0),
        );
    }
    lost.sort_unstable();
    assert_eq!(lost, [FIRST, FIRST + 1, FIRST + 2]);
    assert_eq!(next(&second_events).len(), 1);
    first.abandon();
    for reader in of_first {
        assert_eq!(reader.thread.join().unwrap(), 0);
    }
    assert!(of_second.is_held());
    drop(second);
    assert_eq!(of_second.thread.join().unwrap(), 0);
}

// spec: HDL-18
#[test]
fn looking_finds_what_nobody_has_read() {
    let mapped = Mapped::new();
    let (watch, events) = mapped.watch();
    assert_eq!(watch.look().unwrap(), 0);
    assert!(events.take().is_empty());
    for kept in [13, 6, 0] {
        mapped.cut(kept);
        assert_eq!(watch.look().unwrap(), PAGES - kept);
        let failures = next(&events);
        assert_eq!(failures.len(), 1);
        let expected = PageRange::new(FIRST + kept, PAGES - kept);
        assert_eq!(told(&failures[0]), (expected, kept * PAGE_BYTES));
    }
}

#[test]
fn many_guests_come_and_go() {
    let mapped: Vec<_> = (0..200).map(|_| Mapped::new()).collect();
    for page in 1..4 {
        let watches: Vec<_> = mapped.iter().map(Mapped::watch).collect();
        let last = mapped.last().unwrap();
        last.cut(1);
        let reader = last.reader(page);
        let (watch, events) = watches.last().unwrap();
        assert_eq!(next(events).len(), 1);
        assert!(
            watches
                .iter()
                .rev()
                .skip(1)
                .all(|(_, events)| events.take().is_empty())
        );
        watch.abandon();
        assert_eq!(reader.thread.join().unwrap(), 0);
        last.cut(PAGES);
    }
}

// spec: EMB-01
#[cfg(target_arch = "x86_64")]
#[test]
fn under_its_filter() {
    let lists = [PROCESS, syscalls::BUS_GUARD];
    let prepare = || {
        let mapped = Mapped::new();
        mapped.cut(3);
        mapped
    };
    under_filter("under_its_filter", &lists, prepare, |mapped| {
        let (watch, events) = mapped.watch();
        assert_eq!(watch.look().unwrap(), PAGES - 3);
        assert_eq!(events.take().len(), 1);
        watch.abandon();
        assert_eq!((read(&mapped.memory, 2), read(&mapped.memory, 3)), (3, 0));
    });
}

/// Runs one of the tests below in a process of its own, where it plays its part.
fn in_child(test: &str) -> ExitStatus {
    let tests = env::current_exe().unwrap();
    let mut command = Command::new(tests);
    command
        .args(["--exact", test, "--nocapture"])
        .env(PART, test);
    command.output().unwrap().status
}

const PART: &str = "VMSNAP_BUS_GUARD_PART";

fn is_child() -> bool {
    env::var_os(PART).is_some()
}

// spec: HDL-19
#[test]
fn memory_that_nobody_watches_ends_the_process_as_before() {
    if is_child() {
        let (watched, unwatched) = (Mapped::new(), Mapped::new());
        let _watch = watched.watch();
        unwatched.cut(0);
        read(&unwatched.memory, 3);
        return;
    }
    let status = in_child("memory_that_nobody_watches_ends_the_process_as_before");
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

#[test]
fn a_signal_that_another_process_sends_ends_the_process_as_before() {
    if is_child() {
        handle_by(SigHandler::SigDfl);
        let watched = Mapped::new();
        let _watch = watched.watch();
        raise(Signal::SIGBUS).unwrap();
        return;
    }
    let status = in_child("a_signal_that_another_process_sends_ends_the_process_as_before");
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

fn handle_by(handler: SigHandler) {
    // SAFETY: the handlers of these tests do nothing but end the process.
    unsafe { signal(Signal::SIGBUS, handler) }.unwrap();
}

/// What the handler of the test below exits with.
const HANDLED: i32 = 77;

extern "C" fn earlier(_signal: i32) {
    // SAFETY: ends the process without unwinding.
    unsafe { libc::_exit(HANDLED) };
}

#[test]
fn a_handler_that_was_there_first_gets_what_is_not_watched() {
    if is_child() {
        handle_by(SigHandler::Handler(earlier));
        let (watched, unwatched) = (Mapped::new(), Mapped::new());
        let _watch = watched.watch();
        unwatched.cut(0);
        read(&unwatched.memory, 3);
        return;
    }
    let status = in_child("a_handler_that_was_there_first_gets_what_is_not_watched");
    assert_eq!(status.code(), Some(HANDLED), "{status}");
}
