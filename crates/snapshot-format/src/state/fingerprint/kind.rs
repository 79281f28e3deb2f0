//! The kinds of reasons, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Makes the enum, the list of all its values and their names, which cannot differ then.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The kinds of [`Reason`](super::Reason), to name what a caller overrides.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum ReasonKind {
            $($(#[$doc])* $kind,)*
        }

        impl ReasonKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// What it is called where it is named, in JSON for one.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// Another architecture: cannot be overridden.
    Architecture = "architecture",
    /// Another host page size.
    PageSize = "page_size",
    /// Another maker of CPUs.
    Vendor = "vendor",
    /// Another CPU model.
    Model = "model",
    /// Missing CPU features.
    Cpuid = "cpuid",
    /// An unknown register.
    Msr = "msr",
    /// Another TSC frequency.
    TscFrequency = "tsc_frequency",
    /// A missing extension.
    Capability = "capability",
    /// A clock that cannot do what is asked: cannot be overridden, as another policy can be chosen.
    Clock = "clock",
    /// Another hypervisor.
    Hypervisor = "hypervisor",
    /// A lower field of an ID register.
    IdRegister = "id_register",
    /// Another frequency of the counter.
    CounterFrequency = "counter_frequency",
    /// Guest physical addresses of more bits.
    AddressBits = "address_bits",
    /// Another interrupt controller.
    Gic = "gic",
    /// Other lengths of vectors.
    VectorLengths = "vector_lengths",
    /// Missing features that no ID register tells.
    Features = "features",
    /// Another machine than the target: cannot be overridden.
    Machine = "machine",
    /// State that the host or the target does not take: cannot be overridden.
    State = "state",
}

/// A name that is the name of no kind of reason.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no reason is called {name:?}; there are {}", Names)]
pub struct UnknownReason {
    /// The name.
    pub name: String,
}

/// The names of all kinds.
struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = ReasonKind::ALL.iter().map(|kind| kind.name()).collect();
        f.write_str(&names.join(", "))
    }
}

impl ReasonKind {
    /// Whether a caller may go on in spite of it.
    ///
    /// Where nothing could be written at all, there is nothing to go on with.
    #[must_use]
    pub fn can_be_overridden(self) -> bool {
        !matches!(
            self,
            Self::Architecture | Self::Clock | Self::Machine | Self::State
        )
    }
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ReasonKind {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.iter().copied();
        all.find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownReason {
                name: name.to_owned(),
            })
    }
}

impl Serialize for ReasonKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
