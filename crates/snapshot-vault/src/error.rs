//! Why an operation of a vault failed, and what to do about it.

use std::error::Error;

use snapshot_format::{DecodeError, ErrorKind as DecodeErrorKind, SnapshotId};
use snapshot_memory::{FrameCodecError, SourceError};
use snapshot_store::{ErrorKind as StoreErrorKind, StoreError};

use crate::id::{ChunkId, DomainId, ObjectId, ParseNameError};
use crate::objects::{ObjectError, ObjectName};

/// What a caller does about an error. The kinds are those of the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Anything that has no kind of its own.
    Failed,
    /// What was asked for cannot be meant.
    Usage,
    /// No such vault, domain or archive.
    NotFound,
    /// Bytes are not what was written, or are lost.
    Corrupt,
    /// Somebody else does what makes this impossible now.
    Busy,
    /// There is no room.
    NoSpace,
    /// Written by a later version.
    TooNew,
    /// Another parent or another machine is needed.
    Incompatible,
    /// It happened, but may not survive a loss of power.
    DurabilityUncertain,
    /// It is there already.
    Exists,
    /// Protected or in use.
    Refused,
    /// A key is needed, or another one.
    Key,
    /// Stopped on request.
    Interrupted,
}

/// Bytes of an object that break a rule. Offsets count from the start of the object.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than are declared.
    #[error("at offset {offset:#x}: {needed} bytes are declared, {found} are there")]
    Short {
        /// Where they start.
        offset: u64,
        /// How many are declared.
        needed: u64,
        /// How many there are.
        found: u64,
    },
    /// It does not begin with the magic of its sort.
    #[error("at offset {offset:#x}: no {what} begins here")]
    Magic {
        /// Where it should be.
        offset: u64,
        /// What was expected.
        what: &'static str,
    },
    /// A CRC32C that does not match.
    #[error("at offset {offset:#x}: checksum {stored:08x} is stored, {computed:08x} computed")]
    Checksum {
        /// Where the bytes start that it covers.
        offset: u64,
        /// The checksum that is stored.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A digest that does not match: the bytes were changed, or made under another key.
    #[error("the digest does not match: the bytes were changed, or made under another key")]
    Digest,
    /// A later version of the format.
    #[error(
        "version {found} of the vault's format, this build reads up to {reads}: use a newer one"
    )]
    TooNew {
        /// The version of the object.
        found: u16,
        /// What this build reads.
        reads: u16,
    },
    /// Features that this build does not know.
    #[error("features {bits:#x} are needed, which this build does not have: use a newer one")]
    Features {
        /// Those that are unknown.
        bits: u32,
    },
    /// A count or a length beyond its cap.
    #[error("at offset {offset:#x}: {found}, at most {limit} is allowed")]
    Limit {
        /// Where it is.
        offset: u64,
        /// What was found.
        found: u64,
        /// The cap.
        limit: u64,
    },
    /// A field that breaks a rule.
    #[error("at offset {offset:#x}: {rule}, {found:#x} was found")]
    Invalid {
        /// Where it is.
        offset: u64,
        /// The rule.
        rule: &'static str,
        /// What was found.
        found: u64,
    },
    /// A payload that does not decode, or does not decrypt.
    #[error("at offset {offset:#x}: the payload does not {what}")]
    Payload {
        /// Where the record starts.
        offset: u64,
        /// What failed.
        what: &'static str,
    },
}

/// An operation of a vault failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The store of objects failed.
    #[error("{action} {name}")]
    Object {
        /// What was tried.
        action: &'static str,
        /// With which object, or prefix.
        name: ObjectName,
        /// Why.
        #[source]
        source: ObjectError,
    },
    /// An object that does not hold what it must.
    #[error("{name} is damaged; put back a copy of it, or archive again what needs it")]
    Damaged {
        /// The object.
        name: ObjectName,
        /// What is wrong, and where.
        #[source]
        source: FormatError,
    },
    /// No pack has a readable record of a chunk.
    #[error("chunk {id} of domain {domain} is lost: no pack has a record of it that can be read")]
    Lost {
        /// The domain.
        domain: DomainId,
        /// The chunk.
        id: ChunkId,
        /// What the last record that was tried has.
        #[source]
        source: Option<Box<VaultError>>,
    },
    /// Nothing of that name is there.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// A domain whose keys were not given.
    #[error("domain {domain} of scope {scope} is sealed, and no key that was given opens it")]
    KeyNeeded {
        /// The domain.
        domain: DomainId,
        /// Its scope.
        scope: String,
    },
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// More than the format takes.
    #[error("too many {what}: {found}, at most {limit} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        found: u64,
        /// The cap.
        limit: u64,
    },
    /// An archive whose recipe was withdrawn each time it was written.
    #[error(
        "recipe {id} was withdrawn while it was written: archive again when the clean-up is over"
    )]
    Withdrawn {
        /// The last id that was tried.
        id: ObjectId,
    },
    /// Collections go on that condemn packs faster than chunks are copied out of them.
    #[error("packs are condemned faster than chunks are copied out of them: try again later")]
    Overtaken,
    /// Guest memory could not be read.
    #[error("read the memory that is archived")]
    Source(#[source] Box<SourceError>),
    /// The store that the snapshot is in failed.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// What is archived is not what it says it is.
    #[error("{what}")]
    Input {
        /// What is wrong.
        what: String,
    },
    /// A file of an archive that is as it was archived, and not what it must be.
    #[error("the {what} in archive {archive} cannot be read")]
    Content {
        /// The archive.
        archive: ObjectId,
        /// Which file.
        what: &'static str,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A base whose memory is laid out in another way.
    #[error("snapshot {id} has other memory than the one that is archived: name another base")]
    OtherMemory {
        /// The base.
        id: SnapshotId,
    },
    /// A codec that cannot be set up.
    #[error(transparent)]
    Codec(#[from] FrameCodecError),
    /// The kernel gave no random bytes, or a thread that was allowed died.
    #[error("{what}")]
    Host {
        /// What failed.
        what: &'static str,
        /// Why, where that is known.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// Stopped on request.
    #[error("stopped on request")]
    Interrupted,
}

impl FormatError {
    pub(crate) const fn invalid(offset: u64, rule: &'static str, found: u64) -> Self {
        Self::Invalid {
            offset,
            rule,
            found,
        }
    }

    /// Whether a later build might read it.
    #[must_use]
    pub const fn is_too_new(&self) -> bool {
        matches!(self, Self::TooNew { .. } | Self::Features { .. })
    }
}

impl VaultError {
    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Object { source, .. } => source.kind(),
            Self::Damaged { source, .. } if source.is_too_new() => ErrorKind::TooNew,
            Self::Damaged { .. } | Self::Lost { .. } => ErrorKind::Corrupt,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::KeyNeeded { .. } => ErrorKind::Key,
            Self::Name(_) | Self::Input { .. } | Self::Codec(FrameCodecError::Level { .. }) => {
                ErrorKind::Usage
            }
            Self::Withdrawn { .. } | Self::Overtaken => ErrorKind::Busy,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Content { source, .. } => match source.kind() {
                DecodeErrorKind::TooNew | DecodeErrorKind::Unsupported => ErrorKind::TooNew,
                _ => ErrorKind::Corrupt,
            },
            Self::OtherMemory { .. } => ErrorKind::Incompatible,
            Self::Source(error) => match error.as_ref() {
                SourceError::Other(error) => {
                    let own = error.downcast_ref::<Self>();
                    own.map_or(ErrorKind::Failed, Self::kind)
                }
                _ => ErrorKind::Failed,
            },
            Self::Store(error) => kind_of_store(error.kind()),
            _ => ErrorKind::Failed,
        }
    }

    /// The object at fault, if one is.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectName> {
        match self {
            Self::Object { name, .. } | Self::Damaged { name, .. } => Some(name),
            _ => None,
        }
    }

    /// That there is no vault where one was looked for: for places that cannot even be opened, too.
    #[must_use]
    pub fn no_vault() -> Self {
        Self::NotFound {
            what: "a vault in this place".to_owned(),
        }
    }

    pub(crate) fn object_at(
        action: &'static str,
        name: &ObjectName,
    ) -> impl FnOnce(ObjectError) -> Self {
        let name = name.clone();
        move |source| Self::Object {
            action,
            name,
            source,
        }
    }

    pub(crate) fn damaged(name: &ObjectName) -> impl FnOnce(FormatError) -> Self {
        let name = name.clone();
        move |source| Self::Damaged { name, source }
    }

    pub(crate) fn memory(error: SourceError) -> Self {
        Self::Source(Box::new(error))
    }

    pub(crate) fn random(error: getrandom::Error) -> Self {
        Self::Host {
            what: "get random bytes from the kernel",
            source: Some(Box::new(error)),
        }
    }

    /// Whether it says that an object is not there.
    pub(crate) const fn is_missing_object(&self) -> bool {
        matches!(
            self,
            Self::Object {
                source: ObjectError::NotFound,
                ..
            }
        )
    }
}

impl From<StoreError> for VaultError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

fn kind_of_store(kind: StoreErrorKind) -> ErrorKind {
    match kind {
        StoreErrorKind::Usage => ErrorKind::Usage,
        StoreErrorKind::NotFound => ErrorKind::NotFound,
        StoreErrorKind::Corrupt => ErrorKind::Corrupt,
        StoreErrorKind::Incompatible => ErrorKind::Incompatible,
        StoreErrorKind::DurabilityUncertain => ErrorKind::DurabilityUncertain,
        StoreErrorKind::Exists => ErrorKind::Exists,
        StoreErrorKind::Refused => ErrorKind::Refused,
        StoreErrorKind::Busy => ErrorKind::Busy,
        StoreErrorKind::NoSpace => ErrorKind::NoSpace,
        StoreErrorKind::TooNew => ErrorKind::TooNew,
        StoreErrorKind::Interrupted => ErrorKind::Interrupted,
        _ => ErrorKind::Failed,
    }
}
