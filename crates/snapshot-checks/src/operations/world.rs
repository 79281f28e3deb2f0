//! A store, its model and its readers.

use std::sync::Arc;
use std::time::Duration;

use snapshot_memory::backend::{Backend, MemBackend};
use snapshot_store::{ErrorKind, OpenOptions, Store, StoreError, StoredImage};
use snapshot_vault::{Domain, MemoryObjects, ScopeName, Sealing, Vault, VaultError};

use super::cold;
use super::found::{self, Allowed, Ids};
use super::model::{Key, Model};
use super::plan::{End, Hands, Plan};
use crate::stored_guest::tell;

/// A store in memory, and what it must hold.
pub(super) struct World {
    pub(super) tree: MemBackend,
    pub(super) store: Store,
    pub(super) model: Model,
    pub(super) ids: Ids,
    images: Vec<(Key, StoredImage)>,
    /// Of a vault in memory, which loses nothing.
    domain: Domain,
}

impl World {
    /// A new store.
    pub(super) fn new() -> Result<Self, String> {
        let tree = MemBackend::new();
        let backend: Arc<dyn Backend> = Arc::new(tree.clone());
        let store = Store::create(backend, &opening());
        Ok(Self {
            tree,
            store: store.map_err(|error| format!("create a store: {}", tell(&error)))?,
            model: Model::default(),
            ids: Ids::new(),
            images: Vec::new(),
            domain: domain().map_err(|error| format!("make a vault: {}", tell(&error)))?,
        })
    }

    /// Closes every image that is held.
    pub(super) fn release(&mut self) {
        self.images.clear();
        self.model.held.clear();
    }

    /// Goes on with another tree, as a process does that starts on it.
    pub(super) fn move_to(&mut self, tree: &MemBackend) -> Result<(), String> {
        self.release();
        self.tree = tree.snapshot();
        self.store = open(&self.tree).map_err(|error| format!("open: {}", tell(&error)))?;
        Ok(())
    }

    /// Does what was planned, on the store here or on another. What is wrong although nothing
    /// failed comes second.
    pub(super) fn perform(
        &mut self,
        plan: &mut Plan,
        elsewhere: Option<&Store>,
    ) -> (Result<(), StoreError>, Option<String>) {
        let perform = std::mem::replace(&mut plan.perform, Box::new(|_| Ok(())));
        let mut hands = Hands {
            store: elsewhere.unwrap_or(&self.store),
            domain: &self.domain,
            images: &mut self.images,
            before: &self.model,
            violation: None,
        };
        let result = perform(&mut hands);
        (result, hands.violation)
    }

    /// Does what was planned, and nothing disturbs it.
    pub(super) fn perform_undisturbed(&mut self, mut plan: Plan) -> Result<(), String> {
        let (result, violation) = self.perform(&mut plan, None);
        let allowed = judge(&plan, &result)?;
        violation.map_or(Ok(()), Err)?;
        self.settle(&plan, allowed)
    }

    /// Takes what the store holds for the model, if that is allowed, and reads what is held open.
    pub(super) fn settle(&mut self, plan: &Plan, allowed: Allowed) -> Result<(), String> {
        let models = (&self.model, &plan.after);
        let settled = found::settle(&self.store, &mut self.ids, models, allowed, plan.is_atomic);
        self.model = settled?;
        // An archive may have failed, or have been that of an operation that deletes its own.
        let kept = cold::kept(&self.domain).map_err(|error| tell(&error))?;
        self.model.archived.retain(|key, _| kept.contains_key(key));
        self.model.held = self.images.iter().map(|(key, _)| *key).collect();
        for (key, image) in &self.images {
            let expected = self.model.snapshots.get(key).map(|kept| &kept.image);
            let expected = expected.ok_or_else(|| format!("{key} is held, and not known"))?;
            match found::is_image(image, expected) {
                Ok(true) => {}
                Ok(false) => return Err(format!("the image of {key} that is held has changed")),
                Err(error) => {
                    return Err(format!("the image of {key} that is held: {}", tell(&error)));
                }
            }
        }
        Ok(())
    }
}

/// What the store may hold after an operation that nothing disturbed.
pub(super) fn judge(plan: &Plan, result: &Result<(), StoreError>) -> Result<Allowed, String> {
    match (result, plan.end) {
        (Ok(()), End::Refused) => Err("it was not refused".to_owned()),
        (Ok(()), _) if plan.is_open => Ok(Allowed::Either),
        (Ok(()), _) => Ok(Allowed::After),
        (Err(error), End::Refused | End::MaybeRefused)
            if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Busy) =>
        {
            Ok(Allowed::Before)
        }
        (Err(error), _) => Err(format!("it fails: {}", tell(error))),
    }
}

/// How stores are opened here: nobody else holds a lock.
pub(super) fn opening() -> OpenOptions {
    OpenOptions::default().lock_wait(Duration::ZERO)
}

/// A store that is there.
pub(super) fn open(tree: &MemBackend) -> Result<Store, StoreError> {
    Store::open(Arc::new(tree.clone()), &opening())
}

/// A new vault with one domain.
fn domain() -> Result<Domain, VaultError> {
    let vault = Vault::open_or_create(Arc::new(MemoryObjects::new()))?;
    vault.create_domain(&ScopeName::default_scope(), &Sealing::Open)
}
