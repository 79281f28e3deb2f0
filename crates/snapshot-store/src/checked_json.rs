//! JSON files whose every byte is covered by a digest.
//!
//! `{"checksum":"<64 hexadecimal digits>","body":…}` and a newline. The checksum is the BLAKE3
//! digest of the bytes of the body, as they stand.

use serde::Serialize;
use serde::de::DeserializeOwned;
use snapshot_format::Digest;

/// The largest file that is read.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// A file that cannot be taken for true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Not what was written.
    Corrupt(String),
    /// Written by a later version.
    TooNew {
        /// Its version.
        found: u32,
        /// The last one that this build reads.
        supported: u32,
    },
}

const BEFORE_DIGEST: &str = "{\"checksum\":\"";
const BEFORE_BODY: &str = "\",\"body\":";
const AFTER_BODY: &str = "}\n";

/// What every body begins with: the version of its other fields.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// The bytes of a file that holds `body`.
pub(crate) fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_string(body)?;
    let digest = Digest::of(body.as_bytes());
    Ok(format!("{BEFORE_DIGEST}{digest}{BEFORE_BODY}{body}{AFTER_BODY}").into_bytes())
}

/// The body of a file, if its bytes are those that were written and its version is known.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], supported: u32) -> Result<T, Fault> {
    let body = checked_body(bytes)
        .ok_or_else(|| Fault::Corrupt("its checksum does not fit its content".to_owned()))?;
    let malformed = |error: serde_json::Error| Fault::Corrupt(error.to_string());
    let Versioned { version } = serde_json::from_str(body).map_err(malformed)?;
    if version > supported {
        return Err(Fault::TooNew {
            found: version,
            supported,
        });
    }
    serde_json::from_str(body).map_err(malformed)
}

fn checked_body(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (digest, rest) = text.strip_prefix(BEFORE_DIGEST)?.split_once(BEFORE_BODY)?;
    let body = rest.strip_suffix(AFTER_BODY)?;
    (digest.parse() == Ok(Digest::of(body.as_bytes()))).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Body {
        version: u32,
        text: String,
    }

    fn body(version: u32) -> Body {
        Body {
            version,
            text: "a \"quoted\" word }".into(),
        }
    }

    // spec: STO-08
    #[test]
    fn any_flipped_bit_and_any_cut_is_found() {
        let bytes = encode(&body(1)).unwrap();
        assert_eq!(decode::<Body>(&bytes, 1), Ok(body(1)));
        for at in 0..bytes.len() {
            assert!(decode::<Body>(&bytes[..at], 1).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(decode::<Body>(&flipped, 1).is_err(), "bit {bit} at {at}");
            }
        }
    }

    // spec: STO-08
    #[test]
    fn a_later_version_is_named_only_when_the_checksum_fits() {
        let mut bytes = encode(&body(2)).unwrap();
        assert_eq!(
            decode::<Body>(&bytes, 1),
            Err(Fault::TooNew {
                found: 2,
                supported: 1
            })
        );
        bytes[20] ^= 1;
        assert!(matches!(decode::<Body>(&bytes, 1), Err(Fault::Corrupt(_))));
    }
}
