//! `state.vms`: the sections of a machine's state.

use crate::envelope::{Arch, Envelope, EnvelopeBuilder, FileKind};
use crate::error::DecodeError;
use crate::id::SnapshotId;
use crate::section::{SectionOffers, SectionPayload};

/// Machine state as it lies in a file. It repeats id and parent of its snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateFile {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its parent.
    pub parent: Option<SnapshotId>,
    /// The architecture of the guest.
    pub arch: Arch,
    /// The sections, in the order in which they were captured.
    pub sections: Vec<SectionPayload>,
}

impl StateFile {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let envelope = EnvelopeBuilder::new(FileKind::State, self.arch, self.id);
        let sections = self.sections.iter();
        sections
            .fold(envelope.parent(self.parent), EnvelopeBuilder::section)
            .finish()
    }

    /// Checks the bytes of a file, with the digest of every section.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let envelope = Envelope::parse_kind(bytes, FileKind::State)?;
        let header = envelope.header();
        Ok(Self {
            id: header.id,
            parent: header.parent,
            arch: header.arch,
            sections: envelope.payloads()?,
        })
    }

    /// Checks the bytes of a file and offers its sections, to be taken one by one.
    pub fn offers(bytes: &[u8]) -> Result<SectionOffers, DecodeError> {
        Envelope::parse_kind(bytes, FileKind::State)?.offers()
    }
}
