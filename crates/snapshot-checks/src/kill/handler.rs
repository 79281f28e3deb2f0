//! A page handler: serves a snapshot to whoever hands memory over.

use std::sync::Arc;

use snapshot_format::PAGE_BYTES;
use snapshot_memory::{Background, HandlerEvent, HandlerOptions, PageHandler, ServeOptions};
use snapshot_store::Store;

use super::task::{Said, Task};
use crate::random::Random;
use crate::stored_guest::Failure;

pub(super) fn run(task: &Task, store: &Store) -> Result<(), Failure> {
    let (socket, snapshot) = task.served()?;
    let stored = Arc::new(store.image(snapshot)?);
    let serve = if Random::new(task.seed).is_one_in(2) {
        ServeOptions::new(1).window_bytes(PAGE_BYTES)
    } else {
        ServeOptions::new(2).background(Background::default())
    };
    let handler = PageHandler::bind(socket, stored, HandlerOptions::new(serve))?;
    Said::Done.say()?;
    handler.run(&|event| {
        // One that was ended while it handed its memory over is refused, and nothing is lost of one
        // that is served: it would tell.
        if matches!(
            event,
            HandlerEvent::Began { .. } | HandlerEvent::Ended { .. }
        ) {
            // Fails when nobody listens any more, who would end this process next.
            let _ = Said::Done.say();
        }
    })?;
    Ok(())
}
