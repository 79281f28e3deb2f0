use proptest::prelude::*;

use super::*;

/// An image of 16 MiB in two regions.
fn layout() -> MemoryLayout {
    MemoryLayout::single(16 << 20).unwrap()
}

fn decoded(message: &str) -> Result<Vec<ServedRange>, HandshakeError> {
    decode(message.as_bytes(), &layout())
}

fn range(start: u64, len: u64, first: u64) -> ServedRange {
    ServedRange {
        addresses: start..start + len,
        first: PageIndex(first),
    }
}

// spec: HDL-01
#[test]
fn the_message_of_firecracker_is_understood() {
    let message = r#"[
        {"base_host_virt_addr":139992133894144,"size":8388608,"offset":0,"page_size":4096,"page_size_kib":4096},
        {"base_host_virt_addr":139992200000000,"size":8388608,"offset":8388608,"page_size":4096,"page_size_kib":4096}
    ]"#;
    let refused = decoded(message);
    assert!(matches!(
        refused,
        Err(HandshakeError::Unaligned { region: 1 })
    ));
    let message = message.replace("139992200000000", "139992200003584");
    let expected = [
        range(139_992_133_894_144, 8 << 20, 0),
        range(139_992_200_003_584, 8 << 20, 2048),
    ];
    assert_eq!(decoded(&message).unwrap(), expected);
}

// spec: HDL-01
#[test]
fn older_and_newer_versions_of_it_are_understood() {
    let expected = [range(0x7000_0000, 4096, 3)];
    let common = r#""base_host_virt_addr":1879048192,"size":4096,"offset":12288"#;
    for more in [
        "",
        r#","page_size_kib":4096"#,
        r#","page_size":4096"#,
        r#","page_size":4096,"slot":{"deep":[1,"}]"]}"#,
    ] {
        let message = format!("[{{{common}{more}}}]");
        assert_eq!(decoded(&message).unwrap(), expected, "{message}");
    }
}

// spec: HDL-02
#[test]
fn regions_that_cannot_be_are_refused() {
    let one = |base: u64, size: u64, offset: u64| {
        format!(r#"{{"base_host_virt_addr":{base},"size":{size},"offset":{offset}}}"#)
    };
    let refusal = |regions: &[String]| {
        let error = decoded(&format!("[{}]", regions.join(","))).unwrap_err();
        error.to_string()
    };
    let whole = 16 << 20;
    let cases = [
        (one(0x1000, 0, 0), "whole pages"),
        (one(0x1000, 4095, 0), "whole pages"),
        (one(0x1001, 4096, 0), "whole pages"),
        (one(0x1000, 4096, 1), "whole pages"),
        (one(0x1000, whole + 4096, 0), "ends behind"),
        (one(0x1000, 4096, whole), "ends behind"),
        (one(0x1000, 4096, u64::MAX - 4095), "ends behind"),
        (one(u64::MAX - 4095, 4096, 0), "ends behind"),
        (one(u64::MAX - 4095 - 4096, 8192, 0), "ends behind"),
    ];
    for (region, said) in cases {
        let told = refusal(std::slice::from_ref(&region));
        assert!(told.contains(said), "{region}: {told}");
    }
    let same_addresses = [one(0x10000, 8192, 0), one(0x11000, 4096, 0x8000)];
    assert!(refusal(&same_addresses).contains("addresses from 0x11000"));
    let same_pages = [one(0x10000, 8192, 0x7000), one(0x90000, 4096, 0x8000)];
    assert!(refusal(&same_pages).contains("offsets from 0x8000"));
    let huge = r#"[{"base_host_virt_addr":0,"size":2097152,"offset":0,"page_size":2097152}]"#;
    let told = decoded(huge).unwrap_err().to_string();
    assert!(told.contains("pages of 2097152 bytes"), "{told}");
}

// spec: HDL-02
#[test]
fn no_regions_and_too_many_are_refused() {
    assert!(matches!(decoded("[]"), Err(HandshakeError::Count(0))));
    let region = |index: usize| {
        let base = 0x10_0000 + index * 4096;
        format!(
            r#"{{"base_host_virt_addr":{base},"size":4096,"offset":{}}}"#,
            index * 4096
        )
    };
    let message = |count| format!("[{}]", (0..count).map(region).collect::<Vec<_>>().join(","));
    assert_eq!(decoded(&message(MAX_REGIONS)).unwrap().len(), MAX_REGIONS);
    let refused = decoded(&message(MAX_REGIONS + 1));
    assert!(matches!(refused, Err(HandshakeError::Count(1025))));
}

// spec: HDL-02
#[test]
fn what_is_no_list_of_regions_is_refused() {
    let region = r#"{"base_host_virt_addr":4096,"size":4096,"offset":0}"#;
    for message in [
        String::new(),
        "{}".into(),
        "[1]".into(),
        "[[]]".into(),
        region.into(),
        format!("[{region}]]"),
        r#"[{"base_host_virt_addr":4096,"size":4096}]"#.into(),
        region.replace("4096,", "-4096,"),
        format!("[{}]", region.replace("4096,", "\"4096\",")),
        format!("[{}]", region.replace("4096,", "18446744073709551616,")),
        "[".repeat(10_000),
    ] {
        assert!(
            matches!(decoded(&message), Err(HandshakeError::Json(_))),
            "{message}"
        );
    }
}

#[test]
fn what_is_encoded_is_decoded() {
    let ranges = vec![
        range(0x7f00_0000_0000, 1 << 20, 256),
        range(0x4000, 4096, 0),
    ];
    let message = encode(&ranges).unwrap();
    assert_eq!(decode(&message, &layout()).unwrap(), ranges);
}

proptest! {
    // spec: HDL-02
    #[test]
    fn what_is_accepted_lies_in_the_image_and_apart(
        regions in prop::collection::vec((0..64_u64, 0..40_u64, 0..64_u64, 0..3_u64), 1..6),
    ) {
        // An image of 48 pages, so that regions often fit and often do not.
        let layout = MemoryLayout::single(48 * PAGE_BYTES).unwrap();
        let text = |(base, size, offset, odd): &(u64, u64, u64, u64)| {
            let [base, size, offset] = [*base, *size, *offset].map(|pages| pages * PAGE_BYTES);
            let base = if *odd == 2 { base + 1 } else { base };
            format!(r#"{{"base_host_virt_addr":{base},"size":{size},"offset":{offset}}}"#)
        };
        let message = format!("[{}]", regions.iter().map(text).collect::<Vec<_>>().join(","));
        if let Ok(ranges) = decode(message.as_bytes(), &layout) {
            let mut addresses = std::collections::BTreeSet::new();
            let mut pages = std::collections::BTreeSet::new();
            for range in ranges {
                prop_assert!(range.pages().end().0 <= 48 && !range.addresses.is_empty());
                for step in 0..range.pages().count {
                    prop_assert!(addresses.insert(range.addresses.start + step * PAGE_BYTES));
                    prop_assert!(pages.insert(range.first.0 + step));
                }
            }
        }
    }

    #[test]
    fn no_bytes_cause_a_panic(message in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&message, &layout());
    }
}
