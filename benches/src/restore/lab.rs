//! The snapshots of a run, made when they are first asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::plan::MAX_DEPTH;
use super::subject::{Chain, Subject};
use crate::error::BenchError;
use crate::options::Options;
use crate::place::Place;

/// The one size of which there is a chain, and not only a full.
const CHAIN_BYTES: u64 = 1 << 30;

/// Snapshots to restore, by the size of their guest.
#[derive(Debug)]
pub(crate) struct Lab<'a> {
    options: &'a Options,
    place: &'a Place,
    chains: RefCell<BTreeMap<u64, Chain>>,
}

impl<'a> Lab<'a> {
    /// None so far.
    pub(crate) fn new(options: &'a Options, place: &'a Place) -> Self {
        Self {
            options,
            place,
            chains: RefCell::default(),
        }
    }

    /// What is measured.
    pub(crate) fn options(&self) -> &'a Options {
        self.options
    }

    /// Where files go.
    pub(crate) fn place(&self) -> &'a Place {
        self.place
    }

    /// The kind of file system that they are on.
    pub(crate) fn file_system(&self) -> String {
        self.place.file_system().name.clone()
    }

    /// A snapshot of a guest of `mem_bytes` bytes below which there are `depth - 1` others.
    pub(crate) fn subject(&self, mem_bytes: u64, depth: usize) -> Result<Subject, BenchError> {
        let mut chains = self.chains.borrow_mut();
        if let Some(chain) = chains.get(&mem_bytes) {
            return chain.subject(depth);
        }
        let most = if mem_bytes == CHAIN_BYTES {
            MAX_DEPTH
        } else {
            1
        };
        let dir = self
            .place
            .scratch()
            .path()
            .join(format!("store-{mem_bytes}"));
        let chain = Chain::build(&dir, self.options.scaled(mem_bytes), most)?;
        self.place.scratch().settle()?;
        let subject = chain.subject(depth);
        chains.insert(mem_bytes, chain);
        subject
    }
}
