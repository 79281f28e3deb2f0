//! Every cap of the vault, in one table. Specified in `specs/40-vault.md`.

/// Bytes of a chunk: 16 pages.
pub const CHUNK_BYTES: usize = 65_536;

/// Pages of a chunk.
pub const CHUNK_PAGES: usize = 16;

/// Chunks that one leaf of a recipe stands for: 64 MiB.
pub const LEAF_CHUNKS: usize = 1024;

/// Bytes at which a writer closes a pack.
pub const PACK_BYTES: usize = 32 << 20;

/// Bytes of a pack.
pub const MAX_PACK_BYTES: u64 = 64 << 20;

/// Records of one pack.
pub const MAX_PACK_RECORDS: usize = 65_536;

/// Bytes of an object that is no pack.
pub const MAX_OBJECT_BYTES: u64 = 16 << 20;

/// Bytes of a payload: a chunk, and the tag of its sealing.
pub const MAX_PAYLOAD_BYTES: usize = CHUNK_BYTES + 16;

/// Packs of one domain.
pub const MAX_PACKS: usize = 1 << 20;

/// Packs that one tombstone names.
pub const MAX_CONDEMNED: usize = 65_536;

/// Files of one recipe.
pub const MAX_RECIPE_FILES: usize = 64;

/// Bytes of one file of a recipe.
pub const MAX_RECIPE_FILE_BYTES: u64 = 1 << 30;

/// Bytes of the name of a scope.
pub const MAX_SCOPE_BYTES: usize = 128;

/// Pages of a delta that a writer makes: with more, a full record costs little more and frees the
/// chunk from its base.
pub const MAX_DELTA_PAGES: u32 = 8;
