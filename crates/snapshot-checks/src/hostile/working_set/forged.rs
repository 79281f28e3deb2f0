//! Working sets that lie with every digest right, the one of the placement among them.

use snapshot_format::Digest;
use snapshot_store::ErrorKind;

use super::forgery::Forgery;
use super::in_place::{boundaries, filled};
use super::rig::{Held, Rig, expect_told, open};
use crate::hostile::Tally;
use crate::hostile::store::Fallible;
use crate::seal;

/// What must become of a working set that was published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Must {
    /// It says what cannot be: it is refused.
    Refuse,
    /// It is sound: it is replayed.
    Replay,
    /// It may be refused. It may be replayed where its pages are true, or verifying tells of it.
    Tell,
}

/// Publishes everything that lies.
pub(super) fn run(rig: &Rig, tally: &mut Tally) -> Fallible<()> {
    for (number, held) in rig.changed().iter().enumerate() {
        let mut place = Place { rig, held, tally };
        place.orders()?;
        place.others()?;
        place.data()?;
        place.fields();
        if number == 0 {
            place.runs()?;
            place.digests()?;
            place.cuts();
        }
        if number == 0 && rig.every == 1 {
            place.numbers();
        }
    }
    Ok(())
}

struct Place<'p> {
    rig: &'p Rig,
    held: &'p Held,
    tally: &'p mut Tally,
}

impl Place<'_> {
    /// Sound ones: runs in any order, cut into pages, or none at all.
    fn orders(&mut self) -> Fallible<()> {
        let truth = Forgery::of(self.held);
        self.try_one("the same", &truth.seal()?, Must::Replay);
        let backwards = truth.clone().reordered(|parts| parts.reverse());
        self.try_one("runs backwards", &backwards.seal()?, Must::Replay);
        let rotated = truth.clone().reordered(|parts| parts.rotate_left(3));
        self.try_one("runs in another order", &rotated.seal()?, Must::Replay);
        let fewer = truth.reordered(|parts| parts.retain(|(run, _)| run.is_zero));
        self.try_one("zero runs alone", &fewer.seal()?, Must::Replay);
        Ok(())
    }

    /// Runs that overlap, are empty, or lie outside.
    fn runs(&mut self) -> Fallible<()> {
        let truth = Forgery::of(self.held);
        let pages = truth.index.page_count;
        let data = truth.data.get(..4096).unwrap_or_default();
        for run in truth.index.runs.iter().step_by(self.rig.every) {
            for page in [run.pages.start.0, run.pages.end().0 - 1] {
                for bytes in [None, Some(data)] {
                    let forged = truth.clone().with_run(page, 1, bytes).digested();
                    let what = format!("page {page} comes twice");
                    self.try_one(&what, &forged.seal()?, Must::Refuse);
                }
            }
        }
        for (start, count) in [
            (0, 0),
            (pages, 0),
            (pages, 1),
            (pages - 1, 2),
            (0, pages + 1),
            (0, (1 << 31) - 1),
            (u32::MAX.into(), 1),
        ] {
            let what = format!("{count} zero pages from {start} on");
            let mut forged = truth.clone();
            forged.index.runs.clear();
            forged.data.clear();
            let zero = forged.clone().with_run(start, count, None).digested();
            self.try_one(&what, &zero.seal()?, Must::Refuse);
            if count < 3 {
                let what = format!("{count} pages from {start} on");
                let bytes = data.repeat(usize::try_from(count)?);
                let forged = forged.with_run(start, count, Some(&bytes)).digested();
                self.try_one(&what, &forged.seal()?, Must::Refuse);
            }
        }
        for count in [0, 1, pages - 1, pages + 1, 1 << 30, (1 << 30) + 1, u64::MAX] {
            let mut forged = truth.clone();
            forged.index.page_count = count;
            let what = format!("of an image of {count} pages");
            self.try_one(&what, &forged.seal()?, Must::Refuse);
        }
        Ok(())
    }

    /// Those of other snapshots and other manifests.
    fn others(&mut self) -> Fallible<()> {
        let truth = Forgery::of(self.held);
        let others = self.rig.held.iter();
        let names = others.filter(|other| other.path != self.held.path);
        let mut names: Vec<_> = names.map(|other| other.snapshot).collect();
        for byte in [0, 31] {
            let mut near = self.held.snapshot;
            near.id.0[byte / 2] ^= 1;
            near.digest.0[byte] ^= 0x80;
            names.push(near);
        }
        let manifest = truth.index.manifest;
        for name in names {
            for (id, digest) in [
                (name.id, manifest),
                (truth.id, name.digest),
                (name.id, name.digest),
            ] {
                let mut forged = truth.clone();
                (forged.id, forged.index.manifest) = (id, digest);
                let what = format!("of snapshot {id} with manifest {digest}");
                self.try_one(&what, &forged.seal()?, Must::Refuse);
            }
        }
        Ok(())
    }

    /// Data that is not what its units' digests say, and data of which they say it.
    fn data(&mut self) -> Fallible<()> {
        let truth = Forgery::of(self.held);
        let mut datas = vec![("of zero", vec![0; truth.data.len()])];
        for other in self
            .rig
            .held
            .iter()
            .filter(|one| one.path != self.held.path)
        {
            datas.push(("of another snapshot", Forgery::of(other).data));
        }
        for len in [4096, 16 * 4096, 256 * 4096] {
            let mut swapped = truth.data.clone();
            if len < swapped.len() {
                swapped.rotate_left(len);
                datas.push(("that is turned", swapped));
            }
        }
        for (what, data) in datas {
            let forged = Forgery {
                data,
                ..truth.clone()
            };
            self.try_one(&format!("data {what}"), &forged.seal()?, Must::Refuse);
            // What agrees with all its digests is false all the same.
            let what = format!("data {what} with its digests");
            self.try_one(&what, &forged.digested().seal()?, Must::Tell);
        }
        let zeros = Forgery {
            data: vec![0; truth.data.len()],
            ..truth.clone()
        };
        let Some((_, last)) = truth.data.split_at_checked(truth.data.len() - 4096) else {
            return Ok(());
        };
        for len in [1, 8, 4095, 4096, 16 * 4096] {
            let mut shorter = truth.clone();
            shorter.data.truncate(truth.data.len().saturating_sub(len));
            self.try_one(
                &format!("data less {len} bytes"),
                &shorter.seal()?,
                Must::Refuse,
            );
            let mut longer = truth.clone();
            longer.data.extend(last.iter().cycle().take(len));
            self.try_one(
                &format!("data and {len} bytes"),
                &longer.seal()?,
                Must::Refuse,
            );
            let what = format!("data and {len} bytes with their digests");
            self.try_one(&what, &longer.digested().seal()?, Must::Refuse);
        }
        let mut all_zero = zeros;
        all_zero
            .index
            .runs
            .iter_mut()
            .for_each(|run| run.is_zero = true);
        all_zero.data.clear();
        self.try_one("all is zero", &all_zero.digested().seal()?, Must::Tell);
        Ok(())
    }

    /// Digests of units that are missing, too many, or those of other units.
    fn digests(&mut self) -> Fallible<()> {
        let truth = Forgery::of(self.held);
        let last = truth.index.digests.len().saturating_sub(1);
        for unit in 0..=last {
            let mut forged = truth.clone();
            forged.index.digests.remove(unit);
            self.try_one(&format!("no digest {unit}"), &forged.seal()?, Must::Refuse);
            let mut forged = truth.clone();
            forged.index.digests.insert(unit, Digest([0; 32]));
            self.try_one(
                &format!("a digest at {unit}"),
                &forged.seal()?,
                Must::Refuse,
            );
            let mut forged = truth.clone();
            if last > 0 {
                forged.index.digests.swap(unit, (unit + 1) % (last + 1));
                self.try_one(
                    &format!("digest {unit} swapped"),
                    &forged.seal()?,
                    Must::Refuse,
                );
            }
        }
        Ok(())
    }

    /// Numbers of the header, of the entries and of the index that have one true value.
    fn fields(&mut self) {
        let truth = &self.held.bytes;
        let entries = seal::entries(truth);
        let mut fields: Vec<(&str, usize, &[u8])> = vec![
            ("major version", 10, &[0x40, 0]),
            ("lowest reader", 14, &[0x40, 0]),
            ("lowest reader", 14, &[3, 0]),
            ("file kind", 16, &[2, 0]),
            ("read features", 20, &[1]),
            ("read features", 20, &[0, 0, 0, 0x80]),
            ("reserved bytes", 112, &[1]),
            ("run count", INDEX + 40, &[0; 4]),
            ("run count", INDEX + 40, &[0xff; 4]),
            ("data pages", INDEX + 44, &[0; 4]),
            ("data pages", INDEX + 44, &[0xff; 4]),
            ("unit pages", INDEX + 48, &[1, 0]),
            ("unit pages", INDEX + 48, &[32, 0]),
            ("unit pages", INDEX + 48, &[0, 0]),
            ("origin", INDEX + 50, &[0, 0]),
            ("origin", INDEX + 50, &[5, 0]),
        ];
        for at in 52..64 {
            fields.push(("reserved bytes", INDEX + at, &[0x80]));
        }
        for entry in entries {
            fields.extend([
                ("section kind", entry, [0x7f, 0].as_slice()),
                ("section kind", entry, &[0x10, 0]),
                ("instance", entry + 4, &[1]),
                ("section version", entry + 8, &[2, 0]),
                ("section version", entry + 8, &[0xff, 0xff]),
                ("codec", entry + 10, &[1]),
                ("compression", entry + 11, &[1]),
                ("section flags", entry + 12, &[0xff; 4]),
                ("offset", entry + seal::ENTRY_OFFSET, &[0; 8]),
                ("offset", entry + seal::ENTRY_OFFSET, &[0x88]),
            ]);
        }
        let near = |at: usize, step: i32| {
            let number = truth.get(at..).and_then(<[u8]>::first_chunk);
            let number = number.map_or(0, |bytes| u32::from_le_bytes(*bytes));
            number.wrapping_add_signed(step).to_le_bytes()
        };
        let counts = [("run count", INDEX + 40), ("data pages", INDEX + 44)];
        let steps = counts.map(|(field, at)| [-1, 1].map(|step| (field, at, near(at, step))));
        let near = steps.iter().flatten();
        fields.extend(near.map(|(field, at, new)| (*field, *at, new.as_slice())));
        for (field, at, new) in fields {
            let mut bytes = truth.clone();
            seal::put(&mut bytes, at, new);
            if bytes != *truth {
                seal::seal_all(&mut bytes);
                let what = format!("{field} at {at} says {new:02x?}");
                self.try_one(&what, &bytes, Must::Refuse);
            }
        }
    }

    /// Cut where parts meet; once more with a header that says so.
    fn cuts(&mut self) {
        for end in boundaries(self.held, self.rig.every) {
            let Some(cut) = self.held.bytes.get(..end) else {
                continue;
            };
            if end < self.held.bytes.len() {
                self.try_one(&format!("cut at {end}"), cut, Must::Refuse);
                let mut told = cut.to_vec();
                seal::put(&mut told, seal::FILE_LEN, &(end as u64).to_le_bytes());
                seal::seal_all(&mut told);
                let what = format!("cut at {end}, as its header says");
                self.try_one(&what, &told, Must::Refuse);
            }
        }
    }

    /// Extreme numbers at every byte of the index that says something.
    fn numbers(&mut self) {
        for at in INDEX..filled(self.held) {
            for new in [[0].as_slice(), &[0x80], &[0xff; 4]] {
                let mut bytes = self.held.bytes.clone();
                seal::put(&mut bytes, at, new);
                seal::seal_all(&mut bytes);
                let what = format!("{new:02x?} at {at} with right digests");
                self.try_one(&what, &bytes, Must::Tell);
            }
        }
    }

    /// Publishes the bytes as the working set of the snapshot, and brings it back.
    fn try_one(&mut self, what: &str, bytes: &[u8], must: Must) {
        let (rig, held) = (self.rig, self.held);
        let file = format!("published {}", held.path.as_str());
        let verdict = self
            .tally
            .count(&file, what, || judge(rig, held, bytes, must));
        if let Some(Err(why)) = verdict {
            self.tally
                .accept_wrong(&file, format_args!("{what}: {why}"));
        }
    }
}

fn judge(rig: &Rig, held: &Held, bytes: &[u8], must: Must) -> Result<(), String> {
    let tree = rig.tree.snapshot();
    let store = open(&tree).map_err(|error| error.to_string())?;
    if let Err(error) = store.publish_working_set(held.known.id, bytes) {
        if must == Must::Replay {
            return Err(format!("is not published: {error}"));
        }
        expect_damage(error.kind())?;
        // The set from before stays.
        return rig.expect_whole(&store, held);
    }
    let came = rig.bring(&store, held, &|| Ok(()));
    came.refused.map_or(Ok(()), expect_damage)?;
    match (must, came.wrong) {
        (Must::Replay, None) if came.accepted && came.refused.is_none() => Ok(()),
        (Must::Replay, why) => Err(format!("is sound, but {:?}, {why:?}", came.refused)),
        (Must::Refuse, None) if !came.accepted && came.refused.is_some() => {
            expect_told(&store, held)
        }
        (Must::Refuse, None) => Err("is replayed".to_owned()),
        (Must::Refuse, Some(why)) => Err(why),
        (Must::Tell, None) => Ok(()),
        (Must::Tell, Some(why)) => {
            expect_told(&store, held).map_err(|error| format!("{why}, and {error}"))
        }
    }
}

fn expect_damage(kind: ErrorKind) -> Result<(), String> {
    match kind {
        ErrorKind::Corrupt | ErrorKind::TooNew => Ok(()),
        other => Err(format!("is refused as {other:?}")),
    }
}

/// Where the index starts in the file.
const INDEX: usize = 128;
