//! Memory as a guest's is: programs and libraries, noise, and zero pages, shuffled.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::error::BenchError;

/// Bytes that lie together.
const RUN: usize = 64 << 10;
const PAGE: usize = 4096;

/// Percent of the runs that are of programs, and that are noise. All others are zero.
const PROGRAMS: usize = 45;
const NOISE: usize = 15;

/// Percent of the pages that the second image has anew.
const DIRTY: usize = 5;

/// Bytes of noise at the start of a page that is new: the rest is a pattern.
const NEW_NOISE: usize = PAGE / 2;

/// Where programs and libraries lie.
const PLACES: [&str; 3] = ["/usr/bin", "/usr/sbin", "/usr/lib"];

const SEED: u64 = 0x5708e;

/// Two images of one guest.
pub(super) struct Corpus {
    pub(super) first: Vec<u8>,
    pub(super) second: Vec<u8>,
    /// Pages of the second that are new, in order.
    pub(super) dirty: Vec<u64>,
    /// Bytes of different programs in it: with fewer than it needs, some are there twice.
    pub(super) program_bytes: u64,
}

impl Corpus {
    /// Images of `len_bytes` bytes, a multiple of 64 KiB. The programs are those of this host, in an
    /// order that is always the same.
    pub(super) fn new(len_bytes: u64) -> Result<Self, BenchError> {
        let runs = usize::try_from(len_bytes).unwrap_or(0) / RUN;
        let mut rng = Rng::with_seed(SEED);
        let of_programs = runs * PROGRAMS / 100;
        let mut programs = programs(of_programs * RUN, &mut rng)?;
        let program_bytes = programs.len() as u64;
        if programs.is_empty() {
            return Err(BenchError::NoPrograms);
        }
        let mut at = 0;
        while programs.len() < of_programs * RUN {
            let again = programs.get(at..at + RUN).unwrap_or_default().to_vec();
            programs.extend(again);
            at += RUN;
        }
        let mut first = programs;
        first.resize(runs * RUN, 0);
        rng.fill(&mut first[of_programs * RUN..(of_programs + runs * NOISE / 100) * RUN]);
        let first = shuffled(&first, &mut rng);
        let mut pages: Vec<usize> = (0..first.len() / PAGE).collect();
        rng.shuffle(&mut pages);
        pages.truncate(pages.len() * DIRTY / 100);
        pages.sort_unstable();
        let mut second = first.clone();
        for page in &pages {
            renew(&mut second[page * PAGE..(page + 1) * PAGE], &mut rng);
        }
        Ok(Self {
            first,
            second,
            dirty: pages.into_iter().map(|page| page as u64).collect(),
            program_bytes,
        })
    }
}

/// Gives a page new bytes, half of which cannot be compressed.
fn renew(page: &mut [u8], rng: &mut Rng) {
    let (noise, pattern) = page.split_at_mut(NEW_NOISE);
    rng.fill(noise);
    let word = rng.u64(..).to_le_bytes();
    for bytes in pattern.chunks_exact_mut(word.len()) {
        bytes.copy_from_slice(&word);
    }
}

/// The same runs in another order.
fn shuffled(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut runs: Vec<&[u8]> = bytes.chunks(RUN).collect();
    rng.shuffle(&mut runs);
    runs.concat()
}

/// At most so many bytes of programs and libraries of this host, each of which is there once, a
/// multiple of a run.
fn programs(most: usize, rng: &mut Rng) -> Result<Vec<u8>, BenchError> {
    let mut paths = Vec::new();
    for place in PLACES {
        find(Path::new(place), &mut paths);
    }
    paths.sort();
    rng.shuffle(&mut paths);
    let mut bytes = Vec::with_capacity(most);
    for path in paths {
        if bytes.len() >= most {
            break;
        }
        let file = fs::File::open(&path).map_err(BenchError::at("open", &path))?;
        let mut magic = [0; 4];
        let mut file = std::io::BufReader::new(file);
        if file.read_exact(&mut magic).is_err() || magic != *b"\x7fELF" {
            continue;
        }
        bytes.extend(magic);
        file.read_to_end(&mut bytes)
            .map_err(BenchError::at("read", &path))?;
        // A file begins with a page, as it does in memory.
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    }
    bytes.truncate(most);
    bytes.truncate(bytes.len() / RUN * RUN);
    Ok(bytes)
}

/// Regular files below a directory, as far as this user sees them.
fn find(directory: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => find(&entry.path(), paths),
            Ok(kind) if kind.is_file() => paths.push(entry.path()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_comes_again_and_is_of_what_it_says() {
        let corpus = Corpus::new(16 << 20).unwrap();
        let again = Corpus::new(16 << 20).unwrap();
        assert!(corpus.first == again.first && corpus.second == again.second);
        let runs: Vec<_> = corpus.first.chunks(RUN).collect();
        let zero = runs.iter().filter(|run| run.iter().all(|&byte| byte == 0));
        let zero = zero.count();
        assert!((100..=106).contains(&zero), "{zero} of {}", runs.len());
        let pages = corpus.first.chunks(PAGE).zip(corpus.second.chunks(PAGE));
        let differing = (0_u64..).zip(pages).filter(|(_, (a, b))| a != b);
        let differing: Vec<u64> = differing.map(|(page, _)| page).collect();
        assert_eq!(differing, corpus.dirty);
        assert_eq!(differing.len(), 4096 * DIRTY / 100);
    }
}
