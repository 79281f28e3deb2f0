use super::*;
use crate::{Domain, ErrorKind, MemoryObjects};

/// Keeps keys by turning their bits around with its own byte, and knows its own.
#[derive(Debug)]
struct Turner(u8);

impl KeyKeeper for Turner {
    fn wrap(&self, root: &[u8; 32]) -> Result<Vec<u8>, VaultError> {
        let turned = root.iter().map(|byte| byte ^ self.0);
        Ok([self.0].into_iter().chain(turned).collect())
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Option<[u8; 32]>, VaultError> {
        let Some((own, turned)) = wrapped.split_first() else {
            return Ok(None);
        };
        let root = turned.first_chunk().filter(|_| *own == self.0);
        Ok(root.map(|root: &[u8; 32]| root.map(|byte| byte ^ self.0)))
    }
}

fn vault(objects: &MemoryObjects) -> Vault {
    Vault::open_or_create(Arc::new(objects.clone())).unwrap()
}

fn scope(name: &str) -> ScopeName {
    ScopeName::new(name).unwrap()
}

fn key(domain: &Domain) -> [u8; 32] {
    *domain.secrets().object_key()
}

#[test]
fn a_vault_is_one_after_it_was_made_by_whomever() {
    let objects = MemoryObjects::new();
    let missing = Vault::open(Arc::new(objects.clone()));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let first = vault(&objects);
    assert!(first.domains().unwrap().0.is_empty());
    let bytes = objects.bytes(&ObjectName::vault());
    vault(&objects);
    assert_eq!(objects.bytes(&ObjectName::vault()), bytes);
}

#[test]
fn writers_of_a_scope_use_the_same_domain_also_where_two_were_made_at_once() {
    let objects = MemoryObjects::new();
    let vault = vault(&objects);
    let web = scope("web");
    let two = [(); 2].map(|()| vault.create_domain(&web, &Sealing::Open).unwrap());
    vault
        .create_domain(&scope("other"), &Sealing::Open)
        .unwrap();
    let used = vault.scope(&web, None).unwrap();
    let lowest = two.iter().min_by_key(|domain| domain.id()).unwrap();
    assert_eq!(used.id(), lowest.id());
    assert_eq!(key(&used), key(lowest));
    let none = vault.scope(&scope("nobody"), None);
    assert_eq!(none.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_sealed_domain_opens_with_a_key_that_was_wrapped_for_one_and_no_other() {
    let objects = MemoryObjects::new();
    let vault = vault(&objects);
    let (alice, bob) = (Turner(1), Turner(2));
    let made = vault
        .create_domain(&scope("web"), &Sealing::Sealed(&alice))
        .unwrap();
    assert!(made.is_sealed());
    for keeper in [None, Some(&bob as &dyn KeyKeeper)] {
        let refused = vault.scope(&scope("web"), keeper);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Key);
    }
    let old = vault.keys(made.id()).unwrap()[0];
    vault.share_key(made.id(), &alice, &bob).unwrap();
    for keeper in [&alice, &bob] {
        let opened = vault.domain(made.id(), Some(keeper)).unwrap();
        assert_eq!(key(&opened), key(&made));
    }
    // The old key goes: who kept what it wrapped is not kept out, and the vault asks for the new.
    vault.destroy_key(made.id(), old).unwrap();
    assert!(vault.domain(made.id(), Some(&alice)).is_err());
    let kept = vault.keys(made.id()).unwrap();
    for key in kept {
        vault.destroy_key(made.id(), key).unwrap();
    }
    assert!(vault.domain(made.id(), Some(&bob)).is_err());
}

#[test]
fn a_domain_whose_head_is_damaged_does_not_hide_the_others() {
    let objects = MemoryObjects::new();
    let vault = vault(&objects);
    let two = [(); 2].map(|()| vault.create_domain(&scope("web"), &Sealing::Open).unwrap());
    let name = ObjectName::domain(two[0].id());
    let mut bytes = objects.bytes(&name).unwrap();
    bytes[70] ^= 1;
    objects.tamper(&name, bytes);
    let (domains, damaged) = vault.domains().unwrap();
    assert_eq!(domains.len(), 1);
    assert_eq!(domains[0].id, two[1].id());
    assert_eq!(damaged.len(), 1);
    assert_eq!(vault.scope(&scope("web"), None).unwrap().id(), two[1].id());
}

// spec: VLT-14
#[test]
fn nothing_is_written_in_the_clear_where_a_scope_is_sealed() {
    let objects = MemoryObjects::new();
    let vault = vault(&objects);
    let web = scope("web");
    let sealed = vault
        .create_domain(&web, &Sealing::Sealed(&Turner(1)))
        .unwrap();
    for _ in 0..4 {
        vault.create_domain(&web, &Sealing::Open).unwrap();
    }
    let used = vault.scope(&web, Some(&Turner(1))).unwrap();
    assert_eq!(used.id(), sealed.id());
    let refused = vault.scope(&web, None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Key);
}
