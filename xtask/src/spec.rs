//! `spec`: every rule of `specs/` is named by a test, and every named rule exists.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::failure::Failure;
use crate::source_tree::{self, SourceFile};
use crate::tidy::{self, Violation};

/// Compares the rules with the tests.
pub(crate) fn run() -> Result<(), Failure> {
    let files = source_tree::read(&source_tree::root())?;
    let (violations, rule_count) = check(&files);
    println!("spec: {rule_count} rules");
    tidy::report("spec", files.len(), violations)
}

fn check(files: &[SourceFile]) -> (Vec<Violation>, usize) {
    let mut violations = Vec::new();
    let mut rules = BTreeMap::new();
    for file in files.iter().filter(|file| is_spec(&file.path)) {
        if file.text.lines().count() > MAX_SPEC_LINES {
            let message = format!("more than {MAX_SPEC_LINES} lines");
            violations.push(Violation::new(
                &file.path,
                MAX_SPEC_LINES,
                "spec-length",
                message,
            ));
        }
        for (line, id) in defined(&file.text) {
            if let Some((path, first)) = rules.insert(id, (&file.path, line)) {
                let message = format!("{id} is defined in {path}:{first} too");
                violations.push(Violation::new(&file.path, line, "spec-rule", message));
            }
        }
    }
    let mut tested = BTreeSet::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for (line, id) in named(&file.text) {
            if !rules.contains_key(id) {
                let message = format!("no spec defines {id}");
                violations.push(Violation::new(&file.path, line, "spec-rule", message));
            }
            if is_at_test(file, line) {
                tested.insert(id);
            } else {
                let message = format!("{id} is named, but not at a test");
                violations.push(Violation::new(&file.path, line, "spec-rule", message));
            }
        }
    }
    for (id, (path, line)) in rules.iter().filter(|(id, _)| !tested.contains(*id)) {
        let message = format!("{id} has no test with a line `// spec: {id}`");
        violations.push(Violation::new(path, *line, "spec-rule", message));
    }
    (violations, rules.len())
}

fn is_spec(path: &str) -> bool {
    path.starts_with("specs/") && source_tree::extension(path) == "md"
}

/// The rules that a spec defines: an id at the beginning of a line, of an item or of a table row.
fn defined(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        }
        let line = line.trim_start_matches(['-', '*', '|', '#', '`', ' ']);
        let id = leading_id(line).filter(|_| !is_fenced)?;
        Some((index + 1, id))
    })
}

/// The rules that comments of the form `// spec: A-01, B-02` name.
fn named(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(index, line)| {
        let list = line
            .trim_start()
            .strip_prefix("// spec: ")
            .unwrap_or_default();
        let ids = list.split([',', ' ']).filter(|id| !id.is_empty());
        ids.map(move |id| (index + 1, id))
    })
}

/// Two to five capitals, a dash, two digits, and then no letter, digit or dash.
fn leading_id(line: &str) -> Option<&str> {
    let dash = line.find('-').filter(|dash| (2..=5).contains(dash))?;
    let (area, number) = (line.get(..dash)?, line.get(dash + 1..dash + 3)?);
    let is_id = area.bytes().all(|byte| byte.is_ascii_uppercase())
        && number.bytes().all(|byte| byte.is_ascii_digit());
    let after = line.get(dash + 3..)?.bytes().next();
    let ends = !after.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    line.get(..dash + 3).filter(|_| is_id && ends)
}

/// Whether a comment at `line` is in a test, or directly above one.
fn is_at_test(file: &SourceFile, line: usize) -> bool {
    let Some(syntax) = file.syntax() else {
        return false;
    };
    let mut tests = Tests::default();
    tests.visit_file(syntax);
    let comments = file.text.lines().skip(line);
    let below = comments
        .take_while(|text| text.trim_start().starts_with("//"))
        .count();
    let next = line + below + 1;
    tests
        .0
        .iter()
        .any(|&(start, end)| start == next || (start..=end).contains(&line))
}

/// First and last line of each test function, and of each `proptest!`, which holds some.
#[derive(Default)]
struct Tests(Vec<(usize, usize)>);

impl Tests {
    fn add(&mut self, attributes: &[syn::Attribute], span: Span) {
        let first = attributes.first().map_or(span, Spanned::span);
        self.0.push((first.start().line, span.end().line));
    }
}

impl<'ast> Visit<'ast> for Tests {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if item
            .attrs
            .iter()
            .any(|attribute| attribute.path().is_ident("test"))
        {
            self.add(&item.attrs, item.span());
        }
        visit::visit_item_fn(self, item);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if item
            .mac
            .path
            .segments
            .last()
            .is_some_and(|segment| segment.ident == "proptest")
        {
            self.add(&item.attrs, item.span());
        }
    }
}

const MAX_SPEC_LINES: usize = 250;

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(spec: &str, code: &str) -> Vec<String> {
        let files = [
            SourceFile::new("specs/01-a.md", spec),
            SourceFile::new("src/a.rs", code),
        ];
        check(&files)
            .0
            .into_iter()
            .map(|violation| violation.to_string())
            .collect()
    }

    const SPEC: &str = "# Envelope\n\n- **ENV-01** A reader MUST.\nSee ENV-09 and CRC-32C.\n";

    #[test]
    fn a_rule_with_its_test_passes() {
        for code in [
            "// spec: ENV-01\n#[test]\nfn a() {}\n",
            "// spec: ENV-01\n// why\n#[test]\nfn a() {}\n",
            "#[test]\nfn a() {\n    // spec: ENV-01\n}\n",
            "proptest! {\n    // spec: ENV-01\n    #[test]\n    fn a(x in 0..1) {}\n}\n",
        ] {
            assert_eq!(messages(SPEC, code), [""; 0], "{code}");
        }
    }

    #[test]
    fn a_rule_without_a_test_is_found() {
        let found = messages(SPEC, "// spec:ENV-01\n#[test]\nfn a() {}\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("specs/01-a.md:3: "), "{found:?}");
    }

    #[test]
    fn a_name_without_a_rule_and_a_name_away_from_tests_are_found() {
        let code = "// spec: ENV-01, ENV-02\n#[test]\nfn a() {}\n";
        assert_eq!(messages(SPEC, code).len(), 1);
        let found = messages(SPEC, "// spec: ENV-01\nfn not_a_test() {}\n");
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_rule_that_is_defined_twice_is_found() {
        let code = "// spec: ENV-01\n#[test]\nfn a() {}\n";
        let found = messages(&format!("{SPEC}| ENV-01 | again |\n"), code);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn ids_have_one_form() {
        for line in ["ENV-01 A", "AB-12", "ABCDE-99: x", "PUB-03` x"] {
            assert!(leading_id(line).is_some(), "{line}");
        }
        for line in [
            "E-01",
            "ABCDEF-01",
            "ENV-1",
            "ENV-012",
            "Env-01",
            "CRC-32C",
            "AB-12-3",
            "",
        ] {
            assert!(leading_id(line).is_none(), "{line}");
        }
    }
}
