//! Ctrl-C: the work in flight is stopped between two of its steps, and cleans up after itself.

use std::io;
use std::ops::ControlFlow;
use std::process;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use snapshot_memory::Cancel;

use crate::exit::Exit;

/// Whether the user asked to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Cancel);

impl Interrupt {
    /// Watches for SIGINT and SIGTERM. To be called while the process has one thread.
    ///
    /// The first signal asks the work to stop; the second ends the process at once. The signals are
    /// blocked and waited for, so that no code runs in a signal handler.
    pub(crate) fn watch() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let interrupt = Self::default();
        let cancel = interrupt.0.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                while signals.wait().is_ok() {
                    if cancel.is_asked() {
                        process::exit(i32::from(Exit::Interrupted.code()));
                    }
                    cancel.ask();
                }
            })?;
        Ok(interrupt)
    }

    /// Whether the work is to stop.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_asked()
    }

    /// The flag that long work looks at.
    pub(crate) fn cancel(&self) -> Cancel {
        self.0.clone()
    }

    /// A break if the work is to stop.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.is_set() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// An error of kind `Interrupted` if the work is to stop.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_set() {
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "stopped by a signal",
            ));
        }
        Ok(())
    }
}
