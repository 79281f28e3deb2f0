//! Where served pages come from.

use std::sync::Arc;

use snapshot_format::PageRange;

use super::engine::Content;
use super::shared::SharedPages;
use crate::restore::{PageSource, SourceError};

/// Where served pages come from.
pub(super) enum Origin {
    /// Read for this guest alone.
    Own(Arc<dyn PageSource>),
    /// Read once for all clones, into a memfd that each of them maps.
    Shared(Arc<SharedPages>),
}

impl Origin {
    pub(super) fn source(&self) -> &dyn PageSource {
        match self {
            Self::Own(source) => &**source,
            Self::Shared(pages) => pages.source(),
        }
    }

    /// Brings `pages`, none of which is known to be zero; `buffer` is exactly as long.
    pub(super) fn bring<'a>(
        &self,
        pages: PageRange,
        buffer: &'a mut [u8],
    ) -> Result<Content<'a>, SourceError> {
        match self {
            Self::Own(source) => {
                source.read_pages(pages, buffer)?;
                Ok(Content::Bytes(buffer))
            }
            Self::Shared(shared) => {
                shared.bring(pages, buffer)?;
                Ok(Content::Cached)
            }
        }
    }

    /// Takes in bytes that somebody has read before.
    pub(super) fn keep<'a>(
        &self,
        pages: PageRange,
        bytes: &'a [u8],
    ) -> Result<Content<'a>, SourceError> {
        match self {
            Self::Own(_) => Ok(Content::Bytes(bytes)),
            Self::Shared(shared) => {
                shared.store(pages, bytes)?;
                Ok(Content::Cached)
            }
        }
    }

    /// What a page becomes that was there, was not given back, and is missing again.
    pub(super) fn again(&self) -> Content<'static> {
        match self {
            // It was taken away without a word, which leaves zero.
            Self::Own(_) => Content::Zero,
            // The kernel forgets where pages of files are whenever it likes.
            Self::Shared(_) => Content::Cached,
        }
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "Own",
            Self::Shared(_) => "Shared",
        })
    }
}
