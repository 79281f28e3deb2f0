//! Where the snapshots of the demo go.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::context::Context;
use crate::failure::Failure;

/// The store that was named, or one that goes when the demo is over.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Home {
    pub(super) fn choose(context: &Context) -> Result<Self, Failure> {
        if let Some(path) = &context.store {
            return Ok(Self {
                path: path.clone(),
                temporary: None,
            });
        }
        let directory = tempfile::Builder::new()
            .prefix("vmsnap-demo-")
            .tempdir()
            .map_err(|error| Failure::io("make a store", &std::env::temp_dir(), &error))?;
        Ok(Self {
            path: directory.path().join("store"),
            temporary: Some(directory),
        })
    }

    /// The directory of the store.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the store, if it stays.
    pub(super) fn kept(&self) -> Option<PathBuf> {
        self.temporary.is_none().then(|| self.path.clone())
    }

    /// Removes a temporary store.
    pub(super) fn leave(self) -> Result<(), Failure> {
        match self.temporary {
            None => Ok(()),
            Some(directory) => directory
                .close()
                .map_err(|error| Failure::io("remove the temporary store", &self.path, &error)),
        }
    }
}
