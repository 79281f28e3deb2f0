//! A handler on a thread of this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};
use snapshot_memory::{
    HandlerEvent, HandlerOptions, HandlerStop, PageHandler, PageRun, PageSource, ServeOptions,
    SourceError,
};

use super::guest::{LIMIT, layout, number};

/// Every page holds its number, but for every fifth, which is zero.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) layout: MemoryLayout,
    pub(crate) damaged: Option<u64>,
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

/// A handler on a thread of this process.
pub(crate) struct Handler {
    folder: tempfile::TempDir,
    stop: HandlerStop,
    events: Receiver<HandlerEvent>,
    pub(crate) thread: JoinHandle<()>,
}

impl Handler {
    pub(crate) fn start(options: HandlerOptions, damaged: Option<u64>) -> Self {
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

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("pages.sock")
    }

    pub(crate) fn next(&self) -> HandlerEvent {
        self.events.recv_timeout(LIMIT).unwrap()
    }

    pub(crate) fn end(self) {
        self.stop.stop();
        self.thread.join().unwrap();
    }
}

pub(crate) fn options() -> HandlerOptions {
    HandlerOptions::new(ServeOptions::new(0))
}
