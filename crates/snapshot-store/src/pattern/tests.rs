use super::*;
use crate::error::ErrorKind;
use proptest::prelude::*;

fn name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

// spec: TRE-15
#[test]
fn a_pattern_means_the_names_that_it_says() {
    let cases = [
        ("*", "a", true),
        ("nightly-*", "Nightly-0001", true),
        ("nightly-*", "weekly-1", false),
        ("*-7", "a-7-7", true),
        ("*-7", "a-7-8", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("a**c", "ac", true),
        ("a", "ab", false),
        ("*a*b*", "xxaxxbxx", true),
        ("*a*b*", "xxbxxaxx", false),
    ];
    for (pattern, text, is_meant) in cases {
        let pattern: NamePattern = pattern.parse().unwrap();
        assert_eq!(pattern.matches(&name(text)), is_meant, "{pattern:?} {text}");
    }
    for text in ["", "a/b", "a b", "[a]", "ä", &"a".repeat(257)] {
        let error = text.parse::<NamePattern>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
    }
}

/// The definition, word by word; it may take long.
fn model(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|taken| model(rest, &text[taken..])),
        (Some((b'?', rest)), Some((_, behind))) => model(rest, behind),
        (Some((wanted, rest)), Some((byte, behind))) => wanted == byte && model(rest, behind),
        _ => false,
    }
}

proptest! {
    // spec: TRE-15
    #[test]
    fn patterns_are_those_of_the_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
        let found = matches(pattern.as_bytes(), text.as_bytes());
        prop_assert_eq!(found, model(pattern.as_bytes(), text.as_bytes()));
    }
}

// spec: TRE-16
#[test]
fn a_template_is_filled_with_what_the_snapshot_is() {
    let (vm, branch) = (VmName::new("web").unwrap(), BranchName::main());
    let fill = |text: &str, seq| {
        text.parse::<NameTemplate>()
            .unwrap()
            .fill(&vm, &branch, seq)
    };
    assert_eq!(fill("nightly", 1).unwrap(), name("nightly"));
    assert_eq!(
        fill("{vm}-{branch}-{seq}", 7).unwrap(),
        name("web-main-0007")
    );
    assert_eq!(fill("{seq}", 12_345).unwrap(), name("12345"));
    for text in [
        "", "{", "}{", "{seq", "{date}", "-{seq}", "a b", "a}", "{ seq}",
    ] {
        let error = text.parse::<NameTemplate>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
    }
    // The longest number decides, and the names that it is filled with.
    let long: NameTemplate = format!("{}{{seq}}", "a".repeat(120)).parse().unwrap();
    long.fill(&vm, &branch, 1).unwrap();
    assert_eq!(
        long.check(&vm, &branch).unwrap_err().kind(),
        ErrorKind::Usage
    );
    assert_eq!(long.to_string().len(), 125);
}
