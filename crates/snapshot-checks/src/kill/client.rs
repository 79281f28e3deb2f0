//! A VMM whose memory another process serves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use snapshot_format::PAGE_BYTES;
use snapshot_memory::{
    FailureCause, FaultModes, HandlerState, HandlerWatch, MappedMemory, MappingOptions,
    MemoryEvents, MemoryFailure, UffdContext, UffdOptions,
};
use snapshot_store::Store;
use tinyvm::Replay;

use super::judge::stood_at;
use super::task::{SEED, Said, Task};
use crate::random::Random;
use crate::stored_guest::{Failure, config};

/// For a handler that does not accept.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at the thread that reads.
const TICK: Duration = Duration::from_millis(1);

/// How the life of a memory ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Every page was seen, and was right.
    Whole,
    /// The handler ended before, which was told once; every page that was seen was right.
    Gone,
    /// Nobody took the memory.
    Unserved,
}

pub(super) fn run(task: &Task, store: &Store) -> Result<(), Failure> {
    let (socket, snapshot) = task.served()?;
    let mut random = Random::new(task.seed);
    let mut replay = Replay::new(&config(SEED))?;
    replay.advance(stood_at(store, &store.snapshot(snapshot)?)?)?;
    loop {
        match (live(socket, &replay, &mut random)?, task.once) {
            (End::Whole, true) => return Ok(()),
            (End::Whole, false) => Said::Done.say()?,
            (End::Gone, false) => return Said::Gone.say(),
            (End::Unserved, false) => return Said::Unserved.say(),
            (end, true) => return Err(format!("no handler served all of it: {end:?}").into()),
        }
    }
}

/// Maps memory, hands it over, and has a thread see every page.
fn live(socket: &Path, replay: &Replay, random: &mut Random) -> Result<End, Failure> {
    // Unmapped after the watch, which holds the userfaultfd: nobody reads its events when the
    // handler has ended.
    let memory = MappedMemory::new(config(SEED).layout()?, MappingOptions::default())?;
    let context = Arc::new(UffdContext::new(UffdOptions::default())?);
    let modes = FaultModes {
        missing: true,
        minor: false,
        writes: false,
    };
    let ranges = context.register(&memory, modes)?;
    let (events, reporter) = MemoryEvents::new()?;
    let Ok(mut watch) = HandlerWatch::connect(socket, context, ranges, reporter, PATIENCE) else {
        return Ok(End::Unserved);
    };
    Said::Done.say()?;
    let stopped = AtomicBool::new(false);
    let seed = random.next();
    let state = thread::scope(|scope| {
        let reader = scope.spawn(|| see_all(&memory, replay, seed, &stopped));
        let state = loop {
            let state = watch.wait(TICK);
            if state != HandlerState::Serving || reader.is_finished() {
                break state;
            }
        };
        if state == HandlerState::Gone {
            stopped.store(true, Ordering::Release);
            watch.abandon()?;
        }
        reader.join().map_err(|_| "the reader panicked")??;
        Ok::<_, Failure>(state)
    })?;
    // What was told is not told again.
    let told = events.take();
    watch.wait(TICK);
    match (state, told.as_slice(), events.take().as_slice()) {
        (HandlerState::Gone, [failure], []) if is_of_all(failure, replay) => Ok(End::Gone),
        (HandlerState::Gone, told, again) => {
            Err(format!("the end of the handler was told so: {told:?}, and {again:?}").into())
        }
        (_, [], _) => Ok(End::Whole),
        (_, told, _) => Err(format!("pages were lost: {told:?}").into()),
    }
}

/// Whether it says that nobody serves any page.
fn is_of_all(failure: &MemoryFailure, replay: &Replay) -> bool {
    let pages = failure.pages;
    matches!(failure.cause, FailureCause::ServerGone)
        && (pages.start.0, pages.count) == (0, replay.bytes().len() as u64 / PAGE_BYTES)
}

/// Sees every page in some order, and compares it, until the guest is stopped: what is read then
/// may be what was put in the place of pages that nobody serves.
fn see_all(
    memory: &MappedMemory,
    replay: &Replay,
    seed: u64,
    stopped: &AtomicBool,
) -> Result<(), String> {
    let page_bytes = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
    let expected: Vec<&[u8]> = replay.bytes().chunks(page_bytes).collect();
    let count = expected.len() as u64;
    let mut found = vec![0; page_bytes];
    for step in 0..count {
        // Each once: the count is a power of two.
        let page = seed.wrapping_add(step.wrapping_mul(seed | 1)) % count;
        let read = memory.read(page * PAGE_BYTES, &mut found);
        if stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        read.map_err(|error| error.to_string())?;
        let expected = usize::try_from(page).ok().and_then(|at| expected.get(at));
        if expected != Some(&found.as_slice()) {
            return Err(format!("page {page} is not as it was in the snapshot"));
        }
    }
    Ok(())
}
