use super::*;
use crate::limits::CHUNK_BYTES;
use crate::pack::Representation;
use crate::testing::{Guest, archive, domain, restored};
use crate::{CollectOptions, MemoryObjects, ObjectId, Objects};

fn packs(domain: &Domain) -> Vec<ObjectId> {
    let listed = domain.list(ObjectKind::Pack).unwrap();
    listed.into_iter().map(|(id, _)| id).collect()
}

/// Puts other bytes in the place of a pack.
fn tamper(objects: &MemoryObjects, domain: &Domain, pack: ObjectId, change: impl Fn(&mut Vec<u8>)) {
    let name = domain.name(ObjectKind::Pack, pack);
    let mut bytes = objects.bytes(&name).unwrap();
    change(&mut bytes);
    objects.tamper(&name, bytes);
}

// spec: VLT-07
#[test]
fn no_byte_of_a_chunk_is_handed_out_unless_its_id_is_right() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(16, 1);
    // No page of zeros: it would shrink.
    for page in [4, 9, 14] {
        guest.write(page, 70 + page as u64);
    }
    let archived = archive(&domain, 1, &guest, None).unwrap();
    let recipe = domain.recipe(archived.id).unwrap();
    let chunks = Chunks::load(&domain, Purpose::Read).unwrap();
    let leaf = crate::image::read_leaf(&chunks, recipe.leaves[0].1).unwrap();
    let id = leaf.chunks[0].unwrap();
    let located = chunks.index().located(id, Which::Any).next().unwrap();
    // Another payload with a right checksum is another chunk: noise is stored as it is.
    assert_eq!(located.entry.representation, Representation::Full);
    let start = usize::try_from(located.entry.payload_offset()).unwrap();
    let end = start + located.entry.stored_len as usize;
    assert_eq!(end - start, CHUNK_BYTES);
    tamper(&objects, &domain, located.pack, |bytes| bytes[start] ^= 1);
    let checksum_is_wrong = chunks.fetch(&[id], &mut |_, _| panic!("bytes were handed out"));
    assert!(matches!(checksum_is_wrong, Err(VaultError::Lost { .. })));
    let mut entry = located.entry;
    let name = domain.name(ObjectKind::Pack, located.pack);
    let bytes = objects.bytes(&name).unwrap();
    entry.payload_checksum = crc32c::crc32c(&bytes[start..end]);
    let located = Located { entry, ..located };
    let stored = |_: &Located| Some(&bytes[start..end]);
    let made = chunks.make(
        Way::Full(located),
        &stored,
        &mut ChunkDecoder::default(),
        &mut zero_chunk(),
    );
    assert!(
        matches!(made, Err(Some(VaultError::Damaged { .. }))),
        "{made:?}"
    );
}

// spec: VLT-08
#[test]
fn a_chunk_of_which_one_record_is_damaged_is_read_from_another() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(16, 1);
    let first = archive(&domain, 1, &guest, None).unwrap();
    let hidden = packs(&domain)[0];
    let name = domain.name(ObjectKind::Pack, hidden);
    let bytes = objects.bytes(&name).unwrap();
    objects.delete(&name).unwrap();
    archive(&domain, 1, &guest, None).unwrap();
    objects.put(&name, &bytes).unwrap();
    for pack in packs(&domain) {
        let whole = objects.copy();
        // The payload of the chunk of memory: leaf, manifest and table come after it.
        tamper(&objects, &domain, pack, |bytes| {
            let end = bytes.len() - 2000;
            bytes[152..end].fill(0xA5);
        });
        assert_eq!(restored(&domain, first.id).unwrap(), guest.image());
        let name = domain.name(ObjectKind::Pack, pack);
        objects.tamper(&name, whole.bytes(&name).unwrap());
    }
}

// spec: VGC-06
#[test]
fn a_reader_finds_chunks_that_were_copied_while_it_reads() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(64, 1);
    let first = archive(&domain, 1, &guest, None).unwrap();
    let image = guest.image();
    guest.write(3, 9);
    let second = archive(&domain, 2, &guest, Some((first.id, &[3]))).unwrap();
    let cold = domain.open_archive(second.id).unwrap().memory().unwrap();
    let mut page = vec![0; 4096];
    let range = snapshot_format::PageRange::new(0, 1);
    snapshot_memory::PageSource::read_pages(&cold, range, &mut page).unwrap();
    let before = packs(&domain);
    let options = CollectOptions {
        copy_below_percent: 100,
        ..CollectOptions::default()
    };
    domain.collect(&options).unwrap();
    assert!(packs(&domain).iter().all(|pack| !before.contains(pack)));
    let mut bytes = vec![0; 64 * 4096];
    let range = snapshot_format::PageRange::new(0, 64);
    snapshot_memory::PageSource::read_pages(&cold, range, &mut bytes).unwrap();
    assert_eq!(bytes, guest.image());
    assert_eq!(restored(&domain, first.id).unwrap(), image);
}

#[test]
fn a_pack_without_its_table_is_read_from_and_not_counted_on() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(48, 1);
    let first = archive(&domain, 1, &guest, None).unwrap();
    let pack = packs(&domain)[0];
    tamper(&objects, &domain, pack, |bytes| {
        let end = bytes.len();
        bytes[end - 40..].fill(0);
    });
    assert_eq!(restored(&domain, first.id).unwrap(), guest.image());
    // A writer stores everything once more, and both archives are whole.
    let second = archive(&domain, 2, &guest, None).unwrap();
    assert!(second.new_chunks >= 4, "{second:?}");
    objects
        .delete(&domain.name(ObjectKind::Pack, pack))
        .unwrap();
    assert_eq!(restored(&domain, second.id).unwrap(), guest.image());
    assert_eq!(restored(&domain, first.id).unwrap(), guest.image());
}
