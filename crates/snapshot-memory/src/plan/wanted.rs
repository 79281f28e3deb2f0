//! What whoever restores has named.

use serde::{Deserialize, Serialize};

use super::method::MethodKind;
use crate::restore::Verification;

/// What is asked of a restore; nothing is implied by what is left open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Wanted {
    /// When pages are checked, at the latest; `None`: before the guest sees them.
    pub verification: Option<Verification>,
    /// How memory is put in place; `None`: as is best by the measured costs.
    pub method: Option<MethodKind>,
}

impl Wanted {
    /// The same, with a policy.
    #[must_use]
    pub fn verification(self, policy: Verification) -> Self {
        Self {
            verification: Some(policy),
            ..self
        }
    }

    /// The same, with a method.
    #[must_use]
    pub fn method(self, method: MethodKind) -> Self {
        Self {
            method: Some(method),
            ..self
        }
    }

    /// The least that a plan must keep to.
    ///
    /// Nothing below that is implied: `background` and `trusted`, under which unchecked bytes may
    /// reach the guest, have to be named.
    #[must_use]
    pub fn least(self) -> Verification {
        self.verification.unwrap_or(Verification::OnFault)
    }

    /// Whether mapping the data files may come of it, so that counting mappings is worth its cost.
    pub(super) fn may_be_mapped(self, verity: bool) -> bool {
        let is_lax = !self.least().is_strict();
        match self.method {
            Some(MethodKind::Mapped) => true,
            Some(MethodKind::Served | MethodKind::Eager) => false,
            None => is_lax || verity && self.least() == Verification::OnFault,
        }
    }
}
