//! Which hypervisor state is of, for what only that one understands.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::state::bytes::as_hex_number;
use crate::state::mirror::Mirror;

/// A hypervisor, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hypervisor(pub u16);

impl Hypervisor {
    /// Not said.
    pub const UNKNOWN: Self = Self(0);
    /// Linux KVM.
    pub const KVM: Self = Self(1);
    /// Apple's Hypervisor.framework.
    pub const HVF: Self = Self(2);
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNKNOWN => f.write_str("unknown"),
            Self::KVM => f.write_str("kvm"),
            Self::HVF => f.write_str("hvf"),
            Self(number) => write!(f, "hypervisor {number}"),
        }
    }
}

impl Serialize for Hypervisor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Mirror<u16> for Hypervisor {
    fn mirror(&self) -> u16 {
        self.0
    }
}

impl Mirror<Hypervisor> for u16 {
    fn mirror(&self) -> Hypervisor {
        Hypervisor(*self)
    }
}

/// A register that only one hypervisor has: its firmware's, or one outside the architecture.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
pub struct HypervisorRegister {
    /// Whose it is.
    pub hypervisor: Hypervisor,
    /// Its number in that interface: of `KVM_GET_ONE_REG`, for one.
    #[serde(serialize_with = "as_hex_number")]
    pub id: u64,
    /// Its value.
    #[serde(serialize_with = "as_hex_number")]
    pub value: u64,
}
