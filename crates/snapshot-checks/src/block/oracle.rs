//! What a store holds, as the command itself says and as the bytes that it restores show.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::script::{ARCHIVES, Inputs, Set, VM};
use crate::mount::one_line;

/// The exit code of "no such store".
const NOT_FOUND: i32 = 3;

/// Asks the command what there is, and believes bytes only.
#[derive(Debug)]
pub(crate) struct Oracle {
    /// The command.
    vmsnap: PathBuf,
    /// Where restored images go.
    out: PathBuf,
    /// Arguments of every command.
    always: &'static [&'static str],
}

impl Oracle {
    /// An oracle that runs `vmsnap` and restores to `out`, a directory.
    pub(crate) fn new(vmsnap: &Path, out: &Path) -> Self {
        Self {
            vmsnap: vmsnap.to_owned(),
            out: out.to_owned(),
            always: &[],
        }
    }

    /// The same, for a store on a file system that may be one of several hosts.
    pub(crate) fn of_single_host(self) -> Self {
        let always = &["--single-host"];
        Self { always, ..self }
    }

    /// The command on the store `store`.
    pub(crate) fn command<I>(&self, store: &Path, arguments: I) -> Command
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = Command::new(&self.vmsnap);
        command.env_remove("VMSNAP_STORE").stdin(Stdio::null());
        command.args(["--json", "--quiet", "--store"]).arg(store);
        command.args(self.always).args(arguments);
        command
    }

    /// The snapshots in `store`, each verified, restored and compared with what it must be; or
    /// what is wrong with them.
    pub(crate) fn look(&self, store: &Path, inputs: &Inputs) -> Result<Set, String> {
        let listed = self.output(store, &["list"])?;
        if listed.status.code() == Some(NOT_FOUND) {
            return Ok(Set::new());
        }
        let document = document("list", &listed)?;
        if !is_empty(&document, "damaged") {
            return Err(format!("list finds damage: {}", document["damaged"]));
        }
        let verified = self.output(store, &["verify"])?;
        let report = self::document("verify", &verified)?;
        if report["ok"] != true || !is_empty(&report, "errors") {
            return Err(format!("verify finds errors: {}", report["errors"]));
        }
        let snapshots = document["snapshots"].as_array();
        let mut set = Set::new();
        for snapshot in snapshots.map(Vec::as_slice).unwrap_or_default() {
            let name = snapshot["name"].as_str().unwrap_or("without a name");
            let known = inputs.known(name).filter(|_| snapshot["vm"] == VM);
            let name = known.ok_or_else(|| format!("a snapshot {name:?} that nobody made"))?;
            self.compare(store, name, &[], inputs)?;
            if !set.insert(name) {
                return Err(format!("two snapshots are called {name}"));
            }
        }
        self.look_into_vault(store, inputs, &mut set)?;
        Ok(set)
    }

    /// The archives in the vault of `store`, if there is one, verified and restored likewise.
    fn look_into_vault(&self, store: &Path, inputs: &Inputs, set: &mut Set) -> Result<(), String> {
        let listed = self.output(store, &["vault", "list"])?;
        if listed.status.code() == Some(NOT_FOUND) {
            return Ok(());
        }
        let listed = document("vault list", &listed)?;
        if !is_empty(&listed, "damaged") {
            return Err(format!("vault list finds damage: {}", listed["damaged"]));
        }
        let verified = self.output(store, &["vault", "verify"])?;
        document("vault verify", &verified)?;
        let archives = listed["archives"].as_array().into_iter().flatten();
        for archive in archives.filter(|archive| archive["state"] == "live") {
            let known = ARCHIVES.iter().find(|(name, _)| archive["name"] == *name);
            let (name, archived) = known.ok_or_else(|| format!("nobody archived {archive}"))?;
            self.compare(store, name, &["--archived"], inputs)?;
            if !set.insert(archived) {
                return Err(format!("{name} is archived twice"));
            }
        }
        Ok(())
    }

    /// The identity of the snapshot `name`.
    pub(crate) fn id(&self, store: &Path, name: &str) -> Result<String, String> {
        let shown = self.output(store, &["show", &format!("{VM}/{name}")])?;
        let id = document("show", &shown)?["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| format!("{name} is shown without an id"))
    }

    /// Restores one snapshot and compares it byte for byte.
    fn compare(
        &self,
        store: &Path,
        name: &str,
        how: &[&str],
        inputs: &Inputs,
    ) -> Result<(), String> {
        let (memory, state) = (self.out.join("memory"), self.out.join("state"));
        let reference = format!("{VM}/{name}");
        let mut arguments: Vec<&OsStr> = vec![
            "restore".as_ref(),
            reference.as_ref(),
            "--memory".as_ref(),
            memory.as_ref(),
            "--state".as_ref(),
            state.as_ref(),
        ];
        arguments.extend(how.iter().map(OsStr::new));
        let restored = self.output(store, &arguments);
        let found = restored.and_then(|output| document("restore", &output));
        let outputs = [&memory, &state].map(|path| {
            let bytes = fs::read(path);
            // What is not there need not be removed.
            let _ = fs::remove_file(path);
            bytes.unwrap_or_default()
        });
        found?;
        if Some(outputs[0].as_slice()) != inputs.image(name) {
            return Err(format!("{name} restores to other memory than was imported"));
        }
        if outputs[1] != inputs.state() {
            return Err(format!(
                "{name} restores to another state than was imported"
            ));
        }
        Ok(())
    }

    fn output<S: AsRef<OsStr>>(&self, store: &Path, arguments: &[S]) -> Result<Output, String> {
        self.command(store, arguments)
            .output()
            .map_err(|error| format!("cannot start {}: {error}", self.vmsnap.display()))
    }
}

/// The JSON that a command printed; an error if it failed or printed anything else.
fn document(name: &str, output: &Output) -> Result<Value, String> {
    if !output.status.success() {
        let (said, complaint) = (one_line(&output.stdout), one_line(&output.stderr));
        return Err(format!(
            "{name} ends with {}: {said} {complaint}",
            output.status
        ));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{name} prints no JSON document: {error}"))
}

/// Whether the list `key` is there and empty.
fn is_empty(document: &Value, key: &str) -> bool {
    document[key].as_array().is_some_and(Vec::is_empty)
}
