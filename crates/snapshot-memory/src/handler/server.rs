//! A process that serves the memory of one snapshot to VMs that come and go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::event::HandlerEvent;
use super::listener::Listener;
use super::session::Service;
use super::wait::wait;
use super::{HandlerError, HandlerOptions};
use crate::restore::PageSource;

/// Serves the pages of one snapshot to every VM that hands its memory over at a socket.
///
/// What a VM sends is not trusted: it can spoil nothing but its own memory.
pub struct PageHandler {
    listener: Listener,
    source: Arc<dyn PageSource>,
    options: HandlerOptions,
    bells: Arc<Bells>,
}

/// Stops a [`PageHandler`], from any thread.
#[derive(Clone, Debug)]
pub struct HandlerStop(Arc<Bells>);

#[derive(Debug)]
struct Bells {
    /// Rung once, and never silent again: everything is to end.
    stop: EventFd,
    /// Rung once, and never silent again: no further VM is served.
    enough: EventFd,
    /// Rung when a VM has ended.
    ended: EventFd,
}

impl PageHandler {
    /// Listens at `path`, which this process's user alone can then connect to.
    pub fn bind(
        path: &Path,
        source: Arc<dyn PageSource>,
        options: HandlerOptions,
    ) -> Result<Self, HandlerError> {
        let bell = || {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let made = EventFd::from_flags(flags).map_err(io::Error::from);
            made.map_err(HandlerError::system("make an eventfd"))
        };
        let bells = Arc::new(Bells {
            stop: bell()?,
            enough: bell()?,
            ended: bell()?,
        });
        Ok(Self {
            listener: Listener::bind(path)?,
            source,
            options,
            bells,
        })
    }

    /// What stops it.
    #[must_use]
    pub fn stopper(&self) -> HandlerStop {
        HandlerStop(Arc::clone(&self.bells))
    }

    /// Serves VMs, with the calling thread to accept them, until it is stopped, or after the first
    /// where that was asked for. `tell` is called by the threads of the VMs.
    pub fn run(&self, tell: &(dyn Fn(HandlerEvent) + Sync)) -> Result<(), HandlerError> {
        let service = Service {
            source: &self.source,
            options: self.options,
            stop: self.bells.stop.as_fd(),
            tell,
        };
        let running = AtomicUsize::new(0);
        thread::scope(|scope| {
            for machine in 1.. {
                let Some(stream) = self.accept(&running)? else {
                    break;
                };
                let (service, bells, running) = (&service, &self.bells, &running);
                running.fetch_add(1, Ordering::AcqRel);
                let serve = move || {
                    let began = || {
                        if service.options.once {
                            ring(&bells.enough);
                        }
                    };
                    service.serve(machine, stream, began);
                    running.fetch_sub(1, Ordering::AcqRel);
                    ring(&bells.ended);
                };
                let thread = thread::Builder::new().name("page-handler".into());
                let started = thread.spawn_scoped(scope, serve);
                if let Err(error) = started {
                    ring(&self.bells.stop);
                    return Err(HandlerError::system("start a thread")(error));
                }
            }
            Ok(())
        })
    }

    /// The next VM, as soon as there is room for one; `None`: no more are served.
    fn accept(&self, running: &AtomicUsize) -> Result<Option<UnixStream>, HandlerError> {
        let mut is_short = false;
        loop {
            let has_room = running.load(Ordering::Acquire) < self.options.machines;
            let listener = &self.listener.socket;
            let asked = (has_room && !is_short).then(|| listener.as_fd());
            if !self.wait(asked, is_short)? {
                return Ok(None);
            }
            is_short = false;
            if !has_room {
                continue;
            }
            match accept(listener) {
                Ok(Some(stream)) => return Ok(Some(stream)),
                Ok(None) => {}
                // No descriptors are left: a VM that ends gives some back.
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                    tracing::warn!("no more VMs can be accepted at the moment");
                    is_short = true;
                }
                Err(errno) => return Err(HandlerError::system("accept a VM")(errno.into())),
            }
        }
    }

    /// Waits until there is something to do, or for a while if `is_short`; whether to go on.
    fn wait(&self, listener: Option<BorrowedFd<'_>>, is_short: bool) -> Result<bool, HandlerError> {
        let bells = [&self.bells.stop, &self.bells.enough, &self.bells.ended];
        let fds: Vec<_> = bells.into_iter().map(AsFd::as_fd).chain(listener).collect();
        let limit = is_short.then_some(Duration::from_millis(200));
        let ready = wait(&fds, limit)
            .map_err(|errno| HandlerError::system("wait for VMs")(errno.into()))?;
        let rings = |at: usize| ready.get(at).copied().unwrap_or(false);
        if rings(0) || rings(1) {
            return Ok(false);
        }
        if rings(2) {
            // Quiet until the next VM ends; that another thread was faster is no error.
            let _ = self.bells.ended.read();
        }
        Ok(true)
    }
}

impl HandlerStop {
    /// Has every VM served no more and [`PageHandler::run`] return. Whoever needs a page from then
    /// on waits for ever.
    pub fn stop(&self) {
        ring(&self.0.stop);
    }
}

impl std::fmt::Debug for PageHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageHandler")
            .field("listener", &self.listener)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A connection, if one waits.
fn accept(listener: &UnixListener) -> Result<Option<UnixStream>, Errno> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(None),
            errno => Err(errno.unwrap_or(Errno::EIO)),
        },
    }
}

fn ring(bell: &EventFd) {
    // A bell that cannot ring louder rings already.
    let _ = bell.write(1);
}
