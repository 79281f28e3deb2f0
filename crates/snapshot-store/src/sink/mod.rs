//! Taking a snapshot: staged, sealed, published.

mod copy;
mod new;
mod own_lock;
mod returned;
mod seal;
mod stage;

pub use new::NewSnapshot;
pub use returned::{Returned, ReturningSnapshot};
pub use seal::StoreSealed;
pub(crate) use seal::check_dependencies;
pub use stage::{StoreSink, StoreStage};
