//! Any chain, written in any way, gives back every instant.

use std::sync::Arc;

use proptest::prelude::*;
use snapshot_format::{PAGE_BYTES, PageIndex};

use crate::backend::MemBackend;
use crate::capture::rig::{Chain, PAGE, bytes_of, layout, mapped};
use crate::capture::writer::*;
use crate::capture::{Dedup, LayoutChoice};
use crate::dirty::DirtyBitmap;

#[derive(Clone, Debug)]
struct Round {
    /// Pages written, with the value that all their bytes get: 0 makes a zero page.
    writes: Vec<(u64, u8)>,
    /// Pages that count as dirty without a write.
    touched: Vec<u64>,
    paused: bool,
    full: bool,
    options: CaptureOptions,
}

pub(super) fn options() -> impl Strategy<Value = CaptureOptions> {
    let layouts = [
        LayoutChoice::Auto,
        LayoutChoice::Sparse,
        LayoutChoice::Packed,
    ];
    let engines = [
        EngineChoice::Auto,
        EngineChoice::Vectored,
        EngineChoice::Buffered,
        EngineChoice::Direct,
    ];
    let one_of = (
        prop::sample::select(layouts.to_vec()),
        prop::sample::select(engines.to_vec()),
        1..4usize,
        prop::sample::select(vec![Dedup::Off, Dedup::Digest, Dedup::Compare]),
    );
    one_of.prop_map(|(layout, engine, threads, dedup)| {
        let layout = match engine {
            EngineChoice::Vectored => LayoutChoice::Sparse,
            _ => layout,
        };
        let options = CaptureOptions::default()
            .layout(layout)
            .engine(engine)
            .dedup(dedup);
        options.threads(threads.try_into().unwrap())
    })
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let round = (
        prop::collection::vec((0..600u64, 0..4u8), 0..60),
        prop::collection::vec(0..600u64, 0..10),
        any::<bool>(),
        prop::bool::weighted(0.15),
        options(),
    );
    let round = round.prop_map(|(writes, touched, paused, full, options)| Round {
        writes,
        touched,
        paused,
        full,
        options,
    });
    prop::collection::vec(round, 1..8)
}

fn layouts() -> impl Strategy<Value = MemoryLayout> {
    // Around the borders of units and leaves, below and above 4 GiB, with gaps within a unit.
    prop::sample::select(vec![
        layout(&[(0, 600)]),
        layout(&[(3, 7), (12, 2), (40, 591)]),
        layout(&[(16_384 - 300, 600)]),
        layout(&[
            (0, 1),
            (2, 1),
            (4, 1),
            (16_383, 1),
            (16_384, 500),
            (1 << 20, 96),
        ]),
        layout(&[((3 << 18) - 16, 16), (1 << 20, 584)]),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // spec: MEM-01
    // spec: MEM-02
    #[test]
    fn a_chain_of_any_depth_gives_back_every_instant(layout in layouts(), rounds in rounds()) {
        let memory = mapped(&layout);
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        let mut instants = Vec::new();
        for (n, round) in rounds.iter().enumerate() {
            let dirty = DirtyBitmap::new(layout.page_count());
            for &(page, value) in &round.writes {
                let page = page % layout.page_count();
                memory.write(page * PAGE_BYTES, &[value; PAGE]).unwrap();
                dirty.set(PageIndex(page));
            }
            round.touched.iter().for_each(|&page| dirty.set(PageIndex(page)));
            let stability = [Stability::Running, Stability::Paused][usize::from(round.paused)];
            let full = n == 0 || round.full;
            chain.options = round.options.clone();
            let written = chain.take(&memory, (!full).then_some(&dirty), stability).unwrap();
            let stats = written.stats;
            let image = bytes_of(&memory);
            let zero = |page: u64| crate::zero::is_zero(&image[page as usize * PAGE..][..PAGE]);
            let taken: Vec<u64> = (0..layout.page_count())
                .filter(|&page| full || dirty.is_set(PageIndex(page)))
                .collect();
            let zeros = taken.iter().filter(|&&page| zero(page)).count() as u64;
            let expected = (taken.len() as u64 - zeros, zeros);
            if full || round.options.dedup == Dedup::Off {
                prop_assert_eq!((stats.present, stats.zero), expected);
            } else {
                prop_assert!(stats.present <= expected.0 && stats.zero <= expected.1);
            }
            prop_assert_eq!(stats.present + stats.zero + stats.inherited, layout.page_count());
            prop_assert_eq!(stats.allocated_bytes, stats.present * PAGE_BYTES);
            prop_assert!(!full || written.dependencies.len() == 1);
            instants.push(image);
        }
        for (n, instant) in instants.iter().enumerate() {
            prop_assert!(bytes_of(&chain.image(n)) == *instant, "snapshot {n} differs");
        }
        chain.assert_sound();
    }
}
