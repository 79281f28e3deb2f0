//! What a store keeps of itself (its audit log, its access, its machines) changed behind its back.
//!
//! No snapshot is made of any of it: whatever stands there, every snapshot is listed and comes back,
//! nobody gets to read more than somebody said, and a log that was changed does not pass.

use std::sync::Arc;

use snapshot_format::{BranchName, Digest, SnapshotId, VmName};
use snapshot_memory::backend::{Backend, MemBackend, Planted, RelPath};
use snapshot_store::{Actor, ErrorKind, ReadAccess, Store};

use super::cache::{Instead, path, put};
use super::store::{Fallible, Published, options, publish, read, read_image};
use crate::hostile::Tally;

const LOG: &str = "audit.jsonl";
const ACCESS: &str = "access.json";
const MACHINE: &str = "vms/one.json";

/// A store of which something was said, and what.
struct Said {
    published: Published,
    access: ReadAccess,
    one: VmName,
    /// The head of `main`, and the branch that `one` is on.
    head: SnapshotId,
    current: BranchName,
    /// The chain of the last entry of the log.
    chain: Digest,
}

/// What stands in the place of a file.
struct Change {
    what: String,
    instead: Instead,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bytes that are not those that were written. The next change writes them anew.
    Damage,
    /// The same, but for a log, which is whole up to a torn end.
    Torn,
    /// No file. What cannot be replaced refuses.
    Other,
    /// A file that nothing tells from one that was written, with nonsense in it.
    Forged,
}

/// Puts everything in the place of each of the files.
pub(super) fn run(tally: &mut Tally) -> Fallible<()> {
    let said = say()?;
    judge(&said, &said.published.tree, None)
        .map_err(|why| format!("nothing was changed: {why}"))?;
    for name in [LOG, ACCESS, MACHINE] {
        let at = path(name)?;
        let bytes = read(&said.published.tree, &at)?;
        for change in changes(&bytes).into_iter().chain(forged(name, &bytes)) {
            attempt(tally, &said, (name, &at), &change);
        }
    }
    Ok(())
}

/// Publishes snapshots, and says something of each kind.
fn say() -> Fallible<Said> {
    let published = publish()?;
    let store = open(&published.tree)?;
    let (one, current) = (VmName::new("one")?, BranchName::new("work")?);
    let head = published.snapshots.get(1).ok_or("no second snapshot")?.id;
    store.create_branch(&one, &current, head)?;
    store.switch(&one, Some(&current))?;
    let access = ReadAccess::new(None, Some(7), 0o440)?;
    store.set_read_access(access, false)?;
    for round in 0..3 {
        let arguments = [format!("round {round}")];
        let intent = store.audit_intent(actor(), "check", &arguments, &[head])?;
        store.audit_outcome(&intent, "done", "", &[])?;
    }
    let chain = store.read_audit(None, &mut |_, _| {})?.head;
    Ok(Said {
        published,
        access,
        one,
        head,
        current,
        chain,
    })
}

fn actor() -> Actor {
    Actor {
        host: "host".to_owned(),
        pid: 1,
        uid: 0,
    }
}

fn change(what: impl Into<String>, instead: Instead, kind: Kind) -> Change {
    let what = what.into();
    Change {
        what,
        instead,
        kind,
    }
}

/// Flips, cuts, more bytes, and what is no file.
fn changes(bytes: &[u8]) -> Vec<Change> {
    let planted = |what: &str, instead| change(what, instead, Kind::Other);
    let mut changes = vec![
        planted("a symbolic link", Instead::Other(Planted::SymbolicLink)),
        planted("a pipe", Instead::Other(Planted::Pipe)),
        planted("a directory", Instead::Directory),
        change("lost", Instead::Nothing, Kind::Damage),
    ];
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1 << (at % 8);
        }
        let instead = Instead::Bytes(flipped);
        changes.push(change(format!("byte {at} flipped"), instead, Kind::Damage));
    }
    for end in 0..bytes.len() {
        let cut = bytes.get(..end).unwrap_or_default();
        // Without the line feed at its end the last entry of a log is whole.
        let kind = if end + 1 == bytes.len() {
            Kind::Torn
        } else {
            Kind::Damage
        };
        let instead = Instead::Bytes(cut.to_vec());
        changes.push(change(format!("cut at {end}"), instead, kind));
    }
    let long = vec![b'x'; 3 << 20];
    for more in [&b"\0"[..], b"x", b"\n", b"\n\n", b"{\"chain\":\"", &long] {
        let what = format!("{} bytes more", more.len());
        let instead = Instead::Bytes([bytes, more].concat());
        changes.push(change(what, instead, Kind::Torn));
    }
    changes
}

/// Files whose digests are right.
fn forged(name: &str, bytes: &[u8]) -> Vec<Change> {
    let bodies: &[&str] = match name {
        LOG => &[
            r#"{"version":1,"seq":18446744073709551615,"at_unix_ms":0,"host":"","pid":0,"uid":0,"event":"outcome","of":0,"result":"","message":"","snapshots":[]}"#,
            r#"{"version":4294967295,"seq":0,"at_unix_ms":0,"host":"","pid":0,"uid":0,"event":"intent","command":"","arguments":[],"snapshots":[]}"#,
            r#"{"version":1,"seq":7,"event":"neither"}"#,
            "null",
        ],
        ACCESS => &[
            r#"{"version":1,"owner":null,"group":null,"mode":511}"#,
            r#"{"version":1,"owner":4294967295,"group":4294967295,"mode":4294967295}"#,
            r#"{"version":1,"owner":0,"group":0,"mode":0}"#,
            r#"{"version":1,"owner":-1,"group":0.5,"mode":"0444"}"#,
            r#"{"version":2,"owner":null,"group":null,"mode":292}"#,
            "[]",
        ],
        _ => &[
            r#"{"version":2,"vm":"two","last_seq":0,"heads":{},"starts":{},"current":"work"}"#,
            r#"{"version":2,"vm":"one","last_seq":18446744073709551615,"heads":{},"starts":{},"current":null}"#,
            r#"{"version":2,"vm":"one","last_seq":0,"heads":{"main":"00000000-0000-0000-0000-000000000000"},"starts":{"main":"00000000-0000-0000-0000-000000000000"},"current":"nowhere"}"#,
            r#"{"version":2,"vm":"one","last_seq":0,"heads":{},"starts":{"../x":"0"},"current":""}"#,
            r#"{"version":3,"vm":"one","last_seq":0,"heads":{},"starts":{},"current":null}"#,
            r#"{"version":0}"#,
        ],
    };
    let chain = last_chain(bytes);
    let files = bodies.iter().map(|body| {
        let text = if name == LOG {
            let chain = Digest::of(&[chain.0.as_slice(), body.as_bytes()].concat());
            format!("{{\"chain\":\"{chain}\",\"body\":{body}}}\n")
        } else {
            let checksum = Digest::of(body.as_bytes());
            format!("{{\"checksum\":\"{checksum}\",\"body\":{body}}}\n")
        };
        let before = if name == LOG { bytes } else { &[] };
        let instead = Instead::Bytes([before, text.as_bytes()].concat());
        change(format!("forged {body}"), instead, Kind::Forged)
    });
    files.collect()
}

/// The chain in the last line of a log; zeros of anything else.
fn last_chain(bytes: &[u8]) -> Digest {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().last().unwrap_or_default();
    let chain = line
        .strip_prefix("{\"chain\":\"")
        .and_then(|rest| rest.get(..64));
    let chain = chain.and_then(|chain| chain.parse().ok());
    chain.unwrap_or(Digest([0; 32]))
}

fn attempt(tally: &mut Tally, said: &Said, (name, at): (&str, &RelPath), change: &Change) {
    let verdict = tally.count(name, &change.what, || {
        let tree = said.published.tree.snapshot();
        put(&tree, at, &change.instead).map_err(|error| error.to_string())?;
        judge(said, &tree, Some((name, change.kind)))?;
        let used = open(&tree).and_then(|store| go_on(said, &store));
        match used {
            Err(error) if matches!(change.kind, Kind::Damage | Kind::Torn) => {
                return Err(format!("nothing can be said any more: {error}"));
            }
            Ok(()) | Err(_) => {}
        }
        // Said anew: but for a log, of which nothing is ever written anew.
        whole(said, &open(&tree).map_err(|error| error.to_string())?)
    });
    if let Some(Err(why)) = verdict {
        tally.accept_wrong(name, format_args!("{}: {why}", change.what));
    }
}

/// Looks at a store of which one file was changed.
fn judge(said: &Said, tree: &MemBackend, changed: Option<(&str, Kind)>) -> Result<(), String> {
    let store = open(tree).map_err(|error| format!("the store does not open: {error}"))?;
    whole(said, &store)?;
    let kind_of = |name: &str| changed.and_then(|(file, kind)| (file == name).then_some(kind));
    access_is_right(said, &store, kind_of(ACCESS))?;
    machine_is_right(said, &store, kind_of(MACHINE))?;
    log_is_right(said, &store, kind_of(LOG))
}

fn access_is_right(said: &Said, store: &Store, kind: Option<Kind>) -> Result<(), String> {
    let access = store.read_access();
    let is_right = match kind {
        None => access == said.access,
        Some(Kind::Forged) => access.mode & !0o444 == 0 && access.mode & 0o400 != 0,
        Some(_) => access == ReadAccess::default(),
    };
    if is_right {
        return Ok(());
    }
    Err(format!("the access is {access:?}"))
}

fn machine_is_right(said: &Said, store: &Store, kind: Option<Kind>) -> Result<(), String> {
    let branches = match store.branches(&said.one) {
        // Of a later version: nobody here knows which there are.
        Err(error) if kind == Some(Kind::Forged) && error.kind() == ErrorKind::TooNew => {
            return Ok(());
        }
        branches => branches.map_err(|error| error.to_string())?,
    };
    let main = branches
        .iter()
        .find(|branch| branch.name == BranchName::main());
    if main.and_then(|main| main.head) != Some(said.head) {
        return Err(format!("main is {main:?}"));
    }
    let next = store.branch_for_next(&said.one);
    let is_right = match kind {
        None => next == said.current,
        Some(Kind::Forged) => true,
        Some(_) => next == BranchName::main(),
    };
    if is_right {
        return Ok(());
    }
    Err(format!("the current branch is {next}"))
}

fn log_is_right(said: &Said, store: &Store, kind: Option<Kind>) -> Result<(), String> {
    let report = store.read_audit(Some(said.chain), &mut |_, _| {});
    let is_right = match (&report, kind) {
        (Ok(report), None | Some(Kind::Torn)) => report.ok,
        (Ok(report), Some(Kind::Damage)) => !report.ok,
        (Ok(report), Some(Kind::Forged)) => report.head_found == Some(true),
        (Ok(_), Some(Kind::Other)) | (Err(_), None) => false,
        (Err(_), Some(_)) => true,
    };
    if is_right {
        return Ok(());
    }
    Err(format!("the log is {report:?}"))
}

/// Says something more of each kind.
fn go_on(said: &Said, store: &Store) -> Fallible<()> {
    let intent = store.audit_intent(actor(), "go-on", &[], &[])?;
    store.set_read_access(said.access, true)?;
    let next = BranchName::new("next")?;
    store.create_branch(&said.one, &next, said.head)?;
    store.switch(&said.one, Some(&next))?;
    store.audit_outcome(&intent, "done", "", &[])?;
    let log = store.read_audit(None, &mut |_, _| {})?;
    if log.last_seq != intent.seq().saturating_add(1) || log.torn_bytes > 0 {
        return Err("the log does not go on".into());
    }
    if store.read_access() == said.access && store.branch_for_next(&said.one) == next {
        return Ok(());
    }
    Err("what was said did not stay".into())
}

/// That every snapshot is listed, and comes back.
fn whole(said: &Said, store: &Store) -> Result<(), String> {
    let listing = store.list(None).map_err(|error| error.to_string())?;
    let snapshots = &said.published.snapshots;
    if listing.snapshots.len() != snapshots.len() || !listing.damaged.is_empty() {
        return Err("not every snapshot is listed".to_owned());
    }
    for known in snapshots {
        match read_image(store, known) {
            Ok(image) if image == known.image => {}
            Ok(_) => return Err(format!("{} restores to other bytes", known.id)),
            Err(error) => return Err(format!("{} does not restore: {error}", known.id)),
        }
    }
    Ok(())
}

fn open(tree: &MemBackend) -> Fallible<Store> {
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    Ok(Store::open(backend, &options())?)
}
