//! Pages that are brought to a guest when it touches them.

use std::fmt;
use std::sync::Arc;

use snapshot_memory::{
    LazyMemory, LazyOptions, PageSource, ServeOptions, SharedPages, Verification,
};

use crate::error::GuestError;

/// The pages of a snapshot, for a guest that does not wait for all of them.
///
/// Each is read and checked before the guest sees it ([`Verification::OnFault`]); one that cannot be
/// is told by [`GuestError::MemoryLost`].
#[derive(Clone)]
pub struct ServedPages {
    origin: Origin,
    serve: ServeOptions,
}

#[derive(Clone)]
enum Origin {
    Own(Arc<dyn PageSource>),
    Shared(Arc<SharedPages>),
}

impl ServedPages {
    /// Read for this guest alone. The source lives as long as the guest.
    #[must_use]
    pub fn of(source: Arc<dyn PageSource>, serve: ServeOptions) -> Self {
        let origin = Origin::Own(source);
        Self { origin, serve }
    }

    /// Read once for all clones that are made with `pages`: what none of them writes is there once.
    #[must_use]
    pub fn shared(pages: Arc<SharedPages>, serve: ServeOptions) -> Self {
        let origin = Origin::Shared(pages);
        Self { origin, serve }
    }

    /// When they are checked.
    #[must_use]
    pub fn verification(&self) -> Verification {
        Verification::OnFault
    }

    /// Where they come from.
    pub(crate) fn source(&self) -> &dyn PageSource {
        match &self.origin {
            Origin::Own(source) => &**source,
            Origin::Shared(pages) => pages.source(),
        }
    }

    /// Maps memory for them and begins to serve it.
    pub(crate) fn serve(self, tracks: bool) -> Result<LazyMemory, GuestError> {
        let options = LazyOptions::new(self.serve).tracks(tracks);
        Ok(match self.origin {
            Origin::Own(source) => LazyMemory::restore(source, options),
            Origin::Shared(pages) => LazyMemory::share(pages, options),
        }?)
    }
}

impl fmt::Debug for ServedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = matches!(self.origin, Origin::Shared(_));
        f.debug_struct("ServedPages")
            .field("shared", &shared)
            .field("serve", &self.serve)
            .finish()
    }
}

#[cfg(test)]
mod tests;
