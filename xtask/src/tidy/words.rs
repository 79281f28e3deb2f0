//! Words that mark unfinished work, names that say nothing, and paths of one machine.

use super::Violation;
use crate::source_tree::SourceFile;

/// Finds banned words in any text, and module names that name no thing.
pub(super) fn check(file: &SourceFile) -> Vec<Violation> {
    if file.path == OWN_PATH {
        return Vec::new();
    }
    let mut violations = Vec::new();
    if file.is_rust() && VAGUE_MODULES.contains(&file.module()) {
        let message = format!("{:?} is no noun of this project", file.module());
        violations.push(Violation::new(&file.path, 1, "module-name", message));
    }
    for (number, line) in file.lines() {
        for (word, why) in BANNED {
            if holds(line, word) {
                violations.push(Violation::new(
                    &file.path,
                    number,
                    "word",
                    format!("{word:?}: {why}"),
                ));
            }
        }
    }
    violations
}

/// Whether `line` holds `word`, not as a part of a longer word; capitals matter only in `word`s
/// that are all capitals.
fn holds(line: &str, word: &str) -> bool {
    let is_capital = word.bytes().all(|byte| byte.is_ascii_uppercase());
    let line = if is_capital {
        line.to_owned()
    } else {
        line.to_lowercase()
    };
    let is_letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    line.match_indices(word).any(|(start, _)| {
        let bytes = line.as_bytes();
        let end = start + word.len();
        let is_bounded_before = !word.starts_with(char::is_alphanumeric)
            || !is_letter(start.checked_sub(1).and_then(|before| bytes.get(before)));
        let is_bounded_after = !word.ends_with(char::is_alphanumeric) || !is_letter(bytes.get(end));
        is_bounded_before && is_bounded_after
    })
}

/// This file, which spells the words out.
const OWN_PATH: &str = "xtask/src/tidy/words.rs";

const VAGUE_MODULES: [&str; 7] = [
    "common", "helper", "helpers", "misc", "types", "util", "utils",
];

const BANNED: [(&str, &str); 10] = [
    ("TODO", UNFINISHED),
    ("FIXME", UNFINISHED),
    ("XXX", UNFINISHED),
    ("for now", UNFINISHED),
    ("placeholder", UNFINISHED),
    ("todo!", UNFINISHED),
    ("unimplemented!", UNFINISHED),
    ("#[ignore", "a test runs, or it is not there"),
    ("/root/", ONE_MACHINE),
    ("/home/", ONE_MACHINE),
];

const UNFINISHED: &str = "finish it, or return an error that says so";
const ONE_MACHINE: &str = "a path of one machine";

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let file = SourceFile::new(path, text);
        check(&file)
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn each_banned_word_is_found() {
        for (word, _) in BANNED {
            assert_eq!(
                rules("a.md", &format!("// {word} here")),
                ["word"],
                "{word}"
            );
        }
    }

    #[test]
    fn a_longer_word_is_no_banned_word() {
        assert!(
            rules(
                "a.md",
                "MASTODON XXXL for nowhere, todo list, displaceholder"
            )
            .is_empty()
        );
    }

    #[test]
    fn vague_module_names_are_found() {
        assert_eq!(rules("a/utils.rs", ""), ["module-name"]);
        assert_eq!(rules("a/common/mod.rs", ""), ["module-name"]);
        assert!(rules("a/layout.rs", "").is_empty());
    }
}
