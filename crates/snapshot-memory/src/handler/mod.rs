//! Pages of a guest from another process: the handshake, what serves, and what watches it.
//!
//! The handshake is that of Firecracker, so that its guests can be served by a [`PageHandler`],
//! and a VMM that uses [`HandlerWatch`] by any handler that was written for Firecracker.
//!
//! | Module | Holds |
//! |---|---|
//! | `message`, `regions`, `descriptors` | the handshake |
//! | `notice` | what the two sides say afterwards |
//! | `watch` | the side of the VMM |
//! | `server`, `session`, `listener`, `peer` | the side of the handler |
//! | `settle`, `wait` | what both do |

mod descriptors;
mod error;
mod event;
mod listener;
mod message;
mod notice;
mod options;
mod peer;
mod regions;
mod server;
mod session;
mod settle;
mod wait;
mod watch;

pub use error::{HandlerError, HandshakeError};
pub use event::{HandlerEvent, ServiceEnd, ServiceRefused};
#[cfg(any(test, feature = "testing"))]
pub use message::read_handshake;
pub use options::HandlerOptions;
pub use server::{HandlerStop, PageHandler};
pub(crate) use settle::settle;
pub use watch::{HandlerState, HandlerWatch};
