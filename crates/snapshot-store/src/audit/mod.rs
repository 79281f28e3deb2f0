//! Who changed a store, when, how, and with what outcome: a log that is only appended to.

mod append;
mod entry;
mod read;
mod scan;

pub use append::Intent;
pub use entry::{Actor, AuditEntry, AuditEvent};
pub use read::{AuditProblem, AuditReport, UnfinishedIntent};
