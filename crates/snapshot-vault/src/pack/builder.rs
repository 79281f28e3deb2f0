//! A pack that is being filled.

use crate::error::VaultError;
use crate::frame::{FRAME_BYTES, HEAD_BYTES, ObjectHead};
use crate::id::{ChunkId, DomainId, ObjectId};
use crate::limits::{MAX_PACK_RECORDS, PACK_BYTES};
use crate::objects::ObjectKind;
use crate::pack::record::{Entry, RECORD_BYTES, Representation};
use crate::pack::table::{ENTRY_BYTES, PackTable, TAIL_BYTES};
use crate::secrets::{Binding, Secrets};
use snapshot_format::FrameCoding;

/// Records of one pack, in memory until the pack is put.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    domain: DomainId,
    id: ObjectId,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// A pack that is complete.
#[derive(Debug)]
pub(crate) struct BuiltPack {
    pub(crate) id: ObjectId,
    pub(crate) bytes: Vec<u8>,
    pub(crate) table: PackTable,
}

impl PackBuilder {
    /// An empty pack, under a new id.
    pub(crate) fn new(domain: DomainId) -> Result<Self, VaultError> {
        Ok(Self {
            domain,
            id: ObjectId::random()?,
            bytes: vec![0; HEAD_BYTES],
            entries: Vec::new(),
        })
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it should be put before another record comes.
    pub(crate) fn is_full(&self) -> bool {
        let table = (self.entries.len() + 1) * ENTRY_BYTES + TAIL_BYTES;
        let with_another = self.bytes.len() + RECORD_BYTES + LONGEST + table;
        with_another > PACK_BYTES || self.entries.len() >= MAX_PACK_RECORDS
    }

    /// Appends a record: `encoded` is the payload before it is sealed.
    pub(crate) fn push(
        &mut self,
        id: ChunkId,
        representation: Representation,
        coding: FrameCoding,
        encoded: &[u8],
        secrets: &Secrets,
    ) -> Result<(), VaultError> {
        let too_long = || VaultError::TooMany {
            what: "bytes of a pack",
            found: self.bytes.len() as u64,
            limit: u64::from(u32::MAX),
        };
        let offset = u32::try_from(self.bytes.len()).map_err(|_| too_long())?;
        let mut entry = Entry {
            id,
            representation,
            coding,
            stored_len: 0,
            payload_checksum: 0,
            offset,
        };
        let sealed = secrets.seal(&Binding {
            domain: self.domain,
            pack: self.id,
            offset: u64::from(offset),
            form: entry.form(),
            id,
            base: entry.base_or_none(),
            bytes: encoded,
        })?;
        let stored = sealed.as_deref().unwrap_or(encoded);
        entry.stored_len = u32::try_from(stored.len()).map_err(|_| too_long())?;
        entry.payload_checksum = crc32c::crc32c(stored);
        self.bytes.extend(entry.encode_record());
        self.bytes.extend_from_slice(stored);
        self.entries.push(entry);
        Ok(())
    }

    /// The whole pack.
    pub(crate) fn finish(self, secrets: &Secrets) -> BuiltPack {
        let Self {
            domain,
            id,
            mut bytes,
            entries,
        } = self;
        let table = PackTable { entries };
        let table_offset = bytes.len() as u64;
        let len = bytes.len() + table.encoded_len();
        let head = ObjectHead {
            kind: ObjectKind::Pack,
            domain,
            id,
            body_len: (len - FRAME_BYTES) as u64,
        }
        .encode();
        for (to, from) in bytes.iter_mut().zip(head) {
            *to = from;
        }
        bytes.extend(table.encode(&head, table_offset, secrets.object_key()));
        BuiltPack { id, bytes, table }
    }
}

impl BuiltPack {
    /// The same records as a pack of their own, under a new id, sealed for it.
    pub(crate) fn renewed(&self, domain: DomainId, secrets: &Secrets) -> Result<Self, VaultError> {
        let failed = || VaultError::Host {
            what: "seal a payload again",
            source: None,
        };
        let mut pack = PackBuilder::new(domain)?;
        for entry in &self.table.entries {
            let start = usize::try_from(entry.payload_offset()).map_err(|_| failed())?;
            let end = usize::try_from(entry.end()).map_err(|_| failed())?;
            let stored = self.bytes.get(start..end).ok_or_else(failed)?;
            let opened = secrets.open(&Binding {
                domain,
                pack: self.id,
                offset: u64::from(entry.offset),
                form: entry.form(),
                id: entry.id,
                base: entry.base_or_none(),
                bytes: stored,
            });
            let opened = opened.transpose().map_err(|_| failed())?;
            let payload = opened.as_deref().unwrap_or(stored);
            pack.push(
                entry.id,
                entry.representation,
                entry.coding,
                payload,
                secrets,
            )?;
        }
        Ok(pack.finish(secrets))
    }
}

/// Bytes of the longest payload.
const LONGEST: usize = crate::limits::MAX_PAYLOAD_BYTES;
