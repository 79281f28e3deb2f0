//! Re-creating what can be re-created, from copies whose digests prove them.

mod chain;
mod damage;
mod finder;
mod lost;
mod quarantine;
mod rebuilt;
mod report;
mod run;

pub use finder::{RepairSource, WantedPages};
pub use report::{HurtSnapshot, LostRange, RepairOutcome, RepairReport, RepairedFile};
