//! Processes that stand still: who holds a lock, and who writes.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::{PAGE, Run, Sandbox, id, page, pattern};

/// A process that stands still; it is ended with the value.
struct Frozen(Child);

impl Frozen {
    /// Stops a child wherever it is.
    fn stop(child: Child) -> Self {
        let frozen = Self(child);
        frozen.signal(Signal::SIGSTOP);
        let stat = format!("/proc/{}/stat", frozen.0.id());
        // The state comes behind the name, which is in parentheses.
        let state = || {
            fs::read_to_string(&stat)
                .ok()?
                .rsplit(')')
                .next()?
                .trim()
                .chars()
                .next()
        };
        while !matches!(state(), None | Some('T' | 'Z')) {
            std::thread::sleep(Duration::from_millis(1));
        }
        frozen
    }

    /// A process that holds a lock of the store, stopped in the middle of it.
    fn holding(sandbox: &Sandbox, lock: &str) -> Self {
        let path = sandbox.store().join("locks").join(lock);
        // It takes the lock and becomes the other program: the kernel names the same process.
        let mut flock = Command::new("flock");
        let holder = flock.arg("--no-fork").arg(&path).args(["sleep", "600"]);
        let holder = holder.spawn().unwrap();
        let mut options = File::options();
        let probe = options.append(true).create(true).open(&path).unwrap();
        while probe.try_lock().is_ok() {
            probe.unlock().unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        Self::stop(holder)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    fn names(&self) -> String {
        format!("held by process {}", self.0.id())
    }

    /// It goes on, to its end.
    fn thaw(mut self) -> i32 {
        self.signal(Signal::SIGCONT);
        self.0.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two snapshots of one machine, without a parent.
fn two(sandbox: &Sandbox) -> [String; 2] {
    ["a", "b"].map(|name| {
        let memory = pattern(8, u64::from(name.as_bytes()[0]));
        id(&sandbox.import("vm", &memory, &["--name", name]))
    })
}

#[test]
fn a_lock_that_a_frozen_process_holds_ends_with_its_name() {
    let sandbox = Sandbox::new();
    two(&sandbox);
    let holder = Frozen::holding(&sandbox, "commit");
    let refused = sandbox.run(&["delete", "vm/a"]);
    // Who only looks needs no lock that changes hold.
    let read = sandbox.restored("vm/a");
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.stderr.contains(&holder.names()), "{refused:?}");
    assert_eq!(read, pattern(8, u64::from(b'a')));
    drop(holder);
    // Nothing is left of it.
    sandbox.json(&["delete", "vm/a"]);
}

// spec: GC-12
#[test]
fn beside_a_frozen_collection_all_goes_on_but_another_collection() {
    let sandbox = Sandbox::new();
    let [first, _] = two(&sandbox);
    sandbox.json(&["delete", &first]);
    let holder = Frozen::holding(&sandbox, "gc");
    let before = sandbox.listing();
    let refused = sandbox.run(&["gc"]);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.stderr.contains(&holder.names()), "{refused:?}");
    assert_eq!(sandbox.listing(), before);
    sandbox.import("vm", &pattern(8, 9), &["--name", "c"]);
    sandbox.json(&["undelete", &first]);
    assert_eq!(sandbox.restored(&first), pattern(8, u64::from(b'a')));
    sandbox.json(&["delete", &first]);
    drop(holder);
    let done = sandbox.json(&["gc"]);
    assert_eq!(done["collected"][0]["id"], first);
    assert_eq!(sandbox.restored("vm/c"), pattern(8, 9));
}

/// An import of so many pages onto `base`, stopped in the middle; `None` where it was faster.
fn frozen_import(sandbox: &Sandbox, base: &str, pages: usize) -> Option<Frozen> {
    let mut memory = pattern(pages, 1);
    page(&mut memory, 2).fill(7);
    sandbox.write("memory", &memory);
    let line = [
        "import", "vm", "--memory", "memory", "--parent", base, "--name", "late",
    ];
    let mut command = sandbox.command(&line);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let snapshots = sandbox.path("store/snapshots");
    let is_staged = || {
        let mut entries = fs::read_dir(&snapshots).unwrap();
        entries.any(|entry| {
            let name = entry.unwrap().file_name();
            name.as_encoded_bytes().starts_with(b".stage-")
        })
    };
    while !is_staged() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let frozen = Frozen::stop(child);
    is_staged().then_some(frozen)
}

#[test]
fn a_writer_that_stands_still_through_whole_collections_publishes_what_it_read() {
    for pages in [4_000, 16_000, 64_000] {
        let sandbox = Sandbox::new();
        let mut memory = pattern(pages, 1);
        let base = id(&sandbox.import("vm", &memory, &["--name", "base"]));
        let other = id(&sandbox.import("vm", &pattern(8, 2), &[]));
        let Some(writer) = frozen_import(&sandbox, &base, pages) else {
            continue;
        };
        // Its parent is in use: by whom is said.
        let refused = sandbox.run(&["delete", &base]);
        assert_eq!(refused.code, 13, "{refused:?}");
        assert!(refused.stderr.contains(&writer.names()), "{refused:?}");
        sandbox.json(&["delete", &other]);
        for _ in 0..2 {
            let done = sandbox.json(&["gc"]);
            assert!(done["problems"].as_array().unwrap().is_empty(), "{done}");
        }
        // Opening a store clears what dead writers left, and this one is not dead.
        assert_eq!(writer.thaw(), 0);
        page(&mut memory, 2).fill(7);
        assert!(sandbox.restored("vm/late") == memory);
        memory[2 * PAGE..3 * PAGE].copy_from_slice(page(&mut pattern(pages, 1), 2));
        assert!(sandbox.restored(&base) == memory);
        assert_eq!(sandbox.json(&["verify"])["ok"], true);
        return;
    }
    panic!("every import was faster than the signal");
}

#[test]
fn what_a_writer_that_was_frozen_and_killed_left_is_cleared() {
    for pages in [4_000, 16_000, 64_000] {
        let sandbox = Sandbox::new();
        let base = id(&sandbox.import("vm", &pattern(pages, 1), &["--name", "base"]));
        let before = sandbox.listing();
        let Some(writer) = frozen_import(&sandbox, &base, pages) else {
            continue;
        };
        drop(writer);
        sandbox.json(&["gc"]);
        let mut after = sandbox.listing();
        after.retain(|path, _| !path.ends_with("reserve"));
        assert_eq!(before, after);
        let again = Run::of(&sandbox.command(&["delete", &base]).output().unwrap());
        assert_eq!(again.code, 0, "{again:?}");
        return;
    }
    panic!("every import was faster than the signal");
}
