//! A domain: the chunks of a scope under one set of keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{FormatError, VaultError};
use crate::fields::Fields;
use crate::frame::{self, FRAME_BYTES, HEAD_BYTES, ObjectHead};
use crate::id::{DomainId, ObjectId, ScopeName};
use crate::limits::{MAX_OBJECT_BYTES, MAX_SCOPE_BYTES};
use crate::objects::{ObjectError, ObjectKind, ObjectName, Objects};
use crate::secrets::{RootKey, Secrets};
use crate::tombstone;

/// The chunks of a scope under one set of keys, open. A clone is the same domain.
#[derive(Clone, Debug)]
pub struct Domain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn Objects>,
    id: DomainId,
    scope: ScopeName,
    secrets: Secrets,
}

/// What the head of a domain says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DomainHead {
    pub(crate) scope: ScopeName,
    /// The root key of a domain that is not sealed; `None`: it is in the domain's key objects.
    pub(crate) root: Option<RootKey>,
}

impl Domain {
    pub(crate) fn new(
        objects: Arc<dyn Objects>,
        id: DomainId,
        scope: ScopeName,
        root: &RootKey,
        is_sealed: bool,
    ) -> Self {
        let secrets = Secrets::derive(id, root, is_sealed);
        Self {
            inner: Arc::new(Inner {
                objects,
                id,
                scope,
                secrets,
            }),
        }
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> DomainId {
        self.inner.id
    }

    /// The scope that it belongs to.
    #[must_use]
    pub fn scope(&self) -> &ScopeName {
        &self.inner.scope
    }

    /// Whether what it stores is encrypted.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.inner.secrets.is_sealed()
    }

    pub(crate) fn objects(&self) -> &dyn Objects {
        &*self.inner.objects
    }

    pub(crate) fn secrets(&self) -> &Secrets {
        &self.inner.secrets
    }

    /// The name of an object of it.
    pub(crate) fn name(&self, kind: ObjectKind, id: ObjectId) -> ObjectName {
        ObjectName::of(kind, self.id(), id)
    }

    /// Puts a small object with this body.
    pub(crate) fn put(
        &self,
        kind: ObjectKind,
        id: ObjectId,
        body: &[u8],
    ) -> Result<(), VaultError> {
        let key = Some(self.secrets().object_key());
        let bytes = frame::seal(kind, self.id(), id, body, key);
        put_until_done(self.objects(), &self.name(kind, id), &bytes)
    }

    /// Puts a small object with any body, as a writer does that lies: for checks.
    #[cfg(any(test, feature = "testing"))]
    pub fn put_body(&self, kind: ObjectKind, id: ObjectId, body: &[u8]) -> Result<(), VaultError> {
        self.put(kind, id, body)
    }

    /// The body of a small object.
    pub(crate) fn get(&self, kind: ObjectKind, id: ObjectId) -> Result<Vec<u8>, VaultError> {
        let key = Some(self.secrets().object_key());
        get_body(self.objects(), kind, self.id(), id, key)
    }

    /// Whether a small object is there. One that is damaged is.
    pub(crate) fn exists(&self, kind: ObjectKind, id: ObjectId) -> Result<bool, VaultError> {
        let name = self.name(kind, id);
        match self.objects().get(&name, 0, &mut [0]) {
            Ok(_) => Ok(true),
            Err(ObjectError::NotFound) => Ok(false),
            Err(error) => Err(VaultError::object_at("get", &name)(error)),
        }
    }

    pub(crate) fn delete(&self, kind: ObjectKind, id: ObjectId) -> Result<(), VaultError> {
        delete_until_done(self.objects(), &self.name(kind, id))
    }

    /// The ids of all objects of a kind, ascending, with their lengths. Other names are ignored.
    pub(crate) fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectId, u64)>, VaultError> {
        let folder = ObjectName::folder(kind, self.id());
        let listed = self.objects().list(&folder);
        let listed = listed.map_err(VaultError::object_at("list", &folder))?;
        let mut ids: Vec<_> = listed
            .into_iter()
            .filter_map(|object| Some((object.name.id_below(&folder)?, object.len_bytes)))
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The tombstones that are there, with the packs that they name. One that goes while this is
    /// read had its packs deleted before: those are not in any list that begins later.
    pub(crate) fn tombstones(&self) -> Result<Vec<(ObjectId, BTreeSet<ObjectId>)>, VaultError> {
        let mut tombstones = Vec::new();
        for (id, _) in self.list(ObjectKind::Tombstone)? {
            match self.tombstone(id) {
                Ok(packs) => tombstones.push((id, packs)),
                Err(error) if error.is_missing_object() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(tombstones)
    }

    /// The packs that a tombstone names.
    pub(crate) fn tombstone(&self, id: ObjectId) -> Result<BTreeSet<ObjectId>, VaultError> {
        let body = self.get(ObjectKind::Tombstone, id)?;
        let name = self.name(ObjectKind::Tombstone, id);
        tombstone::parse(&body).map_err(VaultError::damaged(&name))
    }
}

impl DomainHead {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let scope = self.scope.as_str().as_bytes();
        let sealing: u16 = if self.root.is_some() { OPEN } else { SEALED };
        let mut body = sealing.to_le_bytes().to_vec();
        let scope_len = u16::try_from(scope.len()).unwrap_or(u16::MAX);
        body.extend(scope_len.to_le_bytes());
        body.extend([0; 4]);
        body.extend(self.root.as_ref().map_or([0; 32], |root| root.0));
        body.extend(scope);
        body
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body, HEAD_BYTES as u64);
        let at = fields.offset();
        let sealing = fields.u16()?;
        let scope_len = usize::from(fields.u16()?);
        fields.reserved(4)?;
        let root = match sealing {
            OPEN => Some(RootKey(fields.array()?)),
            SEALED => {
                fields.reserved(32)?;
                None
            }
            _ => {
                let rule = "a domain is open, or sealed with XChaCha20-Poly1305";
                return Err(FormatError::invalid(at, rule, u64::from(sealing)));
            }
        };
        let at = fields.offset();
        let text = fields.take(scope_len.min(MAX_SCOPE_BYTES + 1))?;
        fields.finish()?;
        let text = std::str::from_utf8(text).unwrap_or_default();
        match ScopeName::new(text) {
            Ok(scope) if scope.as_str() == text => Ok(Self { scope, root }),
            _ => {
                let rule = "a scope is a name in lower case";
                Err(FormatError::invalid(at, rule, scope_len as u64))
            }
        }
    }
}

/// The body of an object that is read whole.
pub(crate) fn get_body(
    objects: &dyn Objects,
    kind: ObjectKind,
    domain: DomainId,
    id: ObjectId,
    key: Option<&[u8; 32]>,
) -> Result<Vec<u8>, VaultError> {
    let name = ObjectName::of(kind, domain, id);
    let failed = || VaultError::object_at("get", &name);
    let damaged = || VaultError::damaged(&name);
    let mut bytes = vec![0; FIRST_BYTES];
    let found = objects.get(&name, 0, &mut bytes).map_err(failed())?;
    bytes.truncate(found);
    let head = ObjectHead::parse(&bytes, kind, domain, id).map_err(damaged())?;
    let len = head.object_len().filter(|len| *len <= MAX_OBJECT_BYTES);
    let Some(len) = len.and_then(|len| usize::try_from(len).ok()) else {
        return Err(damaged()(FormatError::Limit {
            offset: 48,
            found: head.body_len,
            limit: MAX_OBJECT_BYTES - FRAME_BYTES as u64,
        }));
    };
    let is_whole = found < FIRST_BYTES;
    // Grown by what is there, not by what is declared; one byte more shows a longer object.
    while !is_whole && bytes.len() <= len {
        let start = bytes.len();
        bytes.resize((len + 1).min(start + STEP_BYTES), 0);
        let rest = bytes.get_mut(start..).unwrap_or_default();
        let wanted = rest.len();
        let found = objects.get(&name, start as u64, rest).map_err(failed())?;
        if found < wanted {
            bytes.truncate(start + found);
            break;
        }
    }
    let body = frame::open(&bytes, kind, domain, id, key).map_err(damaged())?;
    Ok(body.to_vec())
}

/// Puts an object, again where it is not known whether that has happened.
///
/// The name is this caller's alone, so that an object which is there is the one that was put.
pub(crate) fn put_until_done(
    objects: &dyn Objects,
    name: &ObjectName,
    bytes: &[u8],
) -> Result<(), VaultError> {
    until_done("put", name, || match objects.put(name, bytes) {
        Err(ObjectError::Exists) => Ok(()),
        put => put,
    })
}

fn delete_until_done(objects: &dyn Objects, name: &ObjectName) -> Result<(), VaultError> {
    until_done("delete", name, || match objects.delete(name) {
        Err(ObjectError::NotFound) => Ok(()),
        deleted => deleted,
    })
}

fn until_done(
    action: &'static str,
    name: &ObjectName,
    call: impl Fn() -> Result<(), ObjectError>,
) -> Result<(), VaultError> {
    let mut attempt = 1;
    loop {
        match call() {
            Ok(()) => return Ok(()),
            Err(error) if attempt < ATTEMPTS => {
                tracing::debug!(%error, %name, action, "tried again");
                attempt += 1;
            }
            Err(error) => return Err(VaultError::object_at(action, name)(error)),
        }
    }
}

/// How often a call is made whose outcome is not known.
pub(crate) const ATTEMPTS: usize = 3;

/// Bytes of an object that are read first: all of most.
const FIRST_BYTES: usize = 16 << 10;

/// Bytes of a longer object that are read at once.
const STEP_BYTES: usize = 1 << 20;

const OPEN: u16 = 0;
const SEALED: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{MemoryObjects, Step};

    fn domain(objects: &MemoryObjects) -> Domain {
        let scope = ScopeName::default_scope();
        let objects = Arc::new(objects.clone());
        Domain::new(objects, DomainId([1; 16]), scope, &RootKey([2; 32]), false)
    }

    // spec: VGC-01
    #[test]
    fn a_put_whose_outcome_is_not_known_is_made_again_under_its_name() {
        for step in [Step::Fails, Step::FailsDone] {
            for ignores_conditions in [false, true] {
                let objects = MemoryObjects::new();
                objects.set_ignores_conditions(ignores_conditions);
                objects.plan(1, step);
                let domain = domain(&objects);
                let id = ObjectId([3; 16]);
                domain.put(ObjectKind::Commit, id, b"").unwrap();
                assert_eq!(domain.list(ObjectKind::Commit).unwrap().len(), 1);
                assert_eq!(domain.get(ObjectKind::Commit, id).unwrap(), b"");
                objects.plan(objects.change_count() + 1, step);
                domain.delete(ObjectKind::Commit, id).unwrap();
                assert!(!domain.exists(ObjectKind::Commit, id).unwrap());
            }
        }
    }

    #[test]
    fn long_bodies_come_back_and_cut_or_longer_objects_do_not() {
        let objects = MemoryObjects::new();
        let domain = domain(&objects);
        let id = ObjectId([3; 16]);
        let name = domain.name(ObjectKind::Recipe, id);
        for len in [
            0,
            FIRST_BYTES - FRAME_BYTES,
            FIRST_BYTES,
            STEP_BYTES + FIRST_BYTES,
        ] {
            let body = vec![7; len];
            domain.delete(ObjectKind::Recipe, id).unwrap();
            domain.put(ObjectKind::Recipe, id, &body).unwrap();
            assert_eq!(domain.get(ObjectKind::Recipe, id).unwrap(), body);
            let whole = objects.bytes(&name).unwrap();
            let mut longer = whole.clone();
            longer.push(0);
            for other in [longer, whole[..whole.len() - 1].to_vec(), Vec::new()] {
                objects.tamper(&name, other);
                let read = domain.get(ObjectKind::Recipe, id);
                assert!(matches!(read, Err(VaultError::Damaged { .. })), "{read:?}");
            }
        }
    }

    #[test]
    fn the_head_of_a_domain_survives_its_bytes() {
        let scope = ScopeName::new("tenant-1").unwrap();
        for root in [None, Some(RootKey([7; 32]))] {
            let head = DomainHead {
                scope: scope.clone(),
                root,
            };
            let body = head.encode();
            assert_eq!(DomainHead::parse(&body), Ok(head));
            for len in 0..body.len() {
                assert!(DomainHead::parse(&body[..len]).is_err(), "cut to {len}");
            }
        }
    }
}
