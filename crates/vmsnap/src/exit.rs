//! What a run can end in, and the process exit code of each: specified in `specs/09-cli.md`.

/// How a run ended. Codes are documented and only ever added to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// All was done.
    Done,
    /// Failed for a reason that has no code of its own, an I/O error for one.
    Failed,
    /// Not something that this build can do.
    Unsupported,
    /// The command line, or a file that it names, cannot be used as it is.
    Usage,
    /// No such snapshot, store or file.
    NotFound,
    /// Data that is not what was written.
    Corrupt,
    /// Another machine, another layout, the wrong parent.
    Incompatible,
    /// Another process holds what is needed.
    Busy,
    /// No space, or no quota, is left.
    NoSpace,
    /// What was done may not survive a loss of power.
    DurabilityUncertain,
    /// Written by a later version.
    TooNew,
    /// A key is needed, or another one.
    KeyNeeded,
    /// Some of it was done.
    PartlyDone,
    /// It exists already.
    Exists,
    /// Protected, or in use.
    Refused,
    /// Stopped by a signal.
    Interrupted,
}

impl Exit {
    /// Every way to end, in the order of the codes.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 16] = [
        Self::Done,
        Self::Failed,
        Self::Unsupported,
        Self::Usage,
        Self::NotFound,
        Self::Corrupt,
        Self::Incompatible,
        Self::Busy,
        Self::NoSpace,
        Self::DurabilityUncertain,
        Self::TooNew,
        Self::KeyNeeded,
        Self::PartlyDone,
        Self::Exists,
        Self::Refused,
        Self::Interrupted,
    ];

    /// The exit code of the process.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed | Self::Unsupported => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Corrupt => 4,
            Self::Incompatible => 5,
            Self::Busy => 6,
            Self::NoSpace => 7,
            Self::DurabilityUncertain => 8,
            Self::TooNew => 9,
            Self::KeyNeeded => 10,
            Self::PartlyDone => 11,
            Self::Exists => 12,
            Self::Refused => 13,
            Self::Interrupted => 130,
        }
    }

    /// The word for it in JSON: `error.kind`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unsupported => "unsupported",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Corrupt => "corrupt",
            Self::Incompatible => "incompatible",
            Self::Busy => "busy",
            Self::NoSpace => "no_space",
            Self::DurabilityUncertain => "durability_uncertain",
            Self::TooNew => "too_new",
            Self::KeyNeeded => "key_needed",
            Self::PartlyDone => "partly_done",
            Self::Exists => "exists",
            Self::Refused => "refused",
            Self::Interrupted => "interrupted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../specs/09-cli.md"
    ));

    // spec: CLI-07
    #[test]
    fn codes_and_names_are_those_of_the_specification() {
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.name());
            let found = SPEC.lines().filter(|line| line.starts_with(&row)).count();
            assert_eq!(found, 1, "{row}");
        }
    }
}
