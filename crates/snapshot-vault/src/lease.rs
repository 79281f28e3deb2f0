//! Keeping an archive from being expired while it is read.

use std::collections::BTreeSet;

use crate::domain::Domain;
use crate::error::{FormatError, VaultError};
use crate::fields::Fields;
use crate::frame::HEAD_BYTES;
use crate::id::ObjectId;
use crate::objects::ObjectKind;

/// Keeps an archive from being expired, until it is released or dropped.
///
/// It is an object of the vault: one whose holder dies stays, and keeps the archive, until somebody
/// releases it by its id.
#[derive(Debug)]
pub struct ArchiveLease {
    domain: Domain,
    id: ObjectId,
    archive: ObjectId,
    is_released: bool,
}

/// The leases of a domain.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct LeaseList {
    /// Leases, and the archives that they keep, ascending by lease.
    pub leases: Vec<(ObjectId, ObjectId)>,
    /// Leases that cannot be read, and why: while there is one, nothing is expired.
    pub damaged: Vec<(ObjectId, VaultError)>,
}

impl Domain {
    /// Leases an archive that counts: for memory that a guest reads as it runs.
    pub fn lease_archive(&self, archive: ObjectId) -> Result<ArchiveLease, VaultError> {
        let id = ObjectId::random()?;
        self.put(ObjectKind::Lease, id, &archive.0)?;
        let lease = ArchiveLease {
            domain: self.clone(),
            id,
            archive,
            is_released: false,
        };
        // After the lease is there, and the trash object first: it is the last that goes of what
        // expires, so that one who finds it gone does not find the recipe either.
        let is_there = !self.exists(ObjectKind::Trash, archive)?
            && self.exists(ObjectKind::Recipe, archive)?
            && self.exists(ObjectKind::Commit, archive)?;
        if is_there {
            return Ok(lease);
        }
        lease.release()?;
        Err(VaultError::NotFound {
            what: format!("archive {archive}"),
        })
    }

    /// The leases that there are. One that cannot be read does not hide the others.
    pub fn leases(&self) -> Result<LeaseList, VaultError> {
        let mut list = LeaseList::default();
        for (id, _) in self.list(ObjectKind::Lease)? {
            match self.lease(id) {
                Ok(archive) => list.leases.push((id, archive)),
                Err(error) if error.is_missing_object() => {}
                Err(error @ VaultError::Damaged { .. }) => list.damaged.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(list)
    }

    /// The archive that a lease keeps.
    fn lease(&self, id: ObjectId) -> Result<ObjectId, VaultError> {
        let body = self.get(ObjectKind::Lease, id)?;
        let name = self.name(ObjectKind::Lease, id);
        parse(&body).map_err(VaultError::damaged(&name))
    }

    /// Releases the lease of a holder that is known to be dead.
    pub fn release_lease(&self, id: ObjectId) -> Result<(), VaultError> {
        self.delete(ObjectKind::Lease, id)
    }

    /// The archives that are leased. It fails where a lease cannot be read: that may be of any.
    pub(crate) fn leased_archives(&self) -> Result<BTreeSet<ObjectId>, VaultError> {
        let list = self.leases()?;
        match list.damaged.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(list
                .leases
                .into_iter()
                .map(|(_, archive)| archive)
                .collect()),
        }
    }
}

impl ArchiveLease {
    /// Its own id.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The archive that it keeps.
    #[must_use]
    pub fn archive(&self) -> ObjectId {
        self.archive
    }

    /// Gives the archive free.
    pub fn release(mut self) -> Result<(), VaultError> {
        self.is_released = true;
        self.domain.release_lease(self.id)
    }
}

impl Drop for ArchiveLease {
    fn drop(&mut self) {
        if self.is_released {
            return;
        }
        if let Err(error) = self.domain.release_lease(self.id) {
            tracing::warn!(%error, lease = %self.id, "a lease of an archive stays");
        }
    }
}

fn parse(body: &[u8]) -> Result<ObjectId, FormatError> {
    let mut fields = Fields::new(body, HEAD_BYTES as u64);
    let archive = ObjectId(fields.array()?);
    fields.finish()?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::objects::{ListedObject, ObjectError, ObjectName, Objects};
    use crate::testing::{Guest, archive, domain, domain_on, restored};
    use crate::{CollectOptions, MemoryObjects};

    fn expire(domain: &Domain) -> u64 {
        let options = CollectOptions {
            expire_trash: true,
            ..CollectOptions::default()
        };
        domain.collect(&options).unwrap().expired
    }

    // spec: VGC-19
    #[test]
    fn a_leased_archive_is_not_expired_and_one_in_the_trash_is_not_leased() {
        let domain = domain(&MemoryObjects::new());
        let guest = Guest::new(32, 1);
        let archived = archive(&domain, 1, &guest, None).unwrap();
        let lease = domain.lease_archive(archived.id).unwrap();
        domain.delete_archive(archived.id).unwrap();
        assert!(domain.lease_archive(archived.id).is_err());
        assert_eq!(domain.leases().unwrap().leases, [(lease.id(), archived.id)]);
        assert_eq!(expire(&domain), 0);
        assert_eq!(restored(&domain, archived.id).unwrap(), guest.image());
        lease.release().unwrap();
        assert_eq!(expire(&domain), 1);
        assert!(domain.lease_archive(archived.id).is_err());
        assert_eq!(domain.leases().unwrap().leases, []);
    }

    #[test]
    fn a_lease_ends_when_it_is_dropped_and_that_of_a_dead_holder_when_somebody_says_so() {
        let domain = domain(&MemoryObjects::new());
        let archived = archive(&domain, 1, &Guest::new(16, 1), None).unwrap();
        drop(domain.lease_archive(archived.id).unwrap());
        assert_eq!(domain.leases().unwrap().leases, []);
        let dead = domain.lease_archive(archived.id).unwrap();
        let id = dead.id();
        std::mem::forget(dead);
        domain.delete_archive(archived.id).unwrap();
        assert_eq!(expire(&domain), 0);
        domain.release_lease(id).unwrap();
        assert_eq!(expire(&domain), 1);
    }

    // spec: VGC-23
    #[test]
    fn a_lease_that_cannot_be_read_hides_no_other_and_keeps_every_archive() {
        let objects = MemoryObjects::new();
        let domain = domain(&objects);
        let archived = archive(&domain, 1, &Guest::new(16, 1), None).unwrap();
        let kept = domain.lease_archive(archived.id).unwrap();
        let bad = ObjectId([9; 16]);
        domain.put_body(ObjectKind::Lease, bad, b"short").unwrap();
        domain.delete_archive(archived.id).unwrap();
        let list = domain.leases().unwrap();
        assert_eq!(list.leases, [(kept.id(), archived.id)]);
        let ids: Vec<ObjectId> = list.damaged.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [bad]);
        kept.release().unwrap();
        let options = CollectOptions {
            expire_trash: true,
            ..CollectOptions::default()
        };
        let refused = domain.collect(&options);
        assert!(
            matches!(refused, Err(VaultError::Damaged { .. })),
            "{refused:?}"
        );
        assert!(domain.undelete_archive(archived.id).is_ok());
        // What expires nothing asks for no lease.
        assert!(domain.collect(&CollectOptions::default()).is_ok());
        domain.release_lease(bad).unwrap();
        assert_eq!(expire(&domain), 1);
    }

    /// Ends the expiry of an archive before the `get` of this number, as a collector does that listed
    /// the leases before there was one.
    #[derive(Debug)]
    struct ExpiredMeanwhile {
        objects: MemoryObjects,
        names: [ObjectName; 3],
        before: usize,
        gets: AtomicUsize,
    }

    impl Objects for ExpiredMeanwhile {
        fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
            self.objects.put(name, bytes)
        }

        fn get(&self, name: &ObjectName, at: u64, out: &mut [u8]) -> Result<usize, ObjectError> {
            if self.gets.fetch_add(1, Ordering::Relaxed) + 1 == self.before {
                for name in &self.names {
                    self.objects.delete(name)?;
                }
            }
            self.objects.get(name, at, out)
        }

        fn list(&self, prefix: &ObjectName) -> Result<Vec<ListedObject>, ObjectError> {
            self.objects.list(prefix)
        }

        fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
            self.objects.delete(name)
        }
    }

    // spec: VGC-19
    #[test]
    fn an_archive_that_is_expired_while_it_is_leased_is_not() {
        for before in 1..=3 {
            let objects = MemoryObjects::new();
            let plain = domain(&objects);
            let archived = archive(&plain, 1, &Guest::new(16, 1), None).unwrap();
            plain.delete_archive(archived.id).unwrap();
            let name = |kind| plain.name(kind, archived.id);
            let meanwhile = ExpiredMeanwhile {
                objects: objects.clone(),
                names: [ObjectKind::Recipe, ObjectKind::Commit, ObjectKind::Trash].map(name),
                before,
                gets: AtomicUsize::new(0),
            };
            let reader = domain_on(Arc::new(meanwhile));
            let leased = reader.lease_archive(archived.id);
            assert!(leased.is_err(), "expired before get {before}");
            assert_eq!(plain.leases().unwrap().leases.len(), 0);
        }
    }
}
