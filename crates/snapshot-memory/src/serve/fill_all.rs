//! Filling memory that nobody waits for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use snapshot_format::{PageIndex, PageRange};

use super::ServeError;
use super::addresses::Part;
use super::buffer::buffer_for;
use super::engine::{Cause, Content, Engine, PlaceError};
use super::state::PageState;

/// How far filling in the background is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: PageIndex,
    is_done: bool,
    skipped: u64,
    /// Before when nothing more is to be read, as the rate is capped.
    not_before: Option<Instant>,
}

/// What a thread that fills is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The same again, unless somebody waits for a page.
    Worked,
    /// Nothing for as long.
    Wait(Option<Duration>),
    /// Nothing more.
    Done,
}

impl Engine {
    /// Fills the next piece that is absent.
    pub(super) fn fill_step(&self, buffer: &mut [u8]) -> Step {
        let mut state = self.progress.lock();
        if let Some(at) = state.not_before
            && let Some(left) = at.checked_duration_since(Instant::now())
        {
            return Step::Wait(Some(left));
        }
        let end = self.states.page_count();
        let start = state.next;
        if start.0 >= end || self.is_abandoned() {
            state.is_done = true;
            self.progress.changed.notify_all();
            return Step::Done;
        }
        drop(state);
        let pages = PageRange::new(start.0, self.step_pages().min(end - start.0));
        let result = self.fill(pages, buffer);
        let mut state = self.progress.lock();
        state.next = pages.end();
        match result {
            Ok(read) => state.not_before = self.next_read(read),
            Err(error) => {
                // Nobody may ever want it; who does is told why it does not come.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "skipped in the background"
                );
                state.skipped += pages.count;
            }
        }
        Step::Worked
    }

    /// Fills what is absent of `pages`, but for zero pages; gives the bytes read.
    pub(super) fn fill(&self, pages: PageRange, buffer: &mut [u8]) -> Result<u64, ServeError> {
        let mut read = 0;
        for part in self.map.parts(pages) {
            let mut rest = part.pages;
            while !rest.is_empty() {
                let (state, alike) = self.states.run(rest);
                let mut count = alike.max(1);
                if state == PageState::Absent {
                    let asked = PageRange::new(rest.start.0, count.min(self.step_pages()));
                    let (done, bytes) = self.fill_run(&part.of_pages(asked), buffer)?;
                    (count, read) = (done, read + bytes);
                }
                rest = PageRange::new(rest.start.0 + count, rest.count.saturating_sub(count));
            }
        }
        Ok(read)
    }

    /// Fills the run that `part` begins with, unless it is zero; gives its pages and the bytes
    /// read.
    fn fill_run(&self, part: &Part, buffer: &mut [u8]) -> Result<(u64, u64), ServeError> {
        let source = |pages| move |source| ServeError::source(pages, source);
        let run = self.origin.source().run(part.pages);
        let run = run.map_err(source(part.pages))?;
        let count = run.count.clamp(1, part.pages.count);
        if run.is_zero {
            return Ok((count, 0));
        }
        let here = part.slice(0, count);
        let bytes = buffer_for(here.pages, buffer);
        let read = bytes.len() as u64;
        let content = self.bring(here.pages, bytes).map_err(source(here.pages))?;
        self.put_in_place(&here, content, Cause::Background)?;
        Ok((count, read))
    }

    /// Has pages that were given back and not touched since be zero for good: a private mapping of
    /// a file would show its bytes again.
    pub(super) fn complete_discards(&self) -> Result<(), ServeError> {
        for part in self.map.ranges() {
            let mut rest = part.pages();
            while !rest.is_empty() {
                let (state, count) = self.states.run(rest);
                let count = count.clamp(1, rest.count);
                if state == PageState::Discarded {
                    let pages = PageRange::new(rest.start.0, count);
                    self.zero_discarded(pages)?;
                }
                rest = PageRange::new(rest.start.0 + count, rest.count - count);
            }
        }
        Ok(())
    }

    fn zero_discarded(&self, pages: PageRange) -> Result<(), ServeError> {
        for part in self.map.parts(pages) {
            for page in 0..part.pages.count {
                let placed = self.place_again(&part.slice(page, 1), Content::Zero);
                placed.map_err(given)?;
            }
        }
        Ok(())
    }

    /// As [`place`](Self::place), with the error that a caller is given.
    pub(super) fn put_in_place(
        &self,
        part: &Part,
        content: Content<'_>,
        cause: Cause,
    ) -> Result<(), ServeError> {
        self.place(part, content, cause).map_err(given)
    }

    /// Pages that are filled in one go: what a thread's buffer holds.
    fn step_pages(&self) -> u64 {
        self.options.window_pages
    }

    /// When the next piece may be read, after `read` bytes.
    fn next_read(&self, read: u64) -> Option<Instant> {
        let rate = self.options.background?.bytes_a_second?;
        let nanos = u128::from(read) * 1_000_000_000 / u128::from(rate.get());
        let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Instant::now().checked_add(pause)
    }

    /// Waits until a background fill has come to the end, at most for `limit`. Gives the pages
    /// that it had to skip; `None`: it is not done.
    pub(super) fn wait_filled(&self, limit: Duration) -> Option<u64> {
        let state = self.progress.lock();
        let is_busy = |state: &mut State| !state.is_done;
        let waited = self
            .progress
            .changed
            .wait_timeout_while(state, limit, is_busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_done.then_some(state.skipped)
    }
}

/// The error that a caller is given.
fn given(error: PlaceError) -> ServeError {
    if error.errno == Errno::ESRCH {
        return ServeError::PeerGone;
    }
    ServeError::system("fill pages by userfaultfd")(error.errno)
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
