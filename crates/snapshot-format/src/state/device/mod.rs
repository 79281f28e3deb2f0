//! The state of one device of the VMM, which alone understands it.

mod v1;

use serde::Serialize;

use crate::codec;
use crate::error::DecodeError;
use crate::limits;
use crate::section::{SectionKind, StatePayload};
use crate::state::bytes::as_hex;
use crate::state::counts::{check_counts, unknown_version};
use crate::state::mirror::Mirror;

/// What a device wants to find again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DeviceState {
    /// What kind of device, in the VMM's words: `virtio-blk`.
    pub kind: String,
    /// Which one of its kind.
    pub instance: u32,
    /// Version of the bytes, in the VMM's count.
    pub version: u32,
    /// The bytes.
    #[serde(serialize_with = "as_hex")]
    pub bytes: Vec<u8>,
}

impl StatePayload for DeviceState {
    const KIND: SectionKind = SectionKind::DEVICE;
    const VERSION: u16 = 1;

    fn encode(&self) -> Vec<u8> {
        let wire: v1::DeviceV1 = self.mirror();
        codec::encode(&wire)
    }

    fn decode(version: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let device: Self = match version {
            1 => {
                let part = Self::KIND.part(0);
                codec::decode::<v1::DeviceV1>(
                    bytes,
                    limits::MAX_DEVICE_SECTION_BYTES,
                    part,
                    version,
                )?
                .mirror()
            }
            _ => return Err(unknown_version(Self::KIND, version, Self::VERSION)),
        };
        check_counts(
            Self::KIND,
            &[
                (
                    "bytes of a device kind",
                    device.kind.len(),
                    limits::MAX_DEVICE_KIND_BYTES,
                ),
                (
                    "bytes of a device",
                    device.bytes.len(),
                    limits::MAX_DEVICE_BYTES,
                ),
            ],
        )?;
        Ok(device)
    }
}
