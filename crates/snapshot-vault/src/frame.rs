//! The frame of every object: which object it is, and that its bytes are those that were written.

use crate::error::FormatError;
use crate::fields::Fields;
use crate::id::{DomainId, ObjectId};
use crate::objects::ObjectKind;

/// What stands at the beginning of every object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ObjectHead {
    pub(crate) kind: ObjectKind,
    pub(crate) domain: DomainId,
    pub(crate) id: ObjectId,
    /// The length of the object, less [`FRAME_BYTES`].
    pub(crate) body_len: u64,
}

impl ObjectHead {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend(self.kind.number().to_le_bytes());
        head.extend(0_u32.to_le_bytes());
        head.extend(self.domain.0);
        head.extend(self.id.0);
        head.extend(self.body_len.to_le_bytes());
        head.extend([0; 4]);
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        let mut bytes = [0; HEAD_BYTES];
        bytes.iter_mut().zip(head).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Checks the head of the object that was asked for; its body is not looked at.
    pub(crate) fn parse(
        bytes: &[u8],
        kind: ObjectKind,
        domain: DomainId,
        id: ObjectId,
    ) -> Result<Self, FormatError> {
        let mut fields = Fields::new(bytes, 0);
        let covered = fields.clone().take(HEAD_BYTES - 4)?;
        let head: [u8; HEAD_BYTES] = fields.clone().array()?;
        let stored = Fields::new(&head, 0).skip(HEAD_BYTES - 4)?.u32()?;
        let magic = fields.array()?;
        if magic != MAGIC {
            let what = "object of a vault";
            return Err(FormatError::Magic { offset: 0, what });
        }
        check_crc(0, stored, covered)?;
        let version = fields.u16()?;
        let found_kind = fields.u16()?;
        let features = fields.u32()?;
        if version == 0 || version > VERSION {
            return Err(FormatError::TooNew {
                found: version,
                reads: VERSION,
            });
        }
        if features != 0 {
            return Err(FormatError::Features { bits: features });
        }
        if found_kind != kind.number() {
            let rule = "the kind must be that of the object's name";
            return Err(FormatError::invalid(10, rule, u64::from(found_kind)));
        }
        let found_domain = DomainId(fields.array()?);
        let found_id = ObjectId(fields.array()?);
        if found_domain != domain || found_id != id {
            let rule = "domain and id must be those of the object's name";
            return Err(FormatError::invalid(16, rule, 0));
        }
        let body_len = fields.u64()?;
        fields.reserved(4)?;
        Ok(Self {
            kind,
            domain,
            id,
            body_len,
        })
    }

    /// The length of the object, if that is possible.
    pub(crate) const fn object_len(&self) -> Option<u64> {
        self.body_len.checked_add(FRAME_BYTES as u64)
    }
}

/// The bytes of an object that is not a pack. `key` is the domain's object key, where it has one.
pub(crate) fn seal(
    kind: ObjectKind,
    domain: DomainId,
    id: ObjectId,
    body: &[u8],
    key: Option<&[u8; 32]>,
) -> Vec<u8> {
    let head = ObjectHead {
        kind,
        domain,
        id,
        body_len: body.len() as u64,
    };
    let mut bytes = Vec::with_capacity(body.len() + FRAME_BYTES);
    bytes.extend(head.encode());
    bytes.extend(body);
    let digest = digest(&[&bytes], key);
    bytes.extend(digest);
    bytes
}

/// Checks a whole object that is not a pack, and gives its body.
pub(crate) fn open<'a>(
    bytes: &'a [u8],
    kind: ObjectKind,
    domain: DomainId,
    id: ObjectId,
    key: Option<&[u8; 32]>,
) -> Result<&'a [u8], FormatError> {
    let head = ObjectHead::parse(bytes, kind, domain, id)?;
    if head.object_len() != Some(bytes.len() as u64) {
        return Err(FormatError::Short {
            offset: 0,
            needed: head.object_len().unwrap_or(u64::MAX),
            found: bytes.len() as u64,
        });
    }
    let (covered, stored) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    check_digest(stored, &[covered], key)?;
    Ok(covered.get(HEAD_BYTES..).unwrap_or_default())
}

/// BLAKE3 of the parts, one after the other.
pub(crate) fn digest(parts: &[&[u8]], key: Option<&[u8; 32]>) -> [u8; DIGEST_BYTES] {
    let mut hasher = key.map_or_else(blake3::Hasher::new, blake3::Hasher::new_keyed);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// That `stored` is the digest of the parts; compared in constant time, as it may be keyed.
pub(crate) fn check_digest(
    stored: &[u8],
    parts: &[&[u8]],
    key: Option<&[u8; 32]>,
) -> Result<(), FormatError> {
    let computed = blake3::Hash::from(digest(parts, key));
    let stored = stored.first_chunk::<DIGEST_BYTES>();
    if stored.is_some_and(|stored| computed == *stored) {
        Ok(())
    } else {
        Err(FormatError::Digest)
    }
}

/// That `stored` is the CRC32C of bytes that start at `offset`.
pub(crate) fn check_crc(offset: u64, stored: u32, bytes: &[u8]) -> Result<(), FormatError> {
    let computed = crc32c::crc32c(bytes);
    if stored == computed {
        return Ok(());
    }
    Err(FormatError::Checksum {
        offset,
        stored,
        computed,
    })
}

/// Bytes of the head.
pub(crate) const HEAD_BYTES: usize = 64;

/// Bytes of a digest.
pub(crate) const DIGEST_BYTES: usize = 32;

/// Bytes of an object that are not its body.
pub(crate) const FRAME_BYTES: usize = HEAD_BYTES + DIGEST_BYTES;

const MAGIC: [u8; 8] = *b"\x89VMV\r\n\x1a\n";
const VERSION: u16 = 1;

#[cfg(test)]
mod tests;
