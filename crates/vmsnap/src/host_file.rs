//! What a host offers, as a file that another host or a scheduler reads.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use snapshot_format::state::Fingerprint;
use snapshot_format::{Digest, StatePayload};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::input::read_file;

/// The name of the document.
pub(crate) const SCHEMA: &str = "vmsnap.host.v1";

/// The longest file: the fingerprint twice, and names.
const MAX_HOST_FILE_BYTES: u64 = 1 << 20;

/// The document, apart from the name of its schema.
#[derive(Serialize, Debug)]
pub(crate) struct HostFile<'a> {
    /// For people and for other programs: what `payload` says.
    host: &'a Fingerprint,
    payload: Payload,
}

/// The fingerprint as a section of a snapshot carries it: of a version, and checked whole.
#[derive(Serialize, Deserialize, Debug)]
struct Payload {
    version: u16,
    digest: String,
    bytes: String,
}

/// What is read of the document.
#[derive(Deserialize)]
struct Read {
    schema: String,
    #[serde(default)]
    host: serde_json::Map<String, serde_json::Value>,
    payload: Payload,
}

impl<'a> HostFile<'a> {
    pub(crate) fn new(host: &'a Fingerprint) -> Self {
        let bytes = host.encode();
        let payload = Payload {
            version: Fingerprint::VERSION,
            digest: Digest::of(&bytes).to_string(),
            bytes: bytes.iter().fold(String::new(), |mut text, byte| {
                // Writing to a string cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            }),
        };
        Self { host, payload }
    }
}

/// Reads what the host offers that wrote the file `path`.
pub(crate) fn read(path: &Path) -> Result<Fingerprint, Failure> {
    let text = read_file("host file", path, MAX_HOST_FILE_BYTES)?;
    parse(&text).map_err(|failure| failure.at(path))
}

fn parse(text: &[u8]) -> Result<Fingerprint, Failure> {
    let hint = "write one with `vmsnap check --print-host`";
    let usage = |problem: String| Failure::usage(problem).hint(hint);
    let read: Read = serde_json::from_slice(text)
        .map_err(|error| usage(format!("this is no description of a host: {error}")))?;
    if read.schema != SCHEMA {
        let problem = format!("its schema is {:?}, and {SCHEMA} is needed", read.schema);
        return Err(usage(problem));
    }
    let bytes = unhex(&read.payload.bytes)
        .ok_or_else(|| Failure::new(Exit::Corrupt, "its payload is not hexadecimal"))?;
    if Digest::of(&bytes).to_string() != read.payload.digest {
        let problem = "its payload is not what was written";
        return Err(Failure::new(Exit::Corrupt, problem).hint(hint));
    }
    if read.payload.version > Fingerprint::VERSION {
        let problem = format!(
            "it was written by a later version: its payload has version {}, and {} is the last \
             that is known here",
            read.payload.version,
            Fingerprint::VERSION
        );
        return Err(Failure::new(Exit::TooNew, problem));
    }
    let host = Fingerprint::decode(read.payload.version, &bytes)
        .map_err(|error| Failure::because(Exit::Corrupt, &error))?;
    match edited(&read.host, &host) {
        None => Ok(host),
        Some(field) => {
            let problem = format!("its field `{field}` says something else than its payload");
            Err(Failure::new(Exit::Corrupt, problem).hint(hint))
        }
    }
}

/// The first field that people read and that is not what the payload says: it was edited. An
/// earlier version may have had fewer fields.
fn edited(
    shown: &serde_json::Map<String, serde_json::Value>,
    host: &Fingerprint,
) -> Option<String> {
    let says = serde_json::to_value(host).unwrap_or_default();
    let mut fields = shown.iter();
    let found = fields.find(|(field, value)| says.get(field) != Some(value));
    found.map(|(field, _)| field.clone())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs
        .iter()
        .map(|&[high, low]| u8::try_from(digit(high)? << 4 | digit(low)?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Fingerprint {
        Fingerprint {
            arch: 1,
            vendor: "AuthenticAMD".into(),
            msrs: vec![0x10, 0xc000_0080],
            ..Fingerprint::default()
        }
    }

    fn document(host: &Fingerprint) -> serde_json::Value {
        let mut document = serde_json::to_value(HostFile::new(host)).unwrap();
        document["schema"] = SCHEMA.into();
        document
    }

    fn read_back(document: &serde_json::Value) -> Result<Fingerprint, Exit> {
        parse(document.to_string().as_bytes()).map_err(|failure| failure.exit)
    }

    // spec: RES-17
    #[test]
    fn a_host_survives_its_file() {
        let document = document(&host());
        assert_eq!(document["host"]["vendor"], "AuthenticAMD");
        assert_eq!(read_back(&document).unwrap(), host());
    }

    // spec: RES-17
    #[test]
    fn a_host_file_that_is_not_what_was_written_is_refused() {
        type Change = fn(&mut serde_json::Value);
        let changes: [(Change, Exit); 9] = [
            (|d| d["schema"] = "vmsnap.host.v9".into(), Exit::Usage),
            (|d| d["payload"] = 7.into(), Exit::Usage),
            (|d| d["host"] = 7.into(), Exit::Usage),
            (|d| d["host"]["vendor"] = "G".into(), Exit::Corrupt),
            (|d| d["host"]["wings"] = 2.into(), Exit::Corrupt),
            (|d| d["payload"]["version"] = 9.into(), Exit::TooNew),
            (|d| d["payload"]["bytes"] = "0".into(), Exit::Corrupt),
            (|d| d["payload"]["bytes"] = "zz".into(), Exit::Corrupt),
            (|d| d["payload"]["bytes"] = "00".into(), Exit::Corrupt),
        ];
        for (change, exit) in changes {
            let mut document = document(&host());
            change(&mut document);
            assert_eq!(read_back(&document), Err(exit), "{document}");
        }
        // An earlier version showed less.
        let mut earlier = document(&host());
        earlier["host"].as_object_mut().unwrap().remove("vendor");
        assert_eq!(read_back(&earlier), Ok(host()));
        // Bytes with a digest of their own, that are no fingerprint.
        let mut lie = document(&host());
        lie["payload"]["bytes"] = "ffff".into();
        lie["payload"]["digest"] = Digest::of(&[0xff, 0xff]).to_string().into();
        assert_eq!(read_back(&lie), Err(Exit::Corrupt));
        assert_eq!(
            parse(b"{").map_err(|failure| failure.exit),
            Err(Exit::Usage)
        );
    }
}
