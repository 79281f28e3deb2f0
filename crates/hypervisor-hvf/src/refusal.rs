//! What the framework answers instead of doing what it was asked.

use std::fmt;

/// A call that the framework refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{call}: {code}")]
pub struct HvRefusal {
    /// The name of the call.
    pub call: &'static str,
    /// Its answer.
    pub code: HvCode,
}

/// An answer of the framework (`hv_return_t`) other than success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HvCode {
    /// `HV_ERROR`.
    Error,
    /// `HV_BUSY`.
    Busy,
    /// `HV_BAD_ARGUMENT`: a value that is out of range, or a vCPU of another thread.
    BadArgument,
    /// `HV_ILLEGAL_GUEST_STATE`.
    IllegalGuestState,
    /// `HV_NO_RESOURCES`.
    NoResources,
    /// `HV_NO_DEVICE`: there is no machine, no vCPU or no GIC.
    NoDevice,
    /// `HV_DENIED`: the process may not use the framework.
    Denied,
    /// `HV_EXISTS`: the process has its machine already.
    Exists,
    /// `HV_UNSUPPORTED`: this CPU cannot do it.
    Unsupported,
    /// The system is older than the call.
    TooOld {
        /// The first version that has it.
        since: &'static str,
    },
    /// A number that this build does not know.
    Other(u32),
}

impl HvCode {
    /// What a return value says; `None` for success.
    #[must_use]
    pub const fn of(value: i32) -> Option<Self> {
        Some(match value.cast_unsigned() {
            0 => return None,
            0xfae9_4001 => Self::Error,
            0xfae9_4002 => Self::Busy,
            0xfae9_4003 => Self::BadArgument,
            0xfae9_4004 => Self::IllegalGuestState,
            0xfae9_4005 => Self::NoResources,
            0xfae9_4006 => Self::NoDevice,
            0xfae9_4007 => Self::Denied,
            0xfae9_4008 => Self::Exists,
            0xfae9_400f => Self::Unsupported,
            other => Self::Other(other),
        })
    }

    /// The refusal of `call`.
    #[must_use]
    pub const fn to(self, call: &'static str) -> HvRefusal {
        HvRefusal { call, code: self }
    }
}

impl fmt::Display for HvCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "HV_ERROR",
            Self::Busy => "HV_BUSY",
            Self::BadArgument => {
                "HV_BAD_ARGUMENT (a value out of range, or a vCPU of another thread)"
            }
            Self::IllegalGuestState => "HV_ILLEGAL_GUEST_STATE",
            Self::NoResources => "HV_NO_RESOURCES",
            Self::NoDevice => "HV_NO_DEVICE (no machine, vCPU or GIC)",
            Self::Denied => {
                "HV_DENIED; sign the program with the entitlement com.apple.security.hypervisor"
            }
            Self::Exists => "HV_EXISTS; a process has one machine, so a second needs a process",
            Self::Unsupported => "HV_UNSUPPORTED",
            Self::TooOld { since } => return write!(f, "this system lacks it; it needs {since}"),
            Self::Other(code) => return write!(f, "unknown answer {code:#010x}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_their_number() {
        assert_eq!(HvCode::of(0), None);
        let denied = HvCode::of(0xfae9_4007_u32.cast_signed()).unwrap();
        assert_eq!(denied, HvCode::Denied);
        assert_eq!(HvCode::of(7), Some(HvCode::Other(7)));
        let refusal = HvCode::TooOld {
            since: "macOS 15.0",
        }
        .to("hv_gic_create");
        assert_eq!(
            refusal.to_string(),
            "hv_gic_create: this system lacks it; it needs macOS 15.0"
        );
    }
}
