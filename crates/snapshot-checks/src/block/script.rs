//! What the command is made to do, and which snapshots there are before and after each step.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::mount::MountError;

const PAGE_BYTES: usize = 4096;

/// Pages of each image: two mebibytes, so that a cut is quick to check.
const PAGES: usize = 512;

/// Names of snapshots, all of the VM [`VM`], and of archives of them.
pub(crate) type Set = BTreeSet<&'static str>;

/// The VM that all snapshots are of.
pub(crate) const VM: &str = "vm";

pub(crate) const FULL: &str = "s0";
pub(crate) const BY_BITMAP: &str = "s1";
pub(crate) const BY_COMPARISON: &str = "s2";

/// A merge of the third one onto a branch that starts at the second.
pub(crate) const MERGED: &str = "s3";

/// Names of archives in a [`Set`], each of the snapshot that it is of.
pub(crate) const ARCHIVES: [(&str, &str); 1] = [(BY_COMPARISON, "s2 in the vault")];

/// One run of the command.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What it does, for people.
    pub(crate) name: &'static str,
    /// The arguments after `--store`.
    pub(crate) arguments: Vec<OsString>,
    /// The snapshots that there are before it.
    pub(crate) old: Set,
    /// The snapshots that there are after it.
    pub(crate) new: Set,
}

/// Steps, each from where the one before it ends, the first from `old`.
pub(crate) fn chained<const N: usize>(
    mut old: Set,
    moves: [(&'static str, Vec<OsString>, &[&'static str]); N],
) -> Vec<Step> {
    let steps = moves.into_iter().map(|(name, arguments, after)| {
        let new: Set = after.iter().copied().collect();
        Step {
            name,
            arguments,
            old: std::mem::replace(&mut old, new.clone()),
            new,
        }
    });
    steps.collect()
}

/// The known images, and files of them for the command to read.
#[derive(Debug)]
pub(crate) struct Inputs {
    dir: PathBuf,
    images: [(&'static str, Vec<u8>); 4],
    state: Vec<u8>,
    /// Arguments of every import.
    ways: Vec<OsString>,
}

impl Inputs {
    /// Makes the images and writes them below `dir`, which exists; each is imported with `ways`.
    pub(crate) fn write(dir: &Path, ways: Vec<OsString>) -> Result<Self, MountError> {
        let full = noise(1, |page| !page.is_multiple_of(4));
        let mut by_bitmap = full.clone();
        let mut bits = vec![0_u8; PAGES / 8];
        // Some pages get other bytes, some become zero, some are marked and stay as they are.
        for page in (0..PAGES).filter(|page| page.is_multiple_of(7)) {
            change(&mut by_bitmap, page, page % 3);
            bits[page / 8] |= 1 << (page % 8);
        }
        let mut by_comparison = by_bitmap.clone();
        for page in (0..PAGES).filter(|page| page.is_multiple_of(11)) {
            change(&mut by_comparison, page, page % 2);
        }
        let inputs = Self {
            dir: dir.to_owned(),
            images: [
                (FULL, full),
                (BY_BITMAP, by_bitmap),
                (MERGED, by_comparison.clone()),
                (BY_COMPARISON, by_comparison),
            ],
            state: noise(2, |_| true)[..10_000].to_vec(),
            ways,
        };
        for (name, bytes) in &inputs.images {
            inputs.write_file(name, bytes)?;
        }
        inputs.write_file("dirty", &bits)?;
        inputs.write_file("state", &inputs.state)?;
        Ok(inputs)
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), MountError> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(MountError::at("write", &path))
    }

    /// The memory of the snapshot `name`.
    pub(crate) fn image(&self, name: &str) -> Option<&[u8]> {
        let (_, bytes) = self.images.iter().find(|(image, _)| *image == name)?;
        Some(bytes)
    }

    /// The name of a snapshot as the script knows it; `None` if it makes none of that name.
    pub(crate) fn known(&self, name: &str) -> Option<&'static str> {
        let mut names = self.images.iter().map(|(image, _)| *image);
        names.find(|image| *image == name)
    }

    /// The machine state of every snapshot.
    pub(crate) fn state(&self) -> &[u8] {
        &self.state
    }

    /// The steps, each from where the one before it ends.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let file = |name: &str| self.dir.join(name).into_os_string();
        let reference = |name: &str| OsString::from(format!("{VM}/{name}"));
        let import = |name: &str, more: Vec<OsString>| {
            let mut arguments: Vec<OsString> = vec!["import".into(), VM.into(), "--memory".into()];
            arguments.extend([file(name), "--name".into(), name.into()]);
            arguments.extend(["--state".into(), file("state")]);
            arguments.extend(self.ways.iter().cloned());
            arguments.extend(more);
            arguments
        };
        let parent = |name| vec!["--parent".into(), reference(name)];
        let mut with_bitmap: Vec<OsString> = parent(FULL);
        with_bitmap.extend(["--dirty".into(), file("dirty")]);
        let moves: [(&'static str, Vec<OsString>, &[&'static str]); 5] = [
            ("import of a full", import(FULL, vec![]), &[FULL]),
            (
                "import of a diff by bitmap",
                import(BY_BITMAP, with_bitmap),
                &[FULL, BY_BITMAP],
            ),
            (
                "import of a diff by comparison",
                import(BY_COMPARISON, parent(BY_BITMAP)),
                &[FULL, BY_BITMAP, BY_COMPARISON],
            ),
            (
                "delete of a parent",
                vec!["delete".into(), reference(BY_BITMAP)],
                &[FULL, BY_COMPARISON],
            ),
            (
                "undelete",
                vec!["undelete".into(), reference(BY_BITMAP)],
                &[FULL, BY_BITMAP, BY_COMPARISON],
            ),
        ];
        chained(Set::new(), moves)
    }
}

/// An image with noise in the pages that `has_data` picks.
fn noise(seed: u64, has_data: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut bytes = vec![0; PAGES * PAGE_BYTES];
    for (page, out) in bytes.chunks_exact_mut(PAGE_BYTES).enumerate() {
        if has_data(page) {
            fill(out, seed * 1_000_003 + page as u64);
        }
    }
    bytes
}

/// Changes a page: to zero, not at all, or to other noise.
fn change(image: &mut [u8], page: usize, how: usize) {
    let Some(out) = image.chunks_exact_mut(PAGE_BYTES).nth(page) else {
        return;
    };
    match how {
        0 => out.fill(0),
        1 => fill(out, 77_000_077 + page as u64),
        _ => {}
    }
}

/// A xorshift generator: the images must be the same in every run, and differ in every page.
fn fill(out: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in out.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bytes = state.to_le_bytes();
        chunk
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_differ_and_the_bitmap_covers_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = Inputs::write(dir.path(), vec![]).unwrap();
        let image = |name| inputs.image(name).unwrap().chunks(PAGE_BYTES);
        let bits = fs::read(dir.path().join("dirty")).unwrap();
        let mut changed = 0;
        for (page, (old, new)) in image(FULL).zip(image(BY_BITMAP)).enumerate() {
            let is_marked = bits[page / 8] >> (page % 8) & 1 == 1;
            assert!(is_marked || old == new, "page {page} changed unmarked");
            changed += usize::from(old != new);
        }
        assert!(changed > 30);
        let differs = |(a, b): &(&[u8], &[u8])| a != b;
        assert!(
            image(BY_BITMAP)
                .zip(image(BY_COMPARISON))
                .filter(differs)
                .count()
                > 30
        );
    }

    #[test]
    fn each_step_begins_where_the_last_one_ended() {
        let dir = tempfile::tempdir().unwrap();
        let steps = Inputs::write(dir.path(), vec![]).unwrap().steps();
        assert!(steps[0].old.is_empty());
        for pair in steps.windows(2) {
            assert_eq!(pair[0].new, pair[1].old);
            assert_ne!(pair[1].old, pair[1].new);
        }
    }
}
