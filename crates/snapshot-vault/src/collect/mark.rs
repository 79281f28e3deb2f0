//! Which chunks recipes need.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::domain::Domain;
use crate::error::VaultError;
use crate::fetch::Chunks;
use crate::id::{ChunkId, ObjectId};
use crate::image::read_leaf;
use crate::objects::ObjectKind;
use crate::recipe::Recipe;

/// The chunks that recipes name: leaves, pieces of files, and what is in leaves.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) chunks: HashSet<ChunkId>,
    /// What recipes need that had no commit when they were read.
    unfinished: BTreeMap<ObjectId, HashSet<ChunkId>>,
}

/// The chunks of leaves that were read: archives share most of theirs.
type Leaves = HashMap<ChunkId, Vec<ChunkId>>;

impl Needed {
    /// Lists recipes, committed or not, deleted or not, and reads all of them with their leaves.
    ///
    /// One that goes while this is read is needed no more. One that cannot be read ends it, as nobody
    /// knows what it needs; but where a chunk is lost of one without a commit, that is withdrawn.
    pub(super) fn mark(domain: &Domain, chunks: &Chunks) -> Result<Self, VaultError> {
        let commits = domain.ids(ObjectKind::Commit)?;
        let mut needed = Self::default();
        let mut leaves = Leaves::new();
        for (id, _) in domain.list(ObjectKind::Recipe)? {
            let recipe = match domain.recipe(id) {
                Err(VaultError::NotFound { .. }) => continue,
                recipe => recipe?,
            };
            let own = match chunks_of(&recipe, chunks, &mut leaves) {
                Err(VaultError::Lost { .. }) if domain.withdraw(id)? => continue,
                own => own?,
            };
            if !commits.contains(&id) {
                needed.unfinished.insert(id, own.iter().copied().collect());
            }
            needed.chunks.extend(own);
        }
        Ok(needed)
    }

    /// Withdraws recipes without a commit that need a chunk which is lost; whether there were any.
    pub(super) fn withdraw_those_with(
        &self,
        domain: &Domain,
        lost: ChunkId,
    ) -> Result<bool, VaultError> {
        let mut is_any = false;
        for (id, _) in self
            .unfinished
            .iter()
            .filter(|(_, own)| own.contains(&lost))
        {
            is_any |= domain.withdraw(*id)?;
        }
        Ok(is_any)
    }
}

fn chunks_of(
    recipe: &Recipe,
    chunks: &Chunks,
    leaves: &mut Leaves,
) -> Result<Vec<ChunkId>, VaultError> {
    let mut own: Vec<ChunkId> = recipe.chunks().collect();
    for (_, id) in &recipe.leaves {
        if !leaves.contains_key(id) {
            let leaf = read_leaf(chunks, *id)?;
            leaves.insert(*id, leaf.chunks.into_iter().flatten().collect());
        }
        own.extend(leaves.get(id).into_iter().flatten());
    }
    Ok(own)
}
