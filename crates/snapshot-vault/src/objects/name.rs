//! Names of objects: made from kind, domain and id, and never taken from bytes.

use std::fmt;

use crate::id::{DomainId, ObjectId};

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum ObjectKind {
    /// It says that this is a vault.
    Vault,
    /// The scope of a domain, and how its chunks are sealed.
    Domain,
    /// The keys of a sealed domain, wrapped.
    Key,
    /// Records of chunks.
    Pack,
    /// What an archived snapshot is made of.
    Recipe,
    /// That a recipe is an archive.
    Commit,
    /// Packs that are going to be deleted.
    Tombstone,
    /// That a recipe never becomes an archive.
    Withdrawal,
    /// That an archive was deleted, and may be undeleted.
    Trash,
    /// That an archive is read, and must not be expired.
    Lease,
}

/// The name of an object, or the beginning of names: components joined by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Vault,
        Self::Domain,
        Self::Key,
        Self::Pack,
        Self::Recipe,
        Self::Commit,
        Self::Tombstone,
        Self::Withdrawal,
        Self::Trash,
        Self::Lease,
    ];

    /// The number in the head of an object.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Vault => 1,
            Self::Domain => 2,
            Self::Key => 3,
            Self::Pack => 4,
            Self::Recipe => 5,
            Self::Commit => 6,
            Self::Tombstone => 7,
            Self::Withdrawal => 8,
            Self::Trash => 9,
            Self::Lease => 10,
        }
    }

    /// The kind of a number; `None` if this build does not know it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The folder of a domain that objects of this kind lie in; `None` for those that lie in none.
    const fn folder(self) -> Option<&'static str> {
        match self {
            Self::Vault | Self::Domain => None,
            Self::Key => Some("keys"),
            Self::Pack => Some("packs"),
            Self::Recipe => Some("recipes"),
            Self::Commit => Some("commits"),
            Self::Tombstone => Some("tombstones"),
            Self::Withdrawal => Some("withdrawals"),
            Self::Trash => Some("trash"),
            Self::Lease => Some("leases"),
        }
    }
}

impl ObjectName {
    /// The object that says that this is a vault.
    #[must_use]
    pub fn vault() -> Self {
        Self("vault".to_owned())
    }

    /// What the names of all objects of all domains begin with.
    #[must_use]
    pub fn domains() -> Self {
        Self(format!("{DOMAINS}/"))
    }

    /// The head of a domain.
    #[must_use]
    pub fn domain(domain: DomainId) -> Self {
        Self(format!("{DOMAINS}/{domain}/{DOMAIN}"))
    }

    /// An object of a domain. Vault and domain, which have no id, are named as they are.
    #[must_use]
    pub fn of(kind: ObjectKind, domain: DomainId, id: ObjectId) -> Self {
        match (kind, kind.folder()) {
            (_, Some(folder)) => Self(format!("{DOMAINS}/{domain}/{folder}/{id}")),
            (ObjectKind::Vault, None) => Self::vault(),
            (_, None) => Self::domain(domain),
        }
    }

    /// What the names of all objects of a kind of a domain begin with.
    #[must_use]
    pub fn folder(kind: ObjectKind, domain: DomainId) -> Self {
        match kind.folder() {
            Some(folder) => Self(format!("{DOMAINS}/{domain}/{folder}/")),
            None => Self(format!("{DOMAINS}/{domain}/")),
        }
    }

    /// The id at the end of a name below `folder`; `None` for names that the format does not give.
    pub(crate) fn id_below(&self, folder: &Self) -> Option<ObjectId> {
        self.0.strip_prefix(&folder.0)?.parse().ok()
    }

    /// The domain whose head this is the name of.
    pub(crate) fn as_domain_head(&self) -> Option<DomainId> {
        let rest = self.0.strip_prefix(DOMAINS)?.strip_prefix('/')?;
        let (domain, name) = rest.split_once('/')?;
        domain.parse().ok().filter(|_| name == DOMAIN)
    }

    /// The components of the name; the last one is empty where this is a prefix.
    pub(crate) fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// This prefix and one more component.
    pub(crate) fn below(&self, component: &str) -> Self {
        Self(format!("{}{component}", self.0))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectName({:?})", self.0)
    }
}

const DOMAINS: &str = "domains";
const DOMAIN: &str = "domain";

#[cfg(test)]
mod tests {
    use super::*;

    // spec: VLT-01
    #[test]
    fn names_are_made_of_kind_domain_and_id_and_no_other_name_has_an_id() {
        let (domain, id) = (DomainId([1; 16]), ObjectId([2; 16]));
        let packs = ObjectName::folder(ObjectKind::Pack, domain);
        let pack = ObjectName::of(ObjectKind::Pack, domain, id);
        assert_eq!(pack.as_str(), format!("domains/{domain}/packs/{id}"));
        assert_eq!(pack.id_below(&packs), Some(id));
        for stray in ["", "x", ".hidden", "../recipes/x", &format!("{id}.old")] {
            assert_eq!(packs.below(stray).id_below(&packs), None, "{stray:?}");
        }
        assert_eq!(ObjectName::domain(domain).as_domain_head(), Some(domain));
        assert_eq!(pack.as_domain_head(), None);
    }

    #[test]
    fn every_kind_has_a_number_and_a_name_of_its_own() {
        for kind in ObjectKind::ALL {
            assert_eq!(ObjectKind::from_number(kind.number()), Some(kind));
        }
        let (domain, id) = (DomainId([1; 16]), ObjectId([2; 16]));
        let names: std::collections::BTreeSet<_> = ObjectKind::ALL
            .map(|kind| ObjectName::of(kind, domain, id))
            .into();
        assert_eq!(names.len(), ObjectKind::ALL.len());
    }
}
