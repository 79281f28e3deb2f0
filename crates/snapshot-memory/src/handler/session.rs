//! Serving one VM.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use snapshot_format::PAGE_BYTES;

use super::event::{HandlerEvent, ServiceEnd, ServiceRefused};
use super::message::{self, Handshake};
use super::notice::{self, Lines, Notice, Word};
use super::peer::Peer;
use super::settle::settle;
use super::wait::wait;
use super::{HandlerOptions, descriptors};
use crate::restore::{MemoryFailure, PageSource};
use crate::serve::{PageServer, ServeError};

/// What all VMs of a handler have in common.
pub(super) struct Service<'a> {
    pub(super) source: &'a Arc<dyn PageSource>,
    pub(super) options: HandlerOptions,
    /// Readable, and left so, when the handler is to stop.
    pub(super) stop: BorrowedFd<'a>,
    pub(super) tell: &'a (dyn Fn(HandlerEvent) + Sync),
}

/// One VM.
struct Session<'a> {
    service: &'a Service<'a>,
    machine: u64,
    stream: UnixStream,
    peer: Peer,
    lines: Lines,
    is_heard: bool,
}

impl Service<'_> {
    /// Serves the VM that connected, until it or the handler ends. `began` is called when its
    /// memory was handed over.
    pub(super) fn serve(&self, machine: u64, stream: UnixStream, began: impl FnOnce()) {
        let peer = Peer::of(&stream);
        let pid = peer.pid;
        let layout = self.source.layout();
        let handshake = message::receive(&stream, layout, self.options.patience);
        let started = handshake
            .map_err(ServiceRefused::from)
            .and_then(|handshake| self.start(handshake));
        let (rest, mut server) = match started {
            Ok(started) => started,
            Err(error) => {
                return (self.tell)(HandlerEvent::Refused {
                    machine,
                    pid,
                    error,
                });
            }
        };
        began();
        let bytes: u64 = server.ranges().map(|range| range.end - range.start).sum();
        let pages = bytes / PAGE_BYTES;
        (self.tell)(HandlerEvent::Began {
            machine,
            pid,
            pages,
        });
        let mut session = Session {
            service: self,
            machine,
            stream,
            peer,
            lines: Lines::default(),
            is_heard: true,
        };
        let end = session.attend_while_serving(&mut server, &rest);
        (self.tell)(HandlerEvent::Ended {
            machine,
            end,
            stats: server.stats(),
            trace: server.trace(),
        });
    }

    fn start(&self, handshake: Handshake) -> Result<(Vec<u8>, PageServer), ServiceRefused> {
        let Handshake {
            context,
            ranges,
            rest,
        } = handshake;
        let source = Arc::clone(self.source);
        let server = PageServer::start(Arc::new(context), ranges, source, self.options.serve)?;
        Ok((rest, server))
    }
}

impl Session<'_> {
    fn attend_while_serving(&mut self, server: &mut PageServer, rest: &[u8]) -> ServiceEnd {
        let serving = &*server;
        let end = thread::scope(|scope| {
            let thread = thread::Builder::new().name("page-handler".into());
            if let Err(error) = thread.spawn_scoped(scope, || serving.run()) {
                // Those of the server, if it has any, serve alone.
                tracing::error!(%error, "no thread can be started that serves");
            }
            let end = self.attend(serving, rest);
            serving.stop_serving();
            end
        });
        if end == ServiceEnd::Complete {
            self.leave_alone(server)
        } else {
            end
        }
    }

    /// Ends what is complete.
    fn leave_alone(&self, server: &mut PageServer) -> ServiceEnd {
        let address = server.ranges().map(|range| range.start).next();
        let finished = server.finish().and_then(|_| {
            let settled = settle(server.context(), address.unwrap_or(0));
            settled.map_err(ServeError::from)
        });
        match finished {
            Ok(()) => {
                notice::say(&self.stream, &Notice::Finished);
                ServiceEnd::Complete
            }
            Err(ServeError::PeerGone) => ServiceEnd::Gone,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "memory that is complete could not be left alone");
                ServiceEnd::Stopped
            }
        }
    }

    /// Listens to the VMM and looks after it until the end.
    fn attend(&mut self, server: &PageServer, rest: &[u8]) -> ServiceEnd {
        if self.hear(rest) {
            return ServiceEnd::Bye;
        }
        loop {
            match self.wait(server) {
                Ok(Some(end)) => return end,
                Ok(None) => {}
                Err(errno) => {
                    tracing::error!(%errno, "a VMM cannot be listened to");
                    return ServiceEnd::Stopped;
                }
            }
            for failure in server.events().take() {
                self.tell_of(failure);
            }
            if server.is_peer_gone() {
                return ServiceEnd::Gone;
            }
            if self.service.options.finishes && server.wait_filled(Duration::ZERO) == Some(0) {
                return ServiceEnd::Complete;
            }
        }
    }

    /// Waits until there is something to look at.
    fn wait(&mut self, server: &PageServer) -> Result<Option<ServiceEnd>, Errno> {
        let mut fds = vec![self.service.stop, server.events().as_fd()];
        let end = self.peer.end();
        fds.extend(end);
        if self.is_heard {
            fds.push(self.stream.as_fd());
        }
        let ready = wait(&fds, self.timeout())?;
        let mut ready = ready.into_iter();
        let mut next = || ready.next().unwrap_or(false);
        let (is_stopped, _, has_ended) = (next(), next(), end.is_some() && next());
        let is_talking = next();
        Ok(if is_stopped {
            Some(ServiceEnd::Stopped)
        } else if has_ended {
            Some(ServiceEnd::Gone)
        } else if is_talking && self.listen() {
            Some(ServiceEnd::Bye)
        } else {
            None
        })
    }

    /// What has no descriptor is looked at from time to time.
    fn timeout(&self) -> Option<Duration> {
        let must_look = self.service.options.finishes || self.peer.end().is_none();
        must_look.then_some(Duration::from_millis(250))
    }

    /// Takes what the VMM says; whether it said goodbye.
    fn listen(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // What it might send with that is closed.
        match descriptors::receive(&self.stream, &mut bytes, &mut Vec::new()) {
            Ok(0) => {
                // Firecracker hangs up when it has sent its message.
                self.is_heard = false;
                false
            }
            Ok(len) => self.hear(bytes.get(..len).unwrap_or_default()),
            Err(error) if message::is_again(&error) => false,
            Err(error) => {
                tracing::debug!(%error, "a VMM does not talk any more");
                self.is_heard = false;
                false
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> bool {
        let words = self.lines.take(bytes);
        words.contains(&Word::Bye)
    }

    fn tell_of(&self, failure: MemoryFailure) {
        let pages = failure.pages;
        let mut cause = failure.cause.to_string();
        let mut source = std::error::Error::source(&failure.cause);
        while let Some(error) = source {
            cause = format!("{cause}: {error}");
            source = error.source();
        }
        notice::say(
            &self.stream,
            &Notice::lost(pages.start.0, pages.count, &cause),
        );
        let machine = self.machine;
        (self.service.tell)(HandlerEvent::Lost { machine, failure });
    }
}
