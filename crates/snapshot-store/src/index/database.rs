//! The one file that speaks SQL.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, Row, TransactionBehavior, params};
use snapshot_format::SnapshotId;

use super::stamps::Stamps;
use crate::directory::Location;

/// The database of an index, checked to be that of one store.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
}

/// Why a database is not used.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another process has it, for a moment.
    Busy,
    /// It is not what this build makes of this store.
    Unusable(String),
}

/// What is kept of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept<R> {
    pub(super) id: SnapshotId,
    pub(super) stamps: Stamps,
    /// The record, encoded.
    pub(super) record: R,
}

/// What is to be changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) keep: Vec<Kept<Vec<u8>>>,
    pub(super) forget: Vec<SnapshotId>,
}

/// Whose the file is: `vmsx`.
const APPLICATION: i32 = 0x766d_7378;

/// The version of the tables.
const SCHEMA: i32 = 2;

/// How long another process is waited for: reading some snapshots takes as long.
const PATIENCE: Duration = Duration::from_millis(50);

const TABLES: &str = "
CREATE TABLE store (id BLOB NOT NULL);
CREATE TABLE snapshot (
    location INTEGER NOT NULL,
    id BLOB NOT NULL,
    manifest_stamp BLOB NOT NULL,
    metadata_stamp BLOB NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (location, id)
) WITHOUT ROWID;
";

impl Database {
    /// Opens the file at `path`, which exists. An empty one becomes the index of `store`.
    pub(super) fn open(path: &Path, store: SnapshotId) -> Result<Self, Fault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(PATIENCE)?;
        connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")?;
        let mut database = Self { connection };
        match (
            database.number("application_id")?,
            database.number("user_version")?,
        ) {
            (APPLICATION, SCHEMA) => {}
            (0, 0) => database.make(store)?,
            (application, version) => {
                let problem = format!("it is version {version} of application {application:#x}");
                return Err(Fault::Unusable(problem));
            }
        }
        database.check(store)?;
        Ok(database)
    }

    /// Gives what is kept of the snapshots at `location` to `take`, by ascending id.
    pub(super) fn rows(
        &self,
        location: Location,
        mut take: impl FnMut(Kept<&[u8]>),
    ) -> Result<(), Fault> {
        let query = "SELECT id, manifest_stamp, metadata_stamp, record
             FROM snapshot WHERE location = ?1 ORDER BY id";
        let mut statement = self.connection.prepare(query)?;
        let mut rows = statement.query([number_of(location)])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let id = SnapshotId(array(row, 0)?);
            // Where the database is damaged it may give them as it likes.
            if last.is_some_and(|last| last >= id) {
                return Err(Fault::Unusable("its rows are out of order".to_owned()));
            }
            last = Some(id);
            take(Kept {
                id,
                stamps: Stamps {
                    manifest: array(row, 1)?,
                    metadata: array(row, 2)?,
                },
                record: blob(row, 3)?,
            });
        }
        Ok(())
    }

    /// Makes all changes at `location`, or none.
    pub(super) fn change(&mut self, location: Location, changes: &Changes) -> Result<(), Fault> {
        let place = number_of(location);
        let behaviour = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behaviour)?;
        {
            let mut keep = transaction.prepare(
                "INSERT OR REPLACE INTO snapshot
                 (location, id, manifest_stamp, metadata_stamp, record)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for Kept { id, stamps, record } in &changes.keep {
                let Stamps { manifest, metadata } = stamps;
                keep.execute(params![place, id.0, manifest, metadata, record])?;
            }
            let mut forget =
                transaction.prepare("DELETE FROM snapshot WHERE location = ?1 AND id = ?2")?;
            for id in &changes.forget {
                forget.execute(params![place, id.0])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Makes the tables, unless another process was faster.
    fn make(&mut self, store: SnapshotId) -> Result<(), Fault> {
        self.connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
        let behaviour = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behaviour)?;
        let version: i32 =
            transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            transaction.execute_batch(TABLES)?;
            transaction.execute("INSERT INTO store (id) VALUES (?1)", params![store.0])?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", SCHEMA)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Fails unless it is the index of `store`.
    fn check(&self, store: SnapshotId) -> Result<(), Fault> {
        self.connection
            .execute_batch("PRAGMA synchronous = NORMAL;")?;
        let query = "SELECT id FROM store";
        let found = self
            .connection
            .query_row(query, [], |row| row.get::<_, [u8; 16]>(0))?;
        if found == store.0 {
            return Ok(());
        }
        let found = SnapshotId(found);
        Err(Fault::Unusable(format!("it is the index of store {found}")))
    }

    fn number(&self, pragma: &str) -> Result<i32, Fault> {
        let value = self
            .connection
            .pragma_query_value(None, pragma, |row| row.get(0));
        Ok(value?)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Unusable(error.to_string()),
        }
    }
}

fn blob<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], Fault> {
    let found = row.get_ref(column)?.as_blob();
    found.map_err(|error| Fault::Unusable(error.to_string()))
}

fn array<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], Fault> {
    let found = blob(row, column)?.try_into();
    found.map_err(|_| Fault::Unusable(format!("a value is not of {N} bytes")))
}

const fn number_of(location: Location) -> i64 {
    match location {
        Location::Live => 0,
        Location::Trash => 1,
    }
}
