//! Laying one index leaf over the flattened map of the parent.

use crate::page_map::owner_leaf::Owners;
use crate::page_map::{IndexLeaf, LEAF_PAGES, OwnerLeaf, PageBits};

/// The flattened map of a leaf, after data file number `file` is laid over the parent's.
///
/// Pages that the index leaf inherits keep the owner that `parent` gives; without a parent they
/// are zero. Runs outside the pause, and only for leaves that the data file has.
#[must_use]
pub fn flatten(parent: Option<&OwnerLeaf>, index: &IndexLeaf, file: u16) -> OwnerLeaf {
    let number = index.number();
    let owners = parent.map_or(&Owners::Uniform(0), OwnerLeaf::owners);
    let narrow = match (owners, u8::try_from(file)) {
        (Owners::Bytes(bytes), Ok(file)) => Some((bytes.clone(), file)),
        (Owners::Uniform(owner), Ok(file)) => {
            let owner = u8::try_from(*owner).ok();
            owner.map(|owner| (vec![owner; LEAF_PAGES].into(), file))
        }
        _ => None,
    };
    if let Some((mut bytes, file)) = narrow {
        lay(&mut bytes, index, file);
        return OwnerLeaf::of_bytes(number, bytes);
    }
    let mut words: Box<[u16]> = match owners {
        Owners::Uniform(owner) => vec![*owner; LEAF_PAGES].into(),
        Owners::Words(words) => words.clone(),
        Owners::Bytes(bytes) => bytes.iter().copied().map(u16::from).collect(),
    };
    lay(&mut words, index, file);
    OwnerLeaf::of_words(number, words)
}

fn lay<T: Copy + Default>(owners: &mut [T], index: &IndexLeaf, file: T) {
    fill(owners, index.present(), file);
    fill(owners, index.zero(), T::default());
}

fn fill<T: Copy>(owners: &mut [T], bits: &PageBits, owner: T) {
    for (start, count) in bits.runs() {
        if let Some(run) = owners.get_mut(start..start + count) {
            run.fill(owner);
        }
    }
}
