//! Numbers of bytes and lengths of time as people type and read them.

use std::time::Duration;

/// Reads `4096`, `0x1000`, `64K`, `2M`, `1GiB`: suffixes are powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no number of bytes: write 4096, 0x1000, 64K, 2M or 1G");
    if let Some(digits) = text.strip_prefix("0x") {
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let value = u64::from_str_radix(digits, 16).map_err(|_| bad())?;
        return if plain { Ok(value) } else { Err(bad()) };
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let shift = match suffix {
        "" | "B" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err(bad()),
    };
    let value: u64 = digits.parse().map_err(|_| bad())?;
    value.checked_mul(1 << shift).ok_or_else(bad)
}

/// Reads `90s`, `30m`, `12h`, `7d`, `2w`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no length of time: write 90s, 30m, 12h, 7d or 2w");
    let unit = text.chars().next_back().ok_or_else(bad)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        'w' => 7 * 24 * 3600,
        _ => return Err(bad()),
    };
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let count = digits.parse().ok().filter(|_| plain);
    let whole = count.and_then(|count: u64| count.checked_mul(seconds));
    whole.map(Duration::from_secs).ok_or_else(bad)
}

/// `512 B`, `4.0 KiB`, `1.5 GiB`: one decimal, powers of 1024.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut units = UNITS.iter().peekable();
    while tenths >= 10 * 1024 && units.len() > 1 {
        tenths /= 1024;
        units.next();
    }
    let unit = units.next().unwrap_or(&"EiB");
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// `1 page`, `2 pages`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_parse() {
        let cases = [
            ("90s", 90),
            ("30m", 1800),
            ("12h", 43_200),
            ("7d", 604_800),
            ("2w", 1_209_600),
        ];
        for (text, seconds) in cases {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "d",
            "7",
            "+7d",
            "-1d",
            "1.5h",
            "7 d",
            "99999999999999999999d",
            "7ä",
        ] {
            assert!(parse_duration(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn numbers_of_bytes_parse() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("0x1000", 4096),
            ("64K", 64 << 10),
            ("2MiB", 2 << 20),
            ("1g", 1 << 30),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "1.5G",
            "0x",
            "0x+1",
            "1 K",
            "99999999T",
            "1X",
        ] {
            assert!(parse_bytes(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn one_is_no_plural() {
        let words = [0, 1, 2].map(|count| counted(count, "page"));
        assert_eq!(words, ["0 pages", "1 page", "2 pages"]);
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(show_bytes(bytes), text);
        }
    }
}
