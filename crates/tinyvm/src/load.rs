//! Memory for a guest.

use std::sync::Arc;

use snapshot_memory::{MappedMemory, MappingOptions};

use crate::config::GuestConfig;
use crate::error::GuestError;

/// Fresh memory for a guest.
pub(crate) fn map(config: &GuestConfig) -> Result<Arc<MappedMemory>, GuestError> {
    let memory = MappedMemory::new(config.layout()?, MappingOptions::default());
    let memory = memory.map_err(|source| GuestError::System {
        call: "map guest memory",
        source,
    })?;
    Ok(Arc::new(memory))
}
