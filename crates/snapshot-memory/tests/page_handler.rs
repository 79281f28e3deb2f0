//! A page handler and its VMs, in processes of their own.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "gives pages back as a balloon does")]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "the tests fail by panicking"
)]

// UNSAFETY: madvise of guest memory that these tests map.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange};
use snapshot_memory::skip::skip;
use snapshot_memory::syscalls::{self, PROCESS};
use snapshot_memory::testing::under_filter;
use snapshot_memory::{
    Background, FailureCause, FaultModes, HandlerEvent, HandlerOptions, HandlerState, HandlerStop,
    HandlerWatch, HandshakeError, MappedMemory, MappingOptions, MemoryEvents, PageHandler, PageRun,
    PageSource, ServeOptions, ServedRange, ServiceEnd, ServiceRefused, SourceError, UffdContext,
    UffdOptions,
};

/// Pages of a guest, in two regions with a hole between.
const PAGES: u64 = 600;

/// How long a test waits for what must come.
const LIMIT: Duration = Duration::from_mins(1);

fn layout() -> MemoryLayout {
    let region = |start, pages: u64| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(vec![region(0, 400), region(1 << 32, PAGES - 400)]).unwrap()
}

/// Every page holds its number, but for every fifth, which is zero.
#[derive(Debug)]
struct Numbered {
    layout: MemoryLayout,
    damaged: Option<u64>,
}

fn number(page: u64) -> u64 {
    if page.is_multiple_of(5) { 0 } else { page }
}

impl PageSource for Numbered {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        let is_zero = pages.start.0.is_multiple_of(5);
        let count = if is_zero { 1 } else { 5 - pages.start.0 % 5 };
        let count = count.min(pages.count);
        Ok(PageRun { count, is_zero })
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        let (words, _) = out.as_chunks_mut::<8>();
        for (at, word) in (0..).zip(words) {
            let page = pages.start.0 + at * 8 / PAGE_BYTES;
            if self.damaged == Some(page) {
                return Err(SourceError::Other("the disk is on fire".into()));
            }
            *word = number(page).to_le_bytes();
        }
        Ok(())
    }
}

/// A guest of this process, whose memory waits for a handler.
struct Guest {
    memory: Arc<MappedMemory>,
    context: Arc<UffdContext>,
    ranges: Vec<ServedRange>,
}

impl Guest {
    fn new() -> Self {
        let memory = Arc::new(MappedMemory::new(layout(), MappingOptions::default()).unwrap());
        let context = UffdContext::new(UffdOptions::default()).unwrap();
        let modes = FaultModes {
            missing: true,
            minor: false,
            writes: false,
        };
        // As two regions, though they are neighbours here.
        let whole = context.register(&*memory, modes).unwrap();
        let start = whole[0].addresses.start;
        let range = |first: u64, pages: u64| ServedRange {
            addresses: start + first * PAGE_BYTES..start + (first + pages) * PAGE_BYTES,
            first: snapshot_format::PageIndex(first),
        };
        Self {
            memory,
            context: Arc::new(context),
            ranges: vec![range(0, 400), range(400, PAGES - 400)],
        }
    }

    /// What is at the end of a page.
    fn read(&self, page: u64) -> u64 {
        read(&self.memory, page)
    }

    fn check_all(&self) {
        // Neither in order nor by windows.
        for step in 0..PAGES {
            let page = step * 367 % PAGES;
            assert_eq!(self.read(page), number(page), "page {page}");
        }
    }

    /// Gives a page back, as a balloon does.
    fn give_back(&self, page: u64) {
        let offset = usize::try_from(page * PAGE_BYTES).unwrap();
        let len = usize::try_from(PAGE_BYTES).unwrap();
        let place = self.memory.base().as_ptr().wrapping_add(offset);
        let place = std::ptr::NonNull::new(place).unwrap().cast();
        // SAFETY: the page is part of the mapping, to which there are no references.
        unsafe { madvise(place, len, MmapAdvise::MADV_DONTNEED) }.unwrap();
    }

    /// A thread that reads a page.
    fn reader(&self, page: u64) -> JoinHandle<u64> {
        let memory = Arc::clone(&self.memory);
        thread::spawn(move || read(&memory, page))
    }

    fn hand_over(&self, socket: &Path) -> (HandlerWatch, MemoryEvents) {
        let (events, reporter) = MemoryEvents::new().unwrap();
        let (context, ranges) = (Arc::clone(&self.context), self.ranges.clone());
        let watch = HandlerWatch::connect(socket, context, ranges, reporter, LIMIT);
        (watch.unwrap(), events)
    }
}

fn read(memory: &MappedMemory, page: u64) -> u64 {
    let mut bytes = [0; 8];
    memory
        .read((page + 1) * PAGE_BYTES - 8, &mut bytes)
        .unwrap();
    u64::from_le_bytes(bytes)
}

/// Whether this host lets a process serve the faults of another.
fn can_serve() -> bool {
    let made = UffdContext::new(UffdOptions::default());
    made.inspect_err(|error| skip("uffd", &error.to_string()))
        .is_ok()
}

/// A handler on a thread of this process.
struct Handler {
    folder: tempfile::TempDir,
    stop: HandlerStop,
    events: Receiver<HandlerEvent>,
    thread: JoinHandle<()>,
}

impl Handler {
    fn start(options: HandlerOptions, damaged: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout();
        let source = Arc::new(Numbered { layout, damaged });
        let path = folder.path().join("pages.sock");
        let handler = PageHandler::bind(&path, source, options).unwrap();
        let stop = handler.stopper();
        let (sender, events) = channel::<HandlerEvent>();
        let thread = thread::spawn(move || {
            let sender: Sender<_> = sender;
            handler.run(&|event| sender.send(event).unwrap()).unwrap();
        });
        Self {
            folder,
            stop,
            events,
            thread,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("pages.sock")
    }

    fn next(&self) -> HandlerEvent {
        self.events.recv_timeout(LIMIT).unwrap()
    }

    fn end(self) {
        self.stop.stop();
        self.thread.join().unwrap();
    }
}

fn options() -> HandlerOptions {
    HandlerOptions::new(ServeOptions::new(0))
}

/// In the environment of a child: the part that it plays, and the socket.
const PART: &str = "VMSNAP_HANDLER_PART";
const SOCKET: &str = "VMSNAP_HANDLER_SOCKET";

/// A process that plays `part`, which is a test of this file that does nothing else.
fn child(part: &str, socket: &Path) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", part, "--nocapture", "--quiet"]);
    command.env(PART, part).env(SOCKET, socket);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// The socket, in a process that plays `part`.
fn plays(part: &str) -> Option<PathBuf> {
    let is_part = env::var_os(PART).is_some_and(|name| name == part);
    is_part.then(|| env::var_os(SOCKET).unwrap().into())
}

/// Says a line to whoever started this process.
fn say(word: &str) {
    let mut out = io::stdout();
    writeln!(out, "{word}").unwrap();
    out.flush().unwrap();
}

/// Waits until a child has said `word`.
fn await_word(child: &mut Child, word: &str) {
    let out = child.stdout.as_mut().unwrap();
    let mut said = Vec::new();
    while !said.ends_with(format!("{word}\n").as_bytes()) {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).unwrap(), 1, "it ended: {said:?}");
        said.push(byte[0]);
    }
}

/// What Firecracker does when it loads a snapshot with a page handler: one message with the
/// descriptor beside it, and the connection is closed.
fn hand_over_as_firecracker(socket: &Path, guest: &Guest) {
    let region = |range: &ServedRange| {
        format!(
            r#"{{"base_host_virt_addr":{},"size":{},"offset":{},"page_size":4096,"page_size_kib":4096}}"#,
            range.addresses.start,
            range.addresses.end - range.addresses.start,
            range.first.0 * PAGE_BYTES,
        )
    };
    let regions: Vec<_> = guest.ranges.iter().map(region).collect();
    let message = format!("[{}]", regions.join(","));
    send_raw(socket, message.as_bytes(), Some(guest.context.as_fd()));
}

fn send_raw(socket: &Path, message: &[u8], fd: Option<BorrowedFd<'_>>) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    let numbers: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if fd.is_some() { &rights[..] } else { &[] };
    let parts = [IoSlice::new(message)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &parts, control, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(message.len()));
    stream
}

/// The part of a VMM that speaks as Firecracker does, and whose guest uses a balloon.
#[test]
fn part_firecracker() {
    let Some(socket) = plays("part_firecracker") else {
        return;
    };
    let guest = Guest::new();
    hand_over_as_firecracker(&socket, &guest);
    guest.memory.write(7 * PAGE_BYTES, b"written").unwrap();
    for page in [8, 401] {
        assert_eq!(guest.read(page), page);
        guest.give_back(page);
        assert_eq!(guest.read(page), 0, "page {page} was given back");
        guest
            .memory
            .write((page + 1) * PAGE_BYTES - 8, &page.to_le_bytes())
            .unwrap();
    }
    // One that was never touched is not brought back either.
    guest.give_back(333);
    assert_eq!(guest.read(333), 0);
    guest
        .memory
        .write(334 * PAGE_BYTES - 8, &333_u64.to_le_bytes())
        .unwrap();
    guest.check_all();
    let mut start = [0; 7];
    guest.memory.read(7 * PAGE_BYTES, &mut start).unwrap();
    assert_eq!(&start, b"written");
    say("checked");
    // Until it is told to end, or is killed.
    let _ = io::stdin().read(&mut [0]);
}

/// The part of a handler that is going to be killed.
#[test]
fn part_handler() {
    let Some(socket) = plays("part_handler") else {
        return;
    };
    let layout = layout();
    let damaged = None;
    let handler = PageHandler::bind(&socket, Arc::new(Numbered { layout, damaged }), options());
    let handler = handler.unwrap();
    say("listening");
    handler.run(&|_| ()).unwrap();
}

// spec: HDL-01
// spec: HDL-06
// spec: SRV-04
#[test]
fn a_vmm_that_speaks_as_firecracker_does_is_served_from_another_process() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options().once(true), None);
    let mut vmm = child("part_firecracker", &handler.socket());
    let HandlerEvent::Began { pid, pages, .. } = handler.next() else {
        panic!("it did not begin");
    };
    assert_eq!(pid, i32::try_from(vmm.id()).ok());
    assert_eq!(pages, PAGES);
    await_word(&mut vmm, "checked");
    drop(vmm.stdin.take());
    assert!(vmm.wait().unwrap().success());
    let HandlerEvent::Ended { end, stats, .. } = handler.next() else {
        panic!("it did not end");
    };
    assert_eq!(end, ServiceEnd::Gone);
    assert!(
        stats.faults > 0 && stats.demand_pages > 0 && stats.zero_pages > 0,
        "{stats:?}"
    );
    assert_eq!((stats.discarded_pages, stats.lost_pages), (3, 0));
    // Once was enough: it ends by itself.
    handler.thread.join().unwrap();
}

// spec: HDL-07
#[test]
fn several_vms_are_served_beside_peers_that_are_none() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options().patience(Duration::from_secs(1)), None);
    let silent = UnixStream::connect(handler.socket()).unwrap();
    send_raw(&handler.socket(), b"GET / HTTP/1.1\r\n\r\n", None);
    send_raw(&handler.socket(), b"[]", Some(silent.as_fd()));
    let mut vmms: Vec<_> = (0..3)
        .map(|_| child("part_firecracker", &handler.socket()))
        .collect();
    for vmm in &mut vmms {
        await_word(vmm, "checked");
    }
    for mut vmm in vmms {
        drop(vmm.stdin.take());
        assert!(vmm.wait().unwrap().success());
    }
    let mut counts = BTreeMap::new();
    // Three of them begin and end; three others are refused, the silent one when its time is up.
    for _ in 0..9 {
        let what = match handler.next() {
            HandlerEvent::Began { .. } => "began",
            HandlerEvent::Ended { .. } => "ended",
            HandlerEvent::Refused { error, .. } => match error {
                ServiceRefused::Handshake(HandshakeError::Late(_)) => "late",
                ServiceRefused::Handshake(HandshakeError::NoArray) => "no array",
                ServiceRefused::Handshake(HandshakeError::Count(0)) => "empty",
                other => panic!("{other}"),
            },
            other => panic!("{other:?}"),
        };
        *counts.entry(what).or_insert(0) += 1;
    }
    let expected = [
        ("began", 3),
        ("empty", 1),
        ("ended", 3),
        ("late", 1),
        ("no array", 1),
    ];
    assert_eq!(counts, expected.into_iter().collect());
    handler.end();
    drop(silent);
}

// spec: HDL-08
#[test]
fn the_end_of_a_vmm_that_is_killed_is_noticed_and_the_next_one_is_served() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options(), None);
    for _ in 0..2 {
        let mut vmm = child("part_firecracker", &handler.socket());
        assert!(matches!(handler.next(), HandlerEvent::Began { .. }));
        await_word(&mut vmm, "checked");
        vmm.kill().unwrap();
        vmm.wait().unwrap();
        let event = handler.next();
        assert!(
            matches!(
                event,
                HandlerEvent::Ended {
                    end: ServiceEnd::Gone,
                    ..
                }
            ),
            "{event:?}"
        );
    }
    handler.end();
}

// spec: HDL-09
// spec: HDL-10
#[test]
fn pages_that_the_handler_cannot_read_are_told_to_the_vmm_and_held() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options(), Some(42));
    let guest = Guest::new();
    let (mut watch, events) = guest.hand_over(&handler.socket());
    assert_eq!(guest.read(7), 7);
    let reader = guest.reader(42);
    let failures = loop {
        assert_eq!(watch.wait(LIMIT), HandlerState::Serving);
        let failures = events.take();
        if !failures.is_empty() {
            break failures;
        }
    };
    assert_eq!(failures[0].pages, PageRange::new(42, 1));
    let FailureCause::Source(cause) = &failures[0].cause else {
        panic!("{:?}", failures[0]);
    };
    assert!(cause.to_string().contains("the disk is on fire"), "{cause}");
    assert!(!reader.is_finished());
    assert!(matches!(handler.next(), HandlerEvent::Began { .. }));
    assert!(matches!(handler.next(), HandlerEvent::Lost { .. }));
    // Others are still served.
    assert_eq!(guest.read(599), 599);
    watch.abandon().unwrap();
    assert_eq!(reader.join().unwrap(), 0);
    handler.end();
}

// spec: HDL-11
#[test]
fn a_handler_that_is_killed_is_an_event_and_no_wrong_byte() {
    if !can_serve() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pages.sock");
    let mut handler = child("part_handler", &socket);
    await_word(&mut handler, "listening");
    let guest = Guest::new();
    let (mut watch, events) = guest.hand_over(&socket);
    for page in [1, 2, 451] {
        assert_eq!(guest.read(page), page);
    }
    assert_eq!(watch.look(), HandlerState::Serving);
    handler.kill().unwrap();
    handler.wait().unwrap();
    assert_eq!(watch.wait(LIMIT), HandlerState::Gone);
    let failures = events.take();
    assert_eq!(failures.len(), 1);
    assert!(
        matches!(failures[0].cause, FailureCause::ServerGone),
        "{failures:?}"
    );
    assert_eq!(failures[0].pages, PageRange::new(0, PAGES));
    // It is told once.
    assert_eq!(watch.look(), HandlerState::Gone);
    assert!(events.take().is_empty());
    let reader = guest.reader(300);
    let giving = {
        let memory = Guest {
            memory: Arc::clone(&guest.memory),
            context: Arc::clone(&guest.context),
            ranges: Vec::new(),
        };
        thread::spawn(move || memory.give_back(2))
    };
    // What is there stays readable; what is not waits, and so does who gives pages back.
    assert_eq!(guest.read(1), 1);
    assert!(!reader.is_finished());
    watch.abandon().unwrap();
    assert_eq!(reader.join().unwrap(), 0);
    giving.join().unwrap();
}

// spec: HDL-12
#[test]
fn memory_that_is_complete_needs_no_handler_any_more() {
    if !can_serve() {
        return;
    }
    let serve = ServeOptions::new(0).background(Background::default());
    let options = HandlerOptions::new(serve).finishes(true);
    let handler = Handler::start(options, None);
    let guest = Guest::new();
    let (mut watch, events) = guest.hand_over(&handler.socket());
    assert!(matches!(handler.next(), HandlerEvent::Began { .. }));
    while watch.wait(LIMIT) == HandlerState::Serving {}
    assert_eq!(watch.look(), HandlerState::Finished);
    let event = handler.next();
    assert!(
        matches!(
            event,
            HandlerEvent::Ended {
                end: ServiceEnd::Complete,
                ..
            }
        ),
        "{event:?}"
    );
    handler.end();
    guest.check_all();
    guest.give_back(9);
    assert_eq!(guest.read(9), 0);
    assert_eq!(watch.look(), HandlerState::Finished);
    assert!(events.take().is_empty());
}

// spec: HDL-13
#[test]
fn a_vm_of_a_process_that_goes_on_is_let_go() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options(), None);
    for _ in 0..3 {
        let guest = Guest::new();
        let (watch, _events) = guest.hand_over(&handler.socket());
        guest.check_all();
        drop(watch);
        assert!(matches!(handler.next(), HandlerEvent::Began { .. }));
        let event = handler.next();
        assert!(
            matches!(
                event,
                HandlerEvent::Ended {
                    end: ServiceEnd::Bye,
                    ..
                }
            ),
            "{event:?}"
        );
    }
    handler.end();
}

// spec: HDL-07
#[test]
fn a_vm_that_hides_memory_from_the_handler_waits_for_itself_only() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options(), None);
    let (mut hiding, honest) = (Guest::new(), Guest::new());
    let all = hiding.ranges.clone();
    hiding.ranges.truncate(1);
    let (_watch, _events) = hiding.hand_over(&handler.socket());
    let (_other_watch, _other_events) = honest.hand_over(&handler.socket());
    let hidden = hiding.reader(500);
    loop {
        match handler.next() {
            HandlerEvent::Began { .. } => {}
            HandlerEvent::Lost { failure, .. } => {
                assert!(
                    matches!(failure.cause, FailureCause::Place { .. }),
                    "{failure:?}"
                );
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(hiding.read(399), 399);
    honest.check_all();
    assert!(!hidden.is_finished());
    hiding.context.unregister(&all).unwrap();
    assert_eq!(hidden.join().unwrap(), 0);
    handler.end();
}

// spec: EMB-01
#[cfg(target_arch = "x86_64")]
#[test]
fn a_vmm_under_its_filter() {
    if !can_serve() {
        return;
    }
    let lists = [PROCESS, syscalls::BUS_GUARD, syscalls::HANDLER_WATCH];
    let prepare = || {
        let handler = Handler::start(options(), None);
        let guest = Guest::new();
        (handler, guest)
    };
    under_filter(
        "a_vmm_under_its_filter",
        &lists,
        prepare,
        |(handler, guest)| {
            let (mut watch, events) = guest.hand_over(&handler.socket());
            assert_eq!(guest.read(31), 31);
            assert_eq!(watch.wait(Duration::ZERO), HandlerState::Serving);
            assert!(events.take().is_empty());
            watch.abandon().unwrap();
            assert_eq!(guest.read(599), 0);
            drop(watch);
            std::mem::forget(handler);
        },
    );
}

// spec: EMB-01
#[cfg(target_arch = "x86_64")]
#[test]
fn a_handler_under_its_filter() {
    if !can_serve() {
        return;
    }
    let lists = [PROCESS, syscalls::CAPTURE_THREADS, syscalls::PAGE_HANDLER];
    let prepare = || {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("pages.sock");
        // One that was left behind.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let there = socket.clone();
        let guest = Guest::new();
        let vmm = thread::spawn(move || {
            while UnixStream::connect(&there).is_err() {
                thread::yield_now();
            }
            let (watch, _events) = guest.hand_over(&there);
            guest.check_all();
            drop(watch);
        });
        (folder, socket, vmm)
    };
    under_filter(
        "a_handler_under_its_filter",
        &lists,
        prepare,
        |(folder, socket, vmm)| {
            let (layout, damaged) = (layout(), None);
            let source = Arc::new(Numbered { layout, damaged });
            let handler = PageHandler::bind(&socket, source, options().once(true)).unwrap();
            handler.run(&|_| ()).unwrap();
            vmm.join().unwrap();
            drop(handler);
            std::mem::forget(folder);
        },
    );
}

#[test]
fn at_most_so_many_vms_are_served_at_once() {
    if !can_serve() {
        return;
    }
    let handler = Handler::start(options().machines(1), None);
    let first = Guest::new();
    let (watch, _events) = first.hand_over(&handler.socket());
    assert_eq!(first.read(1), 1);
    let second = Guest::new();
    let (_second_watch, _second_events) = second.hand_over(&handler.socket());
    let reader = second.reader(2);
    assert!(matches!(
        handler.next(),
        HandlerEvent::Began { machine: 1, .. }
    ));
    assert_eq!(first.read(99), 99);
    assert!(!reader.is_finished());
    drop(watch);
    assert_eq!(reader.join().unwrap(), 2);
    assert!(matches!(
        handler.next(),
        HandlerEvent::Ended { machine: 1, .. }
    ));
    assert!(matches!(
        handler.next(),
        HandlerEvent::Began { machine: 2, .. }
    ));
    handler.end();
}
