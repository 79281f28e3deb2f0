//! A vault in which any byte may be another one, or be in another place.

use std::error::Error;
use std::sync::Arc;

use snapshot_format::{Digest, PAGE_BYTES, PageRange};
use snapshot_memory::PageSource;
use snapshot_vault::{Domain, MemoryObjects, ObjectId, ObjectName, ScopeName, Vault, VaultError};

use super::Tally;
use crate::cold_vault::{self, ColdVault};

/// Gives every object of a vault other bytes. Whatever is read must be right, or be refused; and a
/// verification finds everything that is wrong.
pub(super) fn run(tally: &mut Tally) -> Result<(), Box<dyn Error>> {
    let sound = cold_vault::make()?;
    let names = sound.objects.names();
    for name in &names {
        let bytes = sound.objects.bytes(name).unwrap_or_default();
        let stride = (bytes.len() / 150).max(1);
        let dense = (0..bytes.len().min(300)).chain(bytes.len().saturating_sub(200)..bytes.len());
        for at in dense.chain((0..bytes.len()).step_by(stride)) {
            let mut flipped = bytes.clone();
            if let Some(byte) = flipped.get_mut(at) {
                *byte ^= 1 << (at % 8);
            }
            try_bytes(tally, &sound, name, &format!("byte {at} flipped"), flipped);
        }
        for len in [
            0,
            1,
            63,
            64,
            95,
            96,
            bytes.len() / 2,
            bytes.len().saturating_sub(1),
        ] {
            let cut = bytes.get(..len.min(bytes.len().saturating_sub(1)));
            let cut = cut.unwrap_or_default().to_vec();
            try_bytes(tally, &sound, name, &format!("cut to {len}"), cut);
        }
        let longer = [&bytes[..], &[0]].concat();
        try_bytes(tally, &sound, name, "a byte longer", longer);
        // Objects under the names of others.
        for other in &names {
            let others = sound.objects.bytes(other).unwrap_or_default();
            if others != bytes {
                try_bytes(
                    tally,
                    &sound,
                    name,
                    &format!("the bytes of {other}"),
                    others,
                );
            }
        }
    }
    Ok(())
}

fn try_bytes(tally: &mut Tally, sound: &ColdVault, name: &ObjectName, what: &str, bytes: Vec<u8>) {
    let objects = sound.objects.copy();
    objects.tamper(name, bytes);
    let file = name.to_string();
    let Some(found) = tally.count(&file, what, || look(&objects, sound)) else {
        return;
    };
    match found {
        Found::Wrong => tally.accept_wrong(&file, what),
        Found::Unnoticed => tally.accept_wrong(&file, format_args!("{what} (not found by verify)")),
        Found::Refused => {}
    }
}

/// What became of a vault with something wrong in it.
enum Found {
    /// Memory that is not the one that was archived.
    Wrong,
    /// A verification found nothing.
    Unnoticed,
    /// It was noticed, and nothing false was given out.
    Refused,
}

fn look(objects: &MemoryObjects, sound: &ColdVault) -> Found {
    let Ok(domain) = open(objects) else {
        return Found::Refused;
    };
    for (id, memory) in &sound.archives {
        if read(&domain, *id).is_ok_and(|found| Digest::of(&found) != *memory) {
            return Found::Wrong;
        }
    }
    match domain.verify(0) {
        Ok(report) if report.is_ok() => Found::Unnoticed,
        _ => Found::Refused,
    }
}

fn open(objects: &MemoryObjects) -> Result<Domain, VaultError> {
    let vault = Vault::open(Arc::new(objects.clone()))?;
    vault.scope(&ScopeName::default_scope(), None)
}

fn read(domain: &Domain, id: ObjectId) -> Result<Vec<u8>, VaultError> {
    let cold = domain.open_archive(id)?;
    let image = cold.memory().ok_or_else(|| VaultError::NotFound {
        what: "memory".to_owned(),
    })?;
    let pages = image.layout().page_count();
    let mut bytes = vec![0; usize::try_from(pages * PAGE_BYTES).unwrap_or_default()];
    let read = image.read_pages(PageRange::new(0, pages), &mut bytes);
    read.map_err(|error| VaultError::Source(Box::new(error)))?;
    Ok(bytes)
}
