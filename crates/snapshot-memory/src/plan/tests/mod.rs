//! What all tests of plans share.

pub(super) mod rig;
