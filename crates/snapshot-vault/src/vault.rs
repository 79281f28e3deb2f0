//! A vault: the domains of all scopes.

use std::sync::Arc;

use crate::domain::{Domain, DomainHead, get_body, put_until_done};
use crate::error::VaultError;
use crate::frame;
use crate::id::{DomainId, ObjectId, ScopeName};
use crate::objects::{ObjectError, ObjectKind, ObjectName, Objects};
use crate::secrets::RootKey;

/// A vault of archived snapshots. A clone is the same vault.
#[derive(Clone, Debug)]
pub struct Vault {
    objects: Arc<dyn Objects>,
}

/// How the chunks of a new domain are stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Sealing<'k> {
    /// As they are, compressed: whoever can read the objects can read the snapshots.
    Open,
    /// Encrypted with XChaCha20-Poly1305, under a key that is kept as the caller says.
    Sealed(&'k dyn KeyKeeper),
}

/// Keeps the root keys of sealed domains: wraps them for whoever may have them, and unwraps them.
///
/// What it wraps is stored in the vault, and vouched for by nothing but the wrapping itself.
pub trait KeyKeeper: std::fmt::Debug + Sync {
    /// Wraps a root key of 32 bytes.
    fn wrap(&self, root: &[u8; 32]) -> Result<Vec<u8>, VaultError>;

    /// The root key in `wrapped`; `None` if this keeper has no key to it.
    fn unwrap(&self, wrapped: &[u8]) -> Result<Option<[u8; 32]>, VaultError>;
}

/// A domain that was found, whether or not it can be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DomainSummary {
    /// Its identity.
    pub id: DomainId,
    /// The scope that it belongs to.
    pub scope: ScopeName,
    /// Whether a key is needed to open it.
    pub is_sealed: bool,
}

impl Vault {
    /// Opens a vault.
    pub fn open(objects: Arc<dyn Objects>) -> Result<Self, VaultError> {
        let (domain, id) = (DomainId([0; 16]), ObjectId([0; 16]));
        match get_body(&*objects, ObjectKind::Vault, domain, id, None) {
            Ok(_) => Ok(Self { objects }),
            Err(VaultError::Object {
                source: ObjectError::NotFound,
                ..
            }) => Err(VaultError::no_vault()),
            Err(error) => Err(error),
        }
    }

    /// Opens a vault, or makes one. Two who make it at the same moment make the same.
    pub fn open_or_create(objects: Arc<dyn Objects>) -> Result<Self, VaultError> {
        match Self::open(Arc::clone(&objects)) {
            Err(VaultError::NotFound { .. }) => {}
            opened => return opened,
        }
        let (domain, id) = (DomainId([0; 16]), ObjectId([0; 16]));
        let bytes = frame::seal(ObjectKind::Vault, domain, id, &[], None);
        put_until_done(&*objects, &ObjectName::vault(), &bytes)?;
        Self::open(objects)
    }

    /// The domains of all scopes, ascending by id. One whose head cannot be read does not hide the
    /// others.
    pub fn domains(&self) -> Result<(Vec<DomainSummary>, Vec<VaultError>), VaultError> {
        let prefix = ObjectName::domains();
        let listed = self.objects.list(&prefix);
        let listed = listed.map_err(VaultError::object_at("list", &prefix))?;
        let heads = listed
            .iter()
            .filter_map(|object| object.name.as_domain_head());
        let mut heads: Vec<DomainId> = heads.collect();
        heads.sort_unstable();
        let (mut domains, mut damaged) = (Vec::new(), Vec::new());
        for id in heads {
            match self.head(id) {
                Ok(head) => domains.push(DomainSummary {
                    id,
                    is_sealed: head.root.is_none(),
                    scope: head.scope,
                }),
                Err(error) => damaged.push(error),
            }
        }
        Ok((domains, damaged))
    }

    /// Opens a domain. `keeper` is asked for the key of a sealed one.
    pub fn domain(
        &self,
        id: DomainId,
        keeper: Option<&dyn KeyKeeper>,
    ) -> Result<Domain, VaultError> {
        let head = self.head(id)?;
        let is_sealed = head.root.is_none();
        let root = match head.root {
            Some(root) => root,
            None => self.root_key(id, &head.scope, keeper)?,
        };
        let objects = Arc::clone(&self.objects);
        Ok(Domain::new(objects, id, head.scope, &root, is_sealed))
    }

    /// The domain that writers of a scope use: of those that can be opened, the one with the lowest
    /// id. Where one of them is sealed, open ones are passed over: whoever puts one beside it has
    /// nothing written to it.
    pub fn scope(
        &self,
        scope: &ScopeName,
        keeper: Option<&dyn KeyKeeper>,
    ) -> Result<Domain, VaultError> {
        let (domains, _) = self.domains()?;
        let mut refused = None;
        let own = || domains.iter().filter(|domain| domain.scope == *scope);
        let is_sealed = own().any(|domain| domain.is_sealed);
        for domain in own().filter(|domain| domain.is_sealed == is_sealed) {
            match self.domain(domain.id, keeper) {
                Err(error @ VaultError::KeyNeeded { .. }) => refused = Some(error),
                opened => return opened,
            }
        }
        Err(refused.unwrap_or_else(|| VaultError::NotFound {
            what: format!("scope {scope} in the vault"),
        }))
    }

    /// Makes a domain for a scope, which may have some already.
    pub fn create_domain(
        &self,
        scope: &ScopeName,
        sealing: &Sealing<'_>,
    ) -> Result<Domain, VaultError> {
        let id = DomainId::random()?;
        let root = RootKey::random()?;
        let is_sealed = match sealing {
            Sealing::Open => false,
            Sealing::Sealed(keeper) => {
                // The key is there before the domain is: a domain without one can never be opened.
                self.add_key(id, &root, *keeper)?;
                true
            }
        };
        let head = DomainHead {
            scope: scope.clone(),
            root: (!is_sealed).then(|| root.clone()),
        };
        let none = ObjectId([0; 16]);
        let bytes = frame::seal(ObjectKind::Domain, id, none, &head.encode(), None);
        put_until_done(&*self.objects, &ObjectName::domain(id), &bytes)?;
        let objects = Arc::clone(&self.objects);
        Ok(Domain::new(objects, id, scope.clone(), &root, is_sealed))
    }

    /// Wraps the key of a sealed domain for another keeper, too. The old one still opens it.
    pub fn share_key(
        &self,
        id: DomainId,
        from: &dyn KeyKeeper,
        to: &dyn KeyKeeper,
    ) -> Result<ObjectId, VaultError> {
        let head = self.head(id)?;
        if head.root.is_some() {
            return Err(VaultError::Input {
                what: format!("domain {id} is not sealed: there is no key to share"),
            });
        }
        let root = self.root_key(id, &head.scope, Some(from))?;
        self.add_key(id, &root, to)
    }

    /// Destroys a wrapped key. Without any, the domain is lost: nobody can read it again, who did
    /// not keep the key elsewhere. Who had the key has it still.
    pub fn destroy_key(&self, id: DomainId, key: ObjectId) -> Result<(), VaultError> {
        let name = ObjectName::of(ObjectKind::Key, id, key);
        let deleted = self.objects.delete(&name);
        deleted.map_err(VaultError::object_at("delete", &name))
    }

    /// The wrapped keys of a domain.
    pub fn keys(&self, id: DomainId) -> Result<Vec<ObjectId>, VaultError> {
        let folder = ObjectName::folder(ObjectKind::Key, id);
        let listed = self.objects.list(&folder);
        let listed = listed.map_err(VaultError::object_at("list", &folder))?;
        let keys = listed.iter();
        let mut keys: Vec<_> = keys.filter_map(|key| key.name.id_below(&folder)).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    fn head(&self, id: DomainId) -> Result<DomainHead, VaultError> {
        let none = ObjectId([0; 16]);
        let body = get_body(&*self.objects, ObjectKind::Domain, id, none, None)?;
        DomainHead::parse(&body).map_err(VaultError::damaged(&ObjectName::domain(id)))
    }

    fn add_key(
        &self,
        domain: DomainId,
        root: &RootKey,
        keeper: &dyn KeyKeeper,
    ) -> Result<ObjectId, VaultError> {
        let id = ObjectId::random()?;
        let wrapped = keeper.wrap(&root.0)?;
        let bytes = frame::seal(ObjectKind::Key, domain, id, &wrapped, None);
        let name = ObjectName::of(ObjectKind::Key, domain, id);
        put_until_done(&*self.objects, &name, &bytes)?;
        Ok(id)
    }

    /// The key of a sealed domain, from whichever of its key objects the keeper can unwrap. One that
    /// is damaged does not hide the others.
    fn root_key(
        &self,
        id: DomainId,
        scope: &ScopeName,
        keeper: Option<&dyn KeyKeeper>,
    ) -> Result<RootKey, VaultError> {
        let needed = || VaultError::KeyNeeded {
            domain: id,
            scope: scope.to_string(),
        };
        let keeper = keeper.ok_or_else(needed)?;
        let mut failed = None;
        for key in self.keys(id)? {
            let wrapped = get_body(&*self.objects, ObjectKind::Key, id, key, None);
            match wrapped.and_then(|wrapped| keeper.unwrap(&wrapped)) {
                Ok(Some(root)) => return Ok(RootKey(root)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(needed))
    }
}

#[cfg(test)]
mod tests;
