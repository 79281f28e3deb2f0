//! A thread that serves.

use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use snapshot_format::{PageIndex, PageRange};

use super::addresses::Part;
use super::bell::Woken;
use super::buffer::{Buffer, buffer_for};
use super::engine::{Cause, Content, Engine, PlaceError};
use super::fill_all::Step;
use super::state::PageState;
use super::stats::Counter;
use crate::priority::lower_priority;
use crate::restore::{FailureCause, MemoryFailure, SourceError};
use crate::uffd::Message;

/// What a thread that serves has of its own.
#[derive(Debug)]
pub(super) struct Worker {
    engine: Arc<Engine>,
    buffer: Buffer,
    messages: Vec<Message>,
    fills: bool,
}

/// A page that is waited for did not come.
#[derive(Debug)]
enum Failed {
    Source(Box<SourceError>),
    Place(PlaceError),
}

impl Failed {
    fn source(error: SourceError) -> Self {
        Self::Source(Box::new(error))
    }
}

impl From<PlaceError> for Failed {
    fn from(error: PlaceError) -> Self {
        Self::Place(error)
    }
}

impl Worker {
    /// A thread of `engine`, which also fills in the background where `fills`.
    pub(super) fn new(engine: Arc<Engine>, fills: bool) -> Self {
        Self {
            buffer: Buffer::new(engine.options),
            engine,
            messages: Vec::new(),
            fills,
        }
    }

    /// Serves until the server is stopped or the peer is gone.
    pub(super) fn run(&mut self) {
        let mut busy_until = Instant::now();
        while !self.engine.is_stopping() && !self.engine.is_peer_gone() {
            match self.serve_waiting() {
                Ok(true) => {
                    busy_until = Instant::now() + self.engine.options.spin;
                    continue;
                }
                Ok(false) => {}
                Err(errno) => return self.give_up(errno),
            }
            let limit = match self.fill_some() {
                Step::Worked => continue,
                Step::Wait(limit) => limit,
                Step::Done => None,
            };
            if Instant::now() < busy_until {
                std::hint::spin_loop();
                continue;
            }
            match self.engine.bell.wait(self.engine.fd(), limit) {
                Ok(Woken::Look) => {}
                Ok(Woken::Rung) => self.silence(),
                Ok(Woken::Hangup) => return self.give_up(Errno::ESRCH),
                Err(errno) => return self.give_up(errno),
            }
        }
    }

    /// Ends the ringing, unless it is for all threads to end.
    fn silence(&self) {
        self.engine.bell.silence();
        if self.engine.is_stopping() {
            self.engine.bell.ring();
        }
    }

    /// Serves the faults that wait; gives whether there was one.
    fn serve_waiting(&mut self) -> Result<bool, Errno> {
        if self.engine.hear(&mut self.messages)? == 0 && !self.engine.has_faults() {
            return Ok(false);
        }
        while let Some(page) = self.engine.next_fault() {
            self.serve(page);
            if self.engine.is_stopping() {
                break;
            }
        }
        Ok(true)
    }

    fn fill_some(&mut self) -> Step {
        if !self.fills {
            return Step::Done;
        }
        let step = self.engine.fill_step(&mut self.buffer);
        self.fills = !matches!(step, Step::Done);
        step
    }

    fn give_up(&self, errno: Errno) {
        let pages = PageRange::new(0, 0);
        self.engine.report_place(&PlaceError { pages, errno });
    }

    /// Has `page`, for which a thread waits, be there, if that can be done.
    fn serve(&mut self, page: PageIndex) {
        let engine = Arc::clone(&self.engine);
        let Some(range) = engine.map.range_of(page) else {
            return;
        };
        let number = page.0 / engine.options.window_pages;
        let window = PageRange::new(
            number * engine.options.window_pages,
            engine.options.window_pages,
        );
        let mut waiting = vec![page];
        while let Some(page) = waiting.pop() {
            let single = Part::of(
                range,
                PageRange {
                    start: page,
                    count: 1,
                },
            );
            let is_abandoned = engine.is_abandoned();
            let done = match engine.states.get(page) {
                _ if is_abandoned => engine.place_again(&single, Content::Zero),
                PageState::Filled => engine.place_again(&single, engine.origin.again()),
                PageState::Discarded => engine.place_again(&single, Content::Zero),
                // It was told of, and nothing has changed since.
                PageState::Lost => Ok(()),
                PageState::Absent => {
                    if engine.flights.claim(number, page) {
                        self.bring(page, &Part::of(range, window));
                        waiting.extend(engine.flights.land(number));
                    }
                    Ok(())
                }
            };
            if let Err(error) = done {
                engine.report_place(&error);
            }
        }
    }

    /// Brings `page` and what is absent around it in its window.
    fn bring(&mut self, page: PageIndex, window: &Part) {
        let engine = Arc::clone(&self.engine);
        let absent = engine.states.absent_around(window.pages, page);
        if absent.is_empty() {
            // It came in between; who waits looks again.
            let single = window.of_pages(PageRange {
                start: page,
                count: 1,
            });
            return engine
                .wake(&single.addresses)
                .unwrap_or_else(|error| engine.report_place(&error));
        }
        let single = PageRange {
            start: page,
            count: 1,
        };
        let brought = match self.bring_piece(page, absent, window) {
            // Its neighbours may be what is damaged.
            Err(Failed::Source(..)) if absent.count > 1 => self.bring_piece(page, single, window),
            other => other,
        };
        match brought {
            Ok(piece) => self.bring_rest(piece, absent, window),
            Err(Failed::Place(error)) => engine.report_place(&error),
            Err(Failed::Source(error)) => engine.lose(page, *error),
        }
    }

    /// Brings the piece of `pages` that `page` lies in, and lets who waits for it go on.
    fn bring_piece(
        &mut self,
        page: PageIndex,
        pages: PageRange,
        window: &Part,
    ) -> Result<PageRange, Failed> {
        let mut rest = pages;
        loop {
            let piece = self.engine.origin.source().piece(rest);
            let piece = piece.map_err(Failed::source)?;
            let here = PageRange::new(rest.start.0, piece.count.clamp(1, rest.count));
            if page < here.end() {
                self.bring_alike(here, piece.is_zero, window)?;
                return Ok(here);
            }
            rest = PageRange::new(here.end().0, rest.count - here.count);
        }
    }

    /// Brings what is beside `piece`: the guest is likely to want it next, and nobody waits for it.
    fn bring_rest(&mut self, piece: PageRange, absent: PageRange, window: &Part) {
        let before = PageRange::new(absent.start.0, piece.start.0 - absent.start.0);
        let after = PageRange::new(piece.end().0, absent.end().0 - piece.end().0);
        if before.is_empty() && after.is_empty() {
            return;
        }
        // Who was woken may share the processor with this thread, and comes first.
        std::thread::yield_now();
        for mut rest in [after, before] {
            while !rest.is_empty() {
                // It is told of when somebody wants it.
                let Ok(done) = self.bring_run(rest, window) else {
                    return;
                };
                rest = PageRange::new(done.end().0, rest.end().0 - done.end().0);
            }
        }
    }

    /// Brings the run that `pages` begin with.
    fn bring_run(&mut self, pages: PageRange, window: &Part) -> Result<PageRange, Failed> {
        let run = self
            .engine
            .origin
            .source()
            .run(pages)
            .map_err(Failed::source)?;
        let here = PageRange::new(pages.start.0, run.count.clamp(1, pages.count));
        self.bring_alike(here, run.is_zero, window)?;
        Ok(here)
    }

    fn bring_alike(
        &mut self,
        pages: PageRange,
        is_zero: bool,
        window: &Part,
    ) -> Result<(), Failed> {
        let engine = &self.engine;
        let part = window.of_pages(pages);
        if is_zero {
            engine.recorder.add(pages);
            engine.place(&part, Content::Zero, Cause::Demand)?;
        } else {
            let bytes = buffer_for(pages, &mut self.buffer);
            if engine.takes_huge(&part) {
                engine.read(pages, bytes).map_err(Failed::source)?;
                engine.recorder.add(pages);
                engine.place_huge(&part, bytes)?;
            } else {
                let content = engine.bring(pages, bytes).map_err(Failed::source)?;
                engine.recorder.add(pages);
                engine.place(&part, content, Cause::Demand)?;
            }
        }
        Ok(())
    }
}

/// Has the calling thread, which fills what nobody waits for, give way to others.
pub(super) fn give_way() {
    if let Err(error) = lower_priority() {
        tracing::debug!(%error, "filling is not of low priority");
    }
}

impl Engine {
    /// `page` cannot be had: who waits for it goes on waiting, and the VMM hears of it, once.
    fn lose(&self, page: PageIndex, error: SourceError) {
        if self.states.lose(page) {
            self.counters.add(Counter::Lost, 1);
            self.reporter.report(MemoryFailure {
                pages: PageRange {
                    start: page,
                    count: 1,
                },
                cause: FailureCause::Source(error),
            });
        }
    }
}
