//! The machine state of an import: sections that are known, or bytes that are kept.

use std::path::Path;

use snapshot_format::envelope::MAGIC;
use snapshot_format::state::DeviceState;
use snapshot_format::{DecodeError, ErrorKind, SectionPayload, StateFile, StatePayload, limits};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::input::read_file;

/// The kind of the device section that holds an opaque state file.
const IMPORTED_STATE: &str = "import-state";

/// The longest state file: half of the file that will hold it.
const MAX_STATE_BYTES: u64 = limits::MAX_ENVELOPE_BYTES / 2;

/// The sections that keep the state file `path`.
pub(super) fn sections(path: &Path) -> Result<Vec<SectionPayload>, Failure> {
    let bytes = read_file("state", path, MAX_STATE_BYTES)?;
    if bytes.starts_with(&MAGIC) {
        let file = StateFile::parse(&bytes).map_err(|error| {
            let exit = match error.kind() {
                ErrorKind::TooNew | ErrorKind::Unsupported => Exit::TooNew,
                _ => Exit::Corrupt,
            };
            Failure::because(exit, &error)
                .at(path)
                .at_offset(error.offset())
                .hint(error.hint())
        })?;
        return Ok(file.sections);
    }
    Ok(keep(&bytes))
}

/// Sections that keep `bytes` as they are, in as many parts as the cap on one asks for.
fn keep(bytes: &[u8]) -> Vec<SectionPayload> {
    let parts: Vec<&[u8]> = match bytes {
        [] => vec![bytes],
        _ => bytes.chunks(limits::MAX_DEVICE_BYTES).collect(),
    };
    let devices = (0..).zip(parts).map(|(instance, part)| DeviceState {
        kind: IMPORTED_STATE.to_owned(),
        instance,
        version: 1,
        bytes: part.to_vec(),
    });
    devices
        .map(|device| SectionPayload::of(device.instance, &device).with_critical(false))
        .collect()
}

/// The bytes that [`keep`] kept; `None` where the sections are a machine's own.
pub(crate) fn kept(sections: &[SectionPayload]) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut parts = Vec::new();
    for section in sections.iter().filter(|one| one.kind == DeviceState::KIND) {
        let device: DeviceState = section.value()?;
        if device.kind == IMPORTED_STATE {
            parts.push(device);
        }
    }
    parts.sort_by_key(|device| device.instance);
    let bytes = parts.iter().flat_map(|device| device.bytes.iter().copied());
    Ok((!parts.is_empty()).then(|| bytes.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: CLI-19
    // spec: CLI-25
    #[test]
    fn opaque_state_of_any_length_comes_back() {
        for len in [0, 1, limits::MAX_DEVICE_BYTES, limits::MAX_DEVICE_BYTES + 1] {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            let mut sections = keep(&bytes);
            sections.reverse();
            assert_eq!(kept(&sections), Ok(Some(bytes)), "{len} bytes");
        }
        assert_eq!(kept(&[]), Ok(None));
    }
}
