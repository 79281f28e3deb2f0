//! The keys of a domain, and what they do: name chunks, vouch for objects, seal payloads.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::chunk::ZEROS;
use crate::error::VaultError;
use crate::id::{ChunkId, DomainId, ObjectId};

/// The one secret of a domain, of which its keys are derived.
#[derive(Clone, PartialEq, Eq)]
pub struct RootKey(pub(crate) [u8; 32]);

/// The keys of a domain.
#[derive(Clone)]
pub(crate) struct Secrets {
    chunk_id: [u8; 32],
    object: [u8; 32],
    sealing: Option<Box<XChaCha20Poly1305>>,
    zero: ChunkId,
}

/// What the sealing of a payload binds it to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding<'a> {
    pub(crate) domain: DomainId,
    pub(crate) pack: ObjectId,
    /// Where the record starts in its pack.
    pub(crate) offset: u64,
    /// Bytes 4 to 7 of the record: representation, codec, mask.
    pub(crate) form: [u8; 4],
    pub(crate) id: ChunkId,
    pub(crate) base: ChunkId,
    /// What is sealed, or opened.
    pub(crate) bytes: &'a [u8],
}

impl RootKey {
    /// A key that nobody knows.
    pub fn random() -> Result<Self, VaultError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(VaultError::random)?;
        Ok(Self(bytes))
    }
}

impl Secrets {
    /// Derives the keys of a domain; payloads are sealed if `is_sealed`.
    pub(crate) fn derive(domain: DomainId, root: &RootKey, is_sealed: bool) -> Self {
        let mut material = [0; 48];
        let bytes = root.0.iter().chain(&domain.0);
        material
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        let key = |context: &str| blake3::derive_key(context, &material);
        let chunk_id = key("vmsnap vault 1 chunk id");
        Self {
            chunk_id,
            object: key("vmsnap vault 1 object"),
            sealing: is_sealed.then(|| {
                let data = key("vmsnap vault 1 chunk data");
                Box::new(XChaCha20Poly1305::new(&data.into()))
            }),
            zero: ChunkId(*blake3::keyed_hash(&chunk_id, &ZEROS).as_bytes()),
        }
    }

    /// The id of a chunk with these bytes.
    pub(crate) fn chunk_id(&self, chunk: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.chunk_id, chunk).as_bytes())
    }

    /// The id of the chunk that is all zero.
    pub(crate) const fn zero(&self) -> ChunkId {
        self.zero
    }

    /// What objects are vouched for with.
    pub(crate) const fn object_key(&self) -> &[u8; 32] {
        &self.object
    }

    pub(crate) const fn is_sealed(&self) -> bool {
        self.sealing.is_some()
    }

    /// The bytes as they are stored; `None` where nothing is sealed and they are stored as they are.
    pub(crate) fn seal(&self, binding: &Binding<'_>) -> Result<Option<Vec<u8>>, VaultError> {
        let Some(cipher) = &self.sealing else {
            return Ok(None);
        };
        let sealed = cipher.encrypt(&binding.nonce(), binding.payload(&binding.data()));
        let sealed = sealed.map_err(|_| VaultError::Host {
            what: "seal a payload",
            source: None,
        });
        sealed.map(Some)
    }

    /// The bytes that were sealed, if these are they, and stand where they were put; `None` where
    /// nothing is sealed.
    pub(crate) fn open(&self, binding: &Binding<'_>) -> Option<Result<Vec<u8>, Unsealable>> {
        let cipher = self.sealing.as_ref()?;
        let opened = cipher.decrypt(&binding.nonce(), binding.payload(&binding.data()));
        Some(opened.map_err(|_| Unsealable))
    }
}

/// A payload that another key sealed, or that was sealed for another place, or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unsealable;

impl<'a> Binding<'a> {
    /// The pack's id and the offset in it: no two records have both.
    fn nonce(&self) -> XNonce {
        let mut nonce = [0; 24];
        let bytes = self.pack.0.into_iter().chain(self.offset.to_le_bytes());
        nonce
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        nonce.into()
    }

    fn data(&self) -> [u8; 84] {
        let mut data = [0; 84];
        let bytes = self.domain.0.into_iter().chain(self.form);
        let bytes = bytes.chain(self.id.0).chain(self.base.0);
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        data
    }

    fn payload<'d>(&self, data: &'d [u8; 84]) -> Payload<'a, 'd> {
        Payload {
            msg: self.bytes,
            aad: data,
        }
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey")
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Secrets");
        debug.field("is_sealed", &self.is_sealed());
        debug.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CHUNK_BYTES;

    fn secrets(domain: u8, root: u8) -> Secrets {
        Secrets::derive(DomainId([domain; 16]), &RootKey([root; 32]), true)
    }

    fn binding(bytes: &[u8]) -> Binding<'_> {
        Binding {
            domain: DomainId([1; 16]),
            pack: ObjectId([2; 16]),
            offset: 64,
            form: [2, 2, 1, 0],
            id: ChunkId([3; 32]),
            base: ChunkId([4; 32]),
            bytes,
        }
    }

    #[test]
    fn a_chunk_has_another_id_in_every_domain_and_under_every_key() {
        let chunk = vec![5; CHUNK_BYTES];
        let ids =
            [(1, 1), (1, 2), (2, 1)].map(|(domain, root)| secrets(domain, root).chunk_id(&chunk));
        assert_eq!(std::collections::BTreeSet::from(ids).len(), 3);
        let own = secrets(1, 1);
        assert_eq!(own.chunk_id(&ZEROS), own.zero());
    }

    // spec: VLT-10
    #[test]
    fn a_payload_opens_only_where_it_was_sealed() {
        let own = secrets(1, 1);
        let sealed = own.seal(&binding(b"pages")).unwrap().unwrap();
        let here = binding(&sealed);
        assert_eq!(own.open(&here), Some(Ok(b"pages".to_vec())));
        assert_eq!(secrets(1, 2).open(&here), Some(Err(Unsealable)));
        let elsewhere = [
            Binding {
                domain: DomainId([9; 16]),
                ..here
            },
            Binding {
                pack: ObjectId([9; 16]),
                ..here
            },
            Binding { offset: 65, ..here },
            Binding {
                form: [1, 2, 1, 0],
                ..here
            },
            Binding {
                form: [2, 1, 1, 0],
                ..here
            },
            Binding {
                form: [2, 2, 3, 0],
                ..here
            },
            Binding {
                id: ChunkId([9; 32]),
                ..here
            },
            Binding {
                base: ChunkId([9; 32]),
                ..here
            },
            Binding {
                bytes: b"other bytes than were sealed",
                ..here
            },
        ];
        for moved in elsewhere {
            assert_eq!(own.open(&moved), Some(Err(Unsealable)), "{moved:?}");
        }
    }

    #[test]
    fn nothing_is_sealed_in_an_open_domain() {
        let open = Secrets::derive(DomainId([1; 16]), &RootKey([1; 32]), false);
        assert_eq!(open.seal(&binding(b"pages")).unwrap(), None);
        assert_eq!(open.open(&binding(b"pages")), None);
    }

    #[test]
    fn keys_are_not_printed() {
        let printed = format!("{:?} {:?}", RootKey([0xAB; 32]), secrets(1, 0xAB));
        assert!(
            !printed.contains("171") && !printed.contains("ab"),
            "{printed}"
        );
    }
}
