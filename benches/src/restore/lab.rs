//! The snapshots of a run, made when they are first asked for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::plan::MAX_DEPTH;
use super::subject::{self, Chain, Subject};
use crate::error::BenchError;
use crate::options::Options;
use crate::place::Place;
use crate::scratch::forget_cached;

/// The one size of which there is a chain, and not only a full.
const CHAIN_BYTES: u64 = 1 << 30;

/// Snapshots to restore, by the size of their guest.
#[derive(Debug)]
pub(crate) struct Lab<'a> {
    options: &'a Options,
    place: &'a Place,
    chains: RefCell<BTreeMap<u64, Chain>>,
    /// Folders and files that the page cache has.
    warm: RefCell<BTreeSet<PathBuf>>,
}

impl<'a> Lab<'a> {
    /// None so far.
    pub(crate) fn new(options: &'a Options, place: &'a Place) -> Self {
        Self {
            options,
            place,
            chains: RefCell::default(),
            warm: RefCell::default(),
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

    /// Has the page cache hold all files of a snapshot and of its chain.
    pub(crate) fn warm(&self, subject: &Subject) -> Result<(), BenchError> {
        for path in [&subject.store, &subject.raw] {
            if self.warm.borrow_mut().insert(path.clone()) {
                subject::warm(path)?;
            }
        }
        Ok(())
    }

    /// Has it forget them.
    pub(crate) fn chill(&self, subject: &Subject) -> Result<(), BenchError> {
        for path in [&subject.store, &subject.raw] {
            // The raw image of a full is one of the files of the store.
            let stays = |warm: &PathBuf| !warm.starts_with(path) && !path.starts_with(warm);
            self.warm.borrow_mut().retain(stays);
            forget_cached(path).map_err(BenchError::at("forget", path))?;
        }
        Ok(())
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
