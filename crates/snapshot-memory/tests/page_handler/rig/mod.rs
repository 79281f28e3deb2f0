//! What every test here needs: guests, a handler, and other processes.

mod guest;
mod handler;
mod process;

pub(crate) use guest::{Guest, LIMIT, PAGES, can_serve, layout};
pub(crate) use handler::{Handler, Numbered, options};
pub(crate) use process::{await_word, child, plays, say};
