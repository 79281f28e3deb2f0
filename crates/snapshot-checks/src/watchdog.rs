//! An end for what stands still: a test that hangs says nothing.

use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Ends the process with a failure unless it is told often enough that things go on. Dropping it
/// ends the watch.
#[derive(Debug)]
pub(crate) struct Watchdog(Sender<String>);

impl Watchdog {
    /// Watches from now on. When nothing was heard for `limit`, `last_words` is given what was
    /// begun last, and the process ends.
    pub(crate) fn start(
        limit: Duration,
        last_words: impl FnOnce(&str) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (heard, hear) = mpsc::channel::<String>();
        let watch = move || {
            let mut begun = String::new();
            loop {
                match hear.recv_timeout(limit) {
                    Ok(what) => begun = what,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
            last_words(&begun);
            process::exit(1);
        };
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(watch)?;
        Ok(Self(heard))
    }

    /// Things go on: `what` begins.
    pub(crate) fn begins(&self, what: impl Into<String>) {
        // It hears until the process ends.
        let _ = self.0.send(what.into());
    }
}
