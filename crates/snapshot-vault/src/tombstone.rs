//! Packs that are going to be deleted.

use std::collections::BTreeSet;

use crate::error::FormatError;
use crate::fields::Fields;
use crate::frame::HEAD_BYTES;
use crate::id::ObjectId;
use crate::limits::MAX_CONDEMNED;

/// The body of a tombstone: how many packs, then their ids, ascending.
pub(crate) fn encode(packs: &BTreeSet<ObjectId>) -> Vec<u8> {
    let count = u32::try_from(packs.len()).unwrap_or(u32::MAX);
    let mut body = count.to_le_bytes().to_vec();
    body.extend(packs.iter().flat_map(|pack| pack.0));
    body
}

/// Checks the body of an object whose frame was found right.
pub(crate) fn parse(body: &[u8]) -> Result<BTreeSet<ObjectId>, FormatError> {
    let mut fields = Fields::new(body, HEAD_BYTES as u64);
    let count = fields.count(MAX_CONDEMNED, 16)?;
    let mut packs = BTreeSet::new();
    for _ in 0..count {
        let at = fields.offset();
        let pack = ObjectId(fields.array()?);
        if packs.last().is_some_and(|last| *last >= pack) {
            let rule = "packs are in ascending order";
            return Err(FormatError::invalid(at, rule, 0));
        }
        packs.insert(pack);
    }
    fields.finish()?;
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_survives_its_bytes_and_nothing_else_is_one() {
        let packs: BTreeSet<_> = (1..=3).map(|id| ObjectId([id; 16])).collect();
        let body = encode(&packs);
        assert_eq!(parse(&body), Ok(packs));
        for len in 0..body.len() {
            assert!(parse(&body[..len]).is_err(), "cut to {len}");
        }
        let mut twice = body;
        twice.copy_within(4..20, 20);
        assert!(parse(&twice).is_err());
    }
}
