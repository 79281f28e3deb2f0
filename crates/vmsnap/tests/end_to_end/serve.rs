//! Memory of VMs in other processes: these tests are the VMs.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStderr, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snapshot_format::{MemoryLayout, PAGE_BYTES};
use snapshot_memory::skip::skip;
use snapshot_memory::{
    FailureCause, FaultModes, HandlerState, HandlerWatch, MappedMemory, MappingOptions,
    MemoryEvents, UffdContext, UffdOptions,
};

use crate::sandbox::{PAGE, Run, Sandbox, page, pattern};
use crate::schemas::check;

const LIMIT: Duration = Duration::from_mins(1);

/// A running `vmsnap serve`.
struct Serving {
    child: Child,
    _notes: BufReader<ChildStderr>,
}

impl Serving {
    /// Returns when it listens.
    fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let mut command = sandbox.command(&[&["serve", "--json"], arguments].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut notes = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        notes.read_line(&mut line).unwrap();
        assert!(line.starts_with("vmsnap: serving snapshot"), "{line}");
        Self {
            child,
            _notes: notes,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    fn end(self) -> Run {
        let output: Output = self.child.wait_with_output().unwrap();
        Run::of(&output)
    }
}

/// Memory of this process that waits for `vmsnap serve`.
struct Guest {
    memory: MappedMemory,
    watch: HandlerWatch,
    events: MemoryEvents,
}

/// A guest of as many pages; `None`, and a skip, where the host lets nobody serve it.
fn guest(sandbox: &Sandbox, pages: u64) -> Option<Guest> {
    let context = match UffdContext::new(UffdOptions::default()) {
        Ok(context) => Arc::new(context),
        Err(error) => {
            skip("uffd", &error.to_string());
            return None;
        }
    };
    let layout = MemoryLayout::single(pages * PAGE_BYTES).unwrap();
    let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    let modes = FaultModes {
        missing: true,
        minor: false,
        writes: false,
    };
    let ranges = context.register(&memory, modes).unwrap();
    let (events, reporter) = MemoryEvents::new().unwrap();
    let socket = sandbox.path("pages");
    let watch = HandlerWatch::connect(&socket, context, ranges, reporter, LIMIT).unwrap();
    Some(Guest {
        memory,
        watch,
        events,
    })
}

fn can_serve() -> bool {
    let made = UffdContext::new(UffdOptions::default());
    made.inspect_err(|error| skip("uffd", &error.to_string()))
        .is_ok()
}

fn read(guest: &Guest, page: usize) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    guest.memory.read((page * PAGE) as u64, &mut bytes).unwrap();
    bytes
}

// spec: CLI-50
// spec: CLI-52
#[test]
fn a_vm_gets_every_page_and_what_it_touched_is_recorded() {
    if !can_serve() {
        return;
    }
    let sandbox = Sandbox::new();
    let mut memory = pattern(100, 1);
    sandbox.import("vm", &memory, &[]);
    page(&mut memory, 31).fill(9);
    sandbox.import("vm", &memory, &["--parent", "vm@latest"]);
    let arguments = ["vm@latest", "--socket", "pages", "--once", "--record"];
    let serving = Serving::start(&sandbox, &arguments);
    let guest = guest(&sandbox, 100).unwrap();
    for number in [31, 5, 99, 30] {
        assert!(
            read(&guest, number) == memory[number * PAGE..][..PAGE],
            "{number}"
        );
    }
    drop(guest);
    let run = serving.end();
    assert_eq!(run.code, 0, "{run:?}");
    let document = run.document();
    check("vmsnap.serve.v1", &document);
    assert_eq!(document["verification"], "on-fault");
    assert_eq!(document["machines"], 1);
    assert_eq!(document["refreshes"], serde_json::json!({"first": 1}));
    // Pages 5 and 30 are zero.
    assert_eq!(document["recorded"]["data_pages"], 2);
    assert_eq!(document["recorded"]["zero_pages"], 2);
    assert_eq!(sandbox.run(&["verify"]).code, 0);
}

// spec: VCM-11
#[test]
fn a_vm_gets_its_pages_straight_from_an_archive() {
    if !can_serve() {
        return;
    }
    let sandbox = Sandbox::new();
    let memory = pattern(100, 1);
    sandbox.import("vm", &memory, &[]);
    sandbox.json(&["archive", "vm@latest", "--vault", "cold", "--delete"]);
    let arguments = ["vm@latest", "--socket", "pages", "--once", "--archived"];
    let serving = Serving::start(&sandbox, &[&arguments[..], &["--vault", "cold"]].concat());
    let leased = sandbox.json(&["vault", "list", "--vault", "cold"]);
    assert_eq!(
        leased["leases"][0]["archive"],
        leased["archives"][0]["archive"]
    );
    let guest = guest(&sandbox, 100).unwrap();
    for number in [31, 5, 99, 30] {
        let expected = &memory[number * PAGE..][..PAGE];
        assert!(read(&guest, number) == expected, "{number}");
    }
    drop(guest);
    let run = serving.end();
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.document()["machines"], 1);
    let listed = sandbox.json(&["vault", "list", "--vault", "cold"]);
    assert_eq!(listed["leases"], serde_json::json!([]));
}

// spec: CLI-50
#[test]
fn every_page_is_filled_in_the_background_and_the_vm_let_go() {
    if !can_serve() {
        return;
    }
    let sandbox = Sandbox::new();
    let memory = pattern(700, 2);
    sandbox.import("vm", &memory, &[]);
    let arguments = [
        "vm@latest",
        "--socket",
        "pages",
        "--once",
        "--fill",
        "--verify",
        "eager",
    ];
    let serving = Serving::start(&sandbox, &arguments);
    let mut guest = guest(&sandbox, 700).unwrap();
    while guest.watch.wait(LIMIT) == HandlerState::Serving {}
    assert_eq!(guest.watch.look(), HandlerState::Finished);
    let run = serving.end();
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.document()["verification"], "eager");
    let mut all = vec![0; memory.len()];
    guest.memory.read(0, &mut all).unwrap();
    assert!(all == memory);
    assert!(guest.events.take().is_empty());
}

// spec: CLI-50
#[test]
fn a_signal_ends_it_and_tells_whether_a_vm_was_left_waiting() {
    if !can_serve() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.import("vm", &pattern(20, 3), &[]);
    let arguments = ["vm@latest", "--socket", "pages"];
    let idle = Serving::start(&sandbox, &arguments);
    idle.signal(Signal::SIGTERM);
    let run = idle.end();
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.document()["recorded"], serde_json::Value::Null);
    assert!(!sandbox.path("pages").exists());
    let busy = Serving::start(&sandbox, &arguments);
    let mut guest = guest(&sandbox, 20).unwrap();
    assert!(read(&guest, 1) == pattern(20, 3)[PAGE..][..PAGE]);
    busy.signal(Signal::SIGINT);
    let run = busy.end();
    assert_eq!(run.code, 130, "{run:?}");
    assert_eq!(run.document()["left_waiting"], 1);
    assert_eq!(guest.watch.wait(LIMIT), HandlerState::Gone);
    let failures = guest.events.take();
    assert!(
        matches!(failures[0].cause, FailureCause::ServerGone),
        "{failures:?}"
    );
}

// spec: CLI-50
#[test]
fn a_damaged_page_is_told_and_reaches_no_guest() {
    if !can_serve() {
        return;
    }
    let sandbox = Sandbox::new();
    let memory = pattern(64, 4);
    let imported = sandbox.import("vm", &memory, &["--layout", "sparse"]);
    let id = imported["id"].as_str().unwrap();
    let path = sandbox.path(&format!("store/snapshots/{id}/memory.img"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[33 * PAGE + 7] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let eager = [
        "serve",
        "vm@latest",
        "--socket",
        "pages",
        "--verify",
        "eager",
    ];
    sandbox.refused(&eager, 4);
    let serving = Serving::start(&sandbox, &["vm@latest", "--socket", "pages", "--once"]);
    let mut guest = guest(&sandbox, 64).unwrap();
    assert!(read(&guest, 1) == memory[PAGE..][..PAGE]);
    let memory = &guest.memory;
    let (watch, events) = (&mut guest.watch, &guest.events);
    let failures = std::thread::scope(|scope| {
        let held = scope.spawn(move || {
            let mut byte = [7];
            memory.read(33 * PAGE_BYTES + 7, &mut byte).unwrap();
            byte[0]
        });
        let failures = loop {
            assert_eq!(watch.wait(LIMIT), HandlerState::Serving);
            let failures = events.take();
            if !failures.is_empty() {
                break failures;
            }
        };
        assert!(!held.is_finished());
        watch.abandon().unwrap();
        assert_eq!(held.join().unwrap(), 0);
        failures
    });
    assert!(failures[0].pages.start.0 <= 33 && failures[0].pages.end().0 > 33);
    let cause = format!("{:?}", failures[0].cause);
    assert!(cause.contains("memory.img"), "{cause}");
    drop(guest);
    let run = serving.end();
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.document()["lost_pages"], 1);
}

// spec: CLI-51
#[test]
fn a_socket_takes_the_place_of_nothing_but_a_forsaken_one() {
    let sandbox = Sandbox::new();
    sandbox.import("vm", &pattern(2, 5), &[]);
    sandbox.write("taken", b"a file");
    let taken = UnixListener::bind(sandbox.path("listening")).unwrap();
    for path in ["taken", "listening"] {
        sandbox.refused(&["serve", "vm@latest", "--socket", path], 12);
    }
    drop(taken);
    let serving = Serving::start(&sandbox, &["vm@latest", "--socket", "listening"]);
    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.end().code, 0);
    sandbox.refused(&["serve", "vm@latest", "--socket", "store/cache/pages"], 13);
    sandbox.refused(
        &["serve", "vm@latest", "--socket", "store/snapshots/pages"],
        13,
    );
    sandbox.refused(
        &["serve", "vm@latest", "--socket", "p", "--verify", "trusted"],
        2,
    );
    sandbox.refused(&["serve", "vm/none", "--socket", "p"], 3);
}
