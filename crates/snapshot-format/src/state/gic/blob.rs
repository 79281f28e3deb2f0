//! An interrupt controller as bytes that only its hypervisor understands.

use serde::Serialize;

use super::v1;
use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::bytes::as_hex;
use crate::state::counts::{check_counts, unknown_version};
use crate::state::hypervisor::Hypervisor;
use crate::state::mirror::Mirror;

/// The whole state of an interrupt controller as its hypervisor gave it out.
///
/// The section is not critical: whoever cannot use it looks for the one that is by register.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct GicBlob {
    /// Whose bytes they are.
    pub hypervisor: Hypervisor,
    /// What made them, in the hypervisor's words: `hv_gic_state`.
    pub producer: String,
    /// Its version: the build of the operating system, where the format is its own.
    pub version: String,
    /// The bytes.
    #[serde(serialize_with = "as_hex")]
    pub bytes: Vec<u8>,
}

impl StatePayload for GicBlob {
    const KIND: SectionKind = SectionKind::GIC_BLOB;
    const VERSION: u16 = 1;
    const CRITICAL: bool = false;

    fn encode(&self) -> Vec<u8> {
        let wire: v1::GicBlobV1 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let blob: Self = match version {
            1 => {
                let (part, limit) = (Self::KIND.part(0), limits::MAX_GIC_BYTES);
                codec::decode::<v1::GicBlobV1>(bytes, limit, part, version)?.mirror()
            }
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        let text = blob.producer.len().max(blob.version.len());
        let counts = [
            ("bytes of a name", text, limits::MAX_HOST_TEXT_BYTES),
            (
                "bytes of an interrupt controller",
                blob.bytes.len(),
                limits::MAX_GIC_BLOB_BYTES,
            ),
        ];
        check_counts(Self::KIND, &counts)?;
        Ok(blob)
    }
}
