//! Re-creating what can be re-created, from copies whose digests prove them.

mod chain;
mod damage;
mod data;
mod finder;
mod lost;
mod place;
mod quarantine;
mod rebuilt;
mod report;
mod run;
mod source;
mod whole;

pub use report::{HurtSnapshot, LostRange, RepairOutcome, RepairReport, RepairedFile};
pub use source::{RepairSource, WantedFile, WantedPages};
