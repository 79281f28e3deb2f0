//! The cases of the suite `restore` that read pages, and whom each is measured against.

use std::num::NonZeroUsize;

use super::ours::Recipe;
use super::touch::Way;

/// The deepest chain.
pub(crate) const MAX_DEPTH: usize = 64;

/// One case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// Whether it is measured unless others are asked for.
    pub(crate) is_default: bool,
    pub(crate) touching: Touching,
    pub(crate) cache: Cache,
    /// How many pages are read.
    pub(crate) pages: u64,
    pub(crate) end: End,
    pub(crate) against: &'static [Against],
    /// Rounds at most: some take seconds each.
    most_rounds: usize,
}

/// Which snapshot is brought back, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Touching {
    pub(crate) mem_bytes: u64,
    pub(crate) depth: usize,
    pub(crate) way: Way,
}

/// What the page cache has of the snapshot before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cache {
    Warm,
    Cold,
}

/// Where the measured time ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// With the first page.
    First,
    /// With the last.
    All,
}

/// Whom a case is measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Against {
    pub(crate) name: &'static str,
    pub(crate) is_limit: bool,
    pub(crate) touching: Touching,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Pages in 100 MiB.
const PAGES_100M: u64 = 100 * MIB / 4096;

/// Rounds of a case that takes long.
const FEW: usize = 3;

const fn touching(mem_bytes: u64, depth: usize, way: Way) -> Touching {
    Touching {
        mem_bytes,
        depth,
        way,
    }
}

const fn peer(name: &'static str, mem_bytes: u64, depth: usize, way: Way) -> Against {
    Against {
        name,
        is_limit: false,
        touching: touching(mem_bytes, depth, way),
    }
}

const fn limit(name: &'static str, mem_bytes: u64, depth: usize, recipe: Recipe) -> Against {
    Against {
        name,
        is_limit: true,
        touching: touching(mem_bytes, depth, Way::Ours(recipe)),
    }
}

/// Everybody who brings a snapshot back on demand.
const fn lazy(mem_bytes: u64, depth: usize) -> [Against; 3] {
    [
        peer("map-private", mem_bytes, depth, Way::MapPrivate),
        peer(
            "map-private-random",
            mem_bytes,
            depth,
            Way::MapPrivateRandom,
        ),
        peer("uffd-one-page", mem_bytes, depth, Way::OnePage),
    ]
}

/// Everybody, for sizes that are read as a whole in little time.
const fn all(mem_bytes: u64) -> [Against; 4] {
    let [map, random, one_page] = lazy(mem_bytes, 1);
    [
        map,
        random,
        one_page,
        peer("eager-read", mem_bytes, 1, Way::Eager),
    ]
}

const fn and_limit(peers: [Against; 3], limit: Against) -> [Against; 4] {
    let [a, b, c] = peers;
    [a, b, c, limit]
}

const FIRST: Plan = Plan {
    name: "first-read-1g",
    is_default: true,
    touching: touching(GIB, 1, Way::Ours(Recipe::Served)),
    cache: Cache::Warm,
    pages: 1,
    end: End::First,
    against: &all(GIB),
    most_rounds: usize::MAX,
};

const fn first(name: &'static str, mem_bytes: u64, depth: usize, recipe: Recipe) -> Plan {
    Plan {
        name,
        touching: touching(mem_bytes, depth, Way::Ours(recipe)),
        against: &[],
        ..FIRST
    }
}

const FIRST_AT_ONE: [Against; 1] = [limit("first-read-depth-1", GIB, 1, Recipe::Served)];

const WARM_AT_ONE: [Against; 1] = [limit("warm-100m-depth-1", GIB, 1, Recipe::Served)];

const fn deep(name: &'static str, depth: usize) -> Plan {
    Plan {
        against: &FIRST_AT_ONE,
        ..first(name, GIB, depth, Recipe::Served)
    }
}

const WARM: Plan = Plan {
    name: "warm-100m-depth-1",
    pages: PAGES_100M,
    end: End::All,
    against: &lazy(GIB, 1),
    ..FIRST
};

const fn warm(name: &'static str, depth: usize, is_default: bool) -> Plan {
    Plan {
        name,
        is_default,
        touching: touching(GIB, depth, Way::Ours(Recipe::Served)),
        against: &WARM_AT_ONE,
        ..WARM
    }
}

/// All cases.
pub(crate) const PLANS: &[Plan] = &[
    Plan {
        against: &all(256 * MIB),
        ..first("first-read-256m", 256 * MIB, 1, Recipe::Served)
    },
    FIRST,
    Plan {
        against: &and_limit(
            lazy(8 * GIB, 1),
            limit("first-read-1g", GIB, 1, Recipe::Served),
        ),
        ..first("first-read-8g", 8 * GIB, 1, Recipe::Served)
    },
    Plan {
        cache: Cache::Cold,
        against: &lazy(GIB, 1),
        ..first("first-read-1g-cold", GIB, 1, Recipe::Served)
    },
    Plan {
        cache: Cache::Cold,
        against: &and_limit(
            lazy(8 * GIB, 1),
            limit("first-read-1g-cold", GIB, 1, Recipe::Served),
        ),
        ..first("first-read-8g-cold", 8 * GIB, 1, Recipe::Served)
    },
    Plan {
        against: &lazy(GIB, 1),
        ..first("first-read-1g-trusted", GIB, 1, Recipe::Mapped)
    },
    Plan {
        against: &lazy(8 * GIB, 1),
        ..first("first-read-8g-trusted", 8 * GIB, 1, Recipe::Mapped)
    },
    first("first-read-1g-background", GIB, 1, Recipe::Background),
    Plan {
        against: &[peer("eager-read", GIB, 1, Way::Eager)],
        ..first("first-read-1g-eager", GIB, 1, Recipe::Eager)
    },
    Plan {
        is_default: false,
        against: &[peer("eager-read", 8 * GIB, 1, Way::Eager)],
        most_rounds: FEW,
        ..first("first-read-8g-eager", 8 * GIB, 1, Recipe::Eager)
    },
    first("first-read-depth-1", GIB, 1, Recipe::Served),
    deep("first-read-depth-2", 2),
    deep("first-read-depth-4", 4),
    deep("first-read-depth-8", 8),
    deep("first-read-depth-16", 16),
    deep("first-read-depth-32", 32),
    deep("first-read-depth-64", MAX_DEPTH),
    Plan {
        against: &lazy(GIB, MAX_DEPTH),
        ..first(
            "first-read-depth-64-trusted",
            GIB,
            MAX_DEPTH,
            Recipe::Cached,
        )
    },
    Plan {
        cache: Cache::Cold,
        against: &and_limit(
            lazy(GIB, MAX_DEPTH),
            limit("first-read-depth-1-cold", GIB, 1, Recipe::Served),
        ),
        ..first("first-read-depth-64-cold", GIB, MAX_DEPTH, Recipe::Served)
    },
    WARM,
    warm("warm-100m-depth-4", 4, false),
    warm("warm-100m-depth-16", 16, false),
    warm("warm-100m-depth-64", MAX_DEPTH, true),
    Plan {
        name: "warm-100m-trusted",
        touching: touching(GIB, 1, Way::Ours(Recipe::Mapped)),
        ..WARM
    },
    Plan {
        name: "warm-100m-depth-64-trusted",
        touching: touching(GIB, MAX_DEPTH, Way::Ours(Recipe::Cached)),
        against: &lazy(GIB, MAX_DEPTH),
        ..WARM
    },
    Plan {
        name: "warm-100m-cold",
        cache: Cache::Cold,
        is_default: false,
        ..WARM
    },
];

impl Plan {
    /// Rounds, where `asked` are asked for.
    pub(crate) fn rounds(&self, asked: NonZeroUsize) -> NonZeroUsize {
        let most = NonZeroUsize::new(self.most_rounds).unwrap_or(NonZeroUsize::MIN);
        asked.min(most)
    }

    /// Where the choice of pages begins in a round: other pages in each.
    pub(crate) fn choice(&self, round: u64) -> u64 {
        self.touching.mem_bytes ^ round
    }

    /// What was done within the time.
    pub(crate) fn policy(&self) -> String {
        let Way::Ours(recipe) = self.touching.way else {
            return String::new();
        };
        let cache = match self.cache {
            Cache::Warm => "warm",
            Cache::Cold => "cold",
        };
        format!(
            "{}: {}; {cache} cache",
            recipe.verification(),
            recipe.method()
        )
    }
}

/// The names of all cases of the suite, also those that read no pages.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let others = [
        super::working_set::NAMES,
        super::fleet::NAMES,
        super::qemu::NAMES,
    ];
    PLANS
        .iter()
        .map(|plan| plan.name)
        .chain(others.into_iter().flatten().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_those_of_the_contract_are_there() {
        let mut names: Vec<&str> = names().collect();
        for name in [
            "first-read-1g",
            "first-read-8g",
            "first-read-depth-1",
            "first-read-depth-64",
            "warm-100m-depth-1",
            "warm-100m-depth-64",
            "working-set-cold",
            "clone-100",
        ] {
            assert!(names.contains(&name), "{name}");
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn every_case_names_its_policy() {
        for plan in PLANS {
            let policy = plan.policy();
            let (policy, _) = policy.split_once(':').unwrap();
            assert!(["eager", "on-fault", "background", "trusted"].contains(&policy));
        }
    }
}
