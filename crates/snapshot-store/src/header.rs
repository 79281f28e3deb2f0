//! The header file of a store, `store.vms`: an envelope with one section.

use serde::Serialize;
use snapshot_format::{
    Arch, Envelope, EnvelopeBuilder, Features, FileKind, Header, SectionKind, SectionPayload,
    SnapshotId,
};
use snapshot_memory::backend::{HostIdentity, RelPath};

use crate::checked_json::Fault;
use crate::error::StoreError;

/// The version of a store's layout that this build reads and writes.
pub const STORE_VERSION: u32 = 1;

/// What a store says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct StoreHeader {
    /// The store's identity.
    pub id: SnapshotId,
    /// The version of its layout.
    pub version: u32,
    /// Whether it was made with the promise that one host only opens it.
    pub single_host: bool,
    /// The host that wrote to it last.
    pub last_host: String,
    /// The boot of that host.
    #[serde(skip)]
    pub last_boot: [u8; 16],
    /// What a build must know to do something to the snapshots of the store. Kept as they are
    /// whenever the header is written anew.
    pub features: Features,
}

/// Bytes in the section: version, settings, boot id, host name.
const PAYLOAD_BYTES: usize = 4 + 4 + 16 + HOST_BYTES;

/// Bytes kept for the host name, zero-padded. Linux allows 64.
const HOST_BYTES: usize = 64;

/// The settings bit that stands for [`StoreHeader::single_host`].
const SINGLE_HOST: u32 = 1;

impl StoreHeader {
    pub(crate) fn new(id: SnapshotId, single_host: bool, writer: &HostIdentity) -> Self {
        Self {
            id,
            version: STORE_VERSION,
            single_host,
            last_host: shortened(&writer.host),
            last_boot: writer.boot_id,
            features: Features::default(),
        }
    }

    /// Whether `writer` is the last one.
    pub(crate) fn is_last_writer(&self, writer: &HostIdentity) -> bool {
        self.last_boot == writer.boot_id && self.last_host == shortened(&writer.host)
    }

    /// Makes `writer` the last one.
    pub(crate) fn set_last_writer(&mut self, writer: &HostIdentity) {
        self.last_host = shortened(&writer.host);
        self.last_boot = writer.boot_id;
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let payload = self.encode_payload();
        EnvelopeBuilder::new(FileKind::Store, Arch::None, self.id)
            .features(self.features)
            .section(&SectionPayload::raw(SectionKind::STORE, 0, 1, payload))
            .finish()
    }

    /// Checks the bytes of the file at `path`.
    pub(crate) fn parse(path: &RelPath, bytes: &[u8]) -> Result<Self, StoreError> {
        let failed = |error| StoreError::decode(path, error);
        let envelope = Envelope::parse_kind(bytes, FileKind::Store).map_err(failed)?;
        let mut offers = envelope.offers().map_err(failed)?;
        let section = offers.take_payload(SectionKind::STORE, 0);
        offers.finish().map_err(failed)?;
        match section {
            Some(section) => Self::parse_payload(envelope.header(), &section.bytes)
                .map_err(|fault| StoreError::fault(path, fault)),
            None => Err(StoreError::damaged(path, "it holds no store section")),
        }
    }

    fn encode_payload(&self) -> Vec<u8> {
        let settings = if self.single_host { SINGLE_HOST } else { 0 };
        let mut bytes = Vec::with_capacity(PAYLOAD_BYTES);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&settings.to_le_bytes());
        bytes.extend_from_slice(&self.last_boot);
        bytes.extend_from_slice(self.last_host.as_bytes());
        bytes.resize(PAYLOAD_BYTES, 0);
        bytes
    }

    /// Reads the payload of the store that an envelope is of.
    fn parse_payload(envelope: &Header, bytes: &[u8]) -> Result<Self, Fault> {
        let corrupt = |problem: &str| Fault::Corrupt(problem.to_owned());
        // The version decides about all that follows it.
        let (version, rest) =
            split_u32(bytes).ok_or_else(|| corrupt("its section is cut short"))?;
        if version > STORE_VERSION {
            return Err(Fault::TooNew {
                found: version,
                supported: STORE_VERSION,
            });
        }
        let (settings, rest) =
            split_u32(rest).ok_or_else(|| corrupt("its section is cut short"))?;
        let (boot, host) = rest
            .split_first_chunk::<16>()
            .filter(|(_, host)| host.len() == HOST_BYTES)
            .ok_or_else(|| corrupt("its section has the wrong length"))?;
        if version == 0 || settings & !SINGLE_HOST != 0 {
            return Err(corrupt("its section holds a value that is never written"));
        }
        let len = host.iter().position(|&b| b == 0).unwrap_or(HOST_BYTES);
        let (name, padding) = host.split_at(len);
        let name = std::str::from_utf8(name)
            .ok()
            .filter(|_| padding.iter().all(|&b| b == 0))
            .ok_or_else(|| corrupt("the host name in it is malformed"))?;
        Ok(Self {
            id: envelope.id,
            version,
            single_host: settings & SINGLE_HOST != 0,
            last_host: name.to_owned(),
            last_boot: *boot,
            features: envelope.features,
        })
    }
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}

/// As much of a host name as fits.
fn shortened(host: &str) -> String {
    let mut end = host.len().min(HOST_BYTES);
    while !host.is_char_boundary(end) {
        end -= 1;
    }
    host.get(..end).unwrap_or_default().replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory;
    use crate::error::ErrorKind;

    fn header() -> StoreHeader {
        let writer = HostIdentity {
            host: "h".repeat(HOST_BYTES + 3),
            boot_id: [9; 16],
        };
        StoreHeader::new(SnapshotId([1; 16]), true, &writer)
    }

    fn kind_of(bytes: &[u8]) -> Option<ErrorKind> {
        let parsed = StoreHeader::parse(&directory::store_file(), bytes);
        parsed.err().map(|error| error.kind())
    }

    // spec: STO-04
    #[test]
    fn a_header_survives_its_file_and_no_flipped_bit_does() {
        let bytes = header().encode();
        let parsed = StoreHeader::parse(&directory::store_file(), &bytes).unwrap();
        assert_eq!(parsed, header());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(
                    kind_of(&flipped),
                    Some(ErrorKind::Corrupt),
                    "bit {bit} at {at}"
                );
            }
        }
    }

    // spec: STO-04
    #[test]
    fn the_section_of_the_specification_is_what_is_written() {
        let spec = include_str!("../../../specs/08-store.md");
        let fence = spec.split("```hex").nth(1).unwrap();
        let hex: Vec<char> = fence
            .split("```")
            .next()
            .unwrap()
            .split_whitespace()
            .flat_map(str::chars)
            .collect();
        let writer = HostIdentity {
            host: "vm-host".to_owned(),
            boot_id: [9; 16],
        };
        let header = StoreHeader::new(SnapshotId([1; 16]), true, &writer);
        let pairs = hex.chunks(2).map(|pair| pair.iter().collect::<String>());
        let bytes: Vec<u8> = pairs
            .map(|pair| u8::from_str_radix(&pair, 16).unwrap())
            .collect();
        assert_eq!(header.encode_payload(), bytes);
    }

    // spec: STO-02
    #[test]
    fn a_store_of_a_later_version_is_told_from_a_damaged_one() {
        let mut later = header();
        later.version = STORE_VERSION + 1;
        assert_eq!(kind_of(&later.encode()), Some(ErrorKind::TooNew));
        later.version = 0;
        assert_eq!(kind_of(&later.encode()), Some(ErrorKind::Corrupt));
    }
}
