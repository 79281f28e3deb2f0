//! Suite `cost`: the figures that the writer chooses layouts by, measured anew.

use std::collections::BTreeMap;

use snapshot_format::PAGE_BYTES;
use snapshot_memory::{CostModel, LayoutChoice};

use crate::engine::{Engine, Way};
use crate::error::BenchError;
use crate::guest::{Content, Guest, HostPages, touch_free_memory};
use crate::options::Options;
use crate::page_set::{Dirt, PageSet};
use crate::place::Place;
use crate::row::{Case, Row};
use crate::sample::{Contestant, Samples, alternate};
use crate::statistics::quantile;

/// One page of so many is dirty, so that no gap is narrow enough to be written along.
const STRIDE: u64 = 16;

/// Measures in `place`.
pub(crate) fn run(options: &Options, place: &Place) -> Result<Vec<Row>, BenchError> {
    eprintln!("measuring cost{}", place.case(""));
    let len_bytes = options.mem_bytes();
    let guest = Guest::new(len_bytes, Content::Random, HostPages::Small, 0xc057)?;
    let set = PageSet::new(len_bytes, 100, Dirt::Every(STRIDE), 0);
    let dirty = set.bitmap(len_bytes);
    let engine = Engine::with_parent(place.scratch(), Some(&guest))?;
    let laid = |layout| {
        let way = Way::default();
        Way {
            options: way.options.layout(layout),
            ..way
        }
    };
    let (sparse, packed) = (laid(LayoutChoice::Sparse), laid(LayoutChoice::Packed));
    let samples = alternate(
        vec![
            Contestant::new("sparse", || engine.take(&guest, Some(&dirty), &sparse)),
            Contestant::new("packed", || engine.take(&guest, Some(&dirty), &packed)),
            Contestant::new("full", || engine.take(&guest, None, &sparse)),
        ],
        options.rounds(),
        || touch_free_memory(len_bytes),
    )?;
    place.scratch().remove_kept()?;
    let [sparse, packed, full] = &samples[..] else {
        return Ok(Vec::new());
    };
    let model = CostModel::of(place.file_system());
    let extents = set.len_bytes() / PAGE_BYTES;
    let extent_ns = per_extent_ns(sparse, packed, extents);
    #[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
    let bytes_per_us: Vec<f64> = full
        .ms
        .iter()
        .map(|ms| len_bytes as f64 / (ms * 1e3))
        .collect();
    let rows = [
        ("extent-ns", sparse, extent_ns, model.extent_ns),
        ("bytes-per-us", full, bytes_per_us, model.bytes_per_us),
    ];
    let rows = rows
        .into_iter()
        .flat_map(|(name, times, measured, built_in)| {
            let at = |at| whole(quantile(&measured, at));
            let case = Case {
                suite: "cost",
                name: place.case(name),
                policy: "durable, digests, published".to_owned(),
                file_system: Some(place.file_system().name.clone()),
                counts: BTreeMap::from([
                    ("mem_bytes".to_owned(), len_bytes),
                    ("measured".to_owned(), at(0.5)),
                    ("measured_p25".to_owned(), at(0.25)),
                    ("measured_p75".to_owned(), at(0.75)),
                    ("built_in".to_owned(), built_in),
                ]),
                figures: BTreeMap::new(),
            };
            case.compare(times, &[])
        });
    Ok(rows.collect())
}

/// What an extent more costs, round by round: what `extents` of them take beyond the same bytes in
/// a row.
fn per_extent_ns(sparse: &Samples, packed: &Samples, extents: u64) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "thousands of extents")]
    let extents = extents as f64;
    let pairs = sparse.ms.iter().zip(&packed.ms);
    pairs
        .map(|(sparse, packed)| (sparse - packed) * 1e6 / extents)
        .collect()
}

/// A figure without its fraction; 0 for what noise made negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a saturating cast is what is meant"
)]
fn whole(figure: f64) -> u64 {
    figure.round() as u64
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::place::PlaceKind;

    #[test]
    fn an_extent_costs_the_difference() {
        let samples = |ms: &[f64]| Samples {
            name: "x",
            ms: ms.to_vec(),
        };
        let ns = per_extent_ns(&samples(&[30.0, 10.0]), &samples(&[10.0, 20.0]), 1000);
        assert!((ns[0] - 20_000.0).abs() < 1e-6 && ns[1] < 0.0);
        assert_eq!((whole(ns[0]), whole(ns[1])), (20_000, 0));
    }

    #[test]
    fn both_figures_stand_beside_what_is_built_in() {
        let line = "benches --suite cost --mem 4M --rounds 1".split(' ');
        let options = Options::try_parse_from(line).unwrap();
        let place = Place::new(PlaceKind::Host, &std::env::temp_dir(), 4 << 20);
        let place = place.unwrap().unwrap();
        let rows = run(&options, &place).unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row.case.as_str()).collect();
        assert_eq!(names, ["extent-ns", "bytes-per-us"]);
        let model = CostModel::of(place.file_system());
        assert_eq!(rows[0].count("built_in"), Some(model.extent_ns));
        assert!(rows[1].count("measured").unwrap() > 0);
    }
}
