//! How long a file and a function may be.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Violation;
use crate::source_tree::SourceFile;

/// Finds files and functions that are too long. Files of tests may hold long tables of cases.
pub(super) fn check(file: &SourceFile) -> Vec<Violation> {
    let mut violations = Vec::new();
    let line_count = file.text.lines().count();
    let is_exempt = LONG_FILES.iter().any(|(path, _)| *path == file.path);
    if line_count > MAX_FILE_LINES && !is_exempt && !file.is_test() {
        let message = format!("{line_count} lines, at most {MAX_FILE_LINES}: one noun a file");
        violations.push(Violation::new(
            &file.path,
            line_count,
            "file-length",
            message,
        ));
    }
    if let Some(syntax) = file.syntax().filter(|_| !file.is_test()) {
        let mut finder = LongFunctions {
            path: &file.path,
            violations,
        };
        finder.visit_file(syntax);
        violations = finder.violations;
    }
    violations
}

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;

/// Files that may be longer, each with the reason.
const LONG_FILES: [(&str, &str); 0] = [];

struct LongFunctions<'a> {
    path: &'a str,
    violations: Vec<Violation>,
}

impl LongFunctions<'_> {
    fn measure(&mut self, name: &syn::Ident, from: Span, body: Span) {
        let line_count = body.end().line - from.start().line + 1;
        if line_count > MAX_FUNCTION_LINES {
            let message = format!("{name} has {line_count} lines, at most {MAX_FUNCTION_LINES}");
            let line = from.start().line;
            self.violations
                .push(Violation::new(self.path, line, "function-length", message));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig.ident, item.sig.span(), item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.sig.span(), item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.measure(&item.sig.ident, item.sig.span(), body.span());
        }
        visit::visit_trait_item_fn(self, item);
    }
}

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
    fn a_long_file_is_found_unless_it_holds_tests() {
        let long = "// line\n".repeat(MAX_FILE_LINES + 1);
        assert_eq!(rules("src/a.rs", &long), ["file-length"]);
        assert!(rules("src/a.rs", &long[8..]).is_empty());
        assert!(rules("src/a/tests.rs", &long).is_empty());
    }

    #[test]
    fn a_long_function_is_found_wherever_it_is() {
        let body = |lines: usize| format!("{{\n{}}}", "work();\n".repeat(lines));
        let long = body(MAX_FUNCTION_LINES - 1);
        assert!(rules("a.rs", &format!("fn f() {}", body(MAX_FUNCTION_LINES - 2))).is_empty());
        assert_eq!(
            rules("a.rs", &format!("fn f() {long}")),
            ["function-length"]
        );
        assert_eq!(
            rules("a.rs", &format!("impl A {{ fn f() {long} }}")),
            ["function-length"]
        );
        assert_eq!(
            rules("a.rs", &format!("trait A {{ fn f() {long} }}")),
            ["function-length"]
        );
        assert_eq!(
            rules("a.rs", &format!("mod m {{ fn f() {long} }}")),
            ["function-length"]
        );
    }
}
