//! The lists of system calls in the code are those in the specification, and the other way round.

use std::collections::BTreeMap;

use super::Violation;
use crate::source_tree::SourceFile;

const SPEC: &str = "specs/17-embedding.md";

/// Lists by crate and name: where each stands, and its calls in order.
type Lists = BTreeMap<(String, String), (String, usize, Vec<String>)>;

/// Finds lists that are in one of the two only, or that differ.
pub(super) fn check(files: &[SourceFile]) -> Vec<Violation> {
    let spec = files.iter().find(|file| file.path == SPEC);
    let specified = spec.map(rows).unwrap_or_default();
    let coded: Lists = files.iter().flat_map(constants).collect();
    let mut violations = compare(&specified, &coded, "the code has no such list");
    let missing = format!("{SPEC} has no such list");
    violations.extend(compare(&coded, &specified, &missing));
    violations
}

fn compare(lists: &Lists, others: &Lists, missing: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for ((crate_name, name), (path, line, calls)) in lists {
        let other = others.get(&(crate_name.clone(), name.clone()));
        let message = match other {
            None => missing.to_owned(),
            Some((place, _, others)) if others != calls => {
                let lacking = calls.iter().filter(|call| !others.contains(call));
                let lacking: Vec<&str> = lacking.map(String::as_str).collect();
                format!("differs from {place}, which lacks {lacking:?} or has another order")
            }
            Some(_) => continue,
        };
        let message = format!("{crate_name}, {name}: {message}");
        violations.push(Violation::new(path, *line, "system-calls", message));
    }
    violations
}

/// The rows of the table: a crate and a name in the first column, calls in the second.
fn rows(spec: &SourceFile) -> Lists {
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    let mut lists = Lists::new();
    for (line, text) in spec.lines() {
        let mut cells = text.split('|').skip(1).map(quoted);
        let (Some(key), Some(calls)) = (cells.next(), cells.next()) else {
            continue;
        };
        if let [crate_name, name] = key.as_slice() {
            let key = (crate_name.clone(), name.clone());
            lists.insert(key, (spec.path.clone(), line, calls));
        }
    }
    lists
}

/// The constants of a module `syscalls` of a crate that are lists of names.
fn constants(file: &SourceFile) -> Lists {
    let crate_name = file.path.strip_prefix("crates/");
    let crate_name = crate_name.and_then(|path| path.strip_suffix("/src/syscalls.rs"));
    let (Some(crate_name), Some(syntax)) = (crate_name, file.syntax()) else {
        return Lists::new();
    };
    let lists = syntax.items.iter().filter_map(|item| {
        let syn::Item::Const(item) = item else {
            return None;
        };
        let syn::Expr::Reference(list) = &*item.expr else {
            return None;
        };
        let syn::Expr::Array(array) = &*list.expr else {
            return None;
        };
        let calls: Option<Vec<String>> = array.elems.iter().map(text).collect();
        let line = item.ident.span().start().line;
        let key = (crate_name.to_owned(), item.ident.to_string());
        Some((key, (file.path.clone(), line, calls?)))
    });
    lists.collect()
}

fn text(element: &syn::Expr) -> Option<String> {
    match element {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_tree;

    fn found(row: &str, code: &str) -> usize {
        let spec = SourceFile::new(SPEC, row);
        let code = SourceFile::new("crates/a/src/syscalls.rs", code);
        check(&[spec, code]).len()
    }

    // spec: EMB-03
    #[test]
    fn a_list_that_is_not_in_both_is_found() {
        let row = "| `a`, `READ` | `openat2` `read` |";
        let code = "pub const READ: &[&str] = &[\"openat2\", \"read\"];";
        assert_eq!(found(row, code), 0);
        assert_eq!(found("", code), 1);
        assert_eq!(found(row, ""), 1);
        assert_eq!(found(row, &code.replace("openat2", "openat")), 2);
    }

    #[test]
    fn the_lists_of_this_project_are_found() {
        let files = source_tree::read(&source_tree::root()).unwrap();
        let lists: Lists = files.iter().flat_map(constants).collect();
        let key = ("snapshot-memory".to_owned(), "CAPTURE".to_owned());
        assert!(lists.get(&key).is_some_and(|(.., calls)| calls.len() > 10));
    }
}
