//! What a guest's clock does with the time that it was stopped.

/// What the guest's clock does with the time between snapshot and restore.
///
/// There is no default: whoever restores says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ClockPolicy {
    /// It goes on where it stopped.
    Frozen,
    /// It goes on as if the guest had never stopped, as far as the hosts' wall clocks are right.
    Advance,
}
