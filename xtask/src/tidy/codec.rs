//! One file speaks to bitcode; frozen wire types may derive its traits, and no other file names it.

use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};

use super::Violation;
use crate::source_tree::SourceFile;

/// Finds uses of bitcode outside the codec.
pub(super) fn check(file: &SourceFile) -> Vec<Violation> {
    if file.path == CODEC || file.path == FORGER || !file.text.contains("bitcode") {
        return Vec::new();
    }
    let Ok(tokens) = TokenStream::from_str(&file.text) else {
        return Vec::new();
    };
    let mut uses = Vec::new();
    find(tokens, &mut uses);
    let may_derive = is_frozen(file.module());
    uses.retain(|(_, name)| !may_derive || !DERIVES.contains(&name.as_str()));
    let message = |name: &str| {
        if may_derive {
            format!("bitcode::{name}: a frozen wire type only derives Encode and Decode")
        } else {
            format!("bitcode::{name}: only {CODEC} speaks to bitcode")
        }
    };
    let broken =
        |(line, name): (usize, String)| Violation::new(&file.path, line, "codec", message(&name));
    uses.into_iter().map(broken).collect()
}

/// Collects every `bitcode::name`, and every name of a `bitcode::{…}`.
fn find(tokens: TokenStream, uses: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => find(group.stream(), uses),
            TokenTree::Ident(ident) if ident == "bitcode" => {
                let is_punct = |at, wanted| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == wanted);
                if is_punct(index + 1, ':') && is_punct(index + 2, ':') {
                    let line = ident.span().start().line;
                    uses.extend(names(tokens.get(index + 3)).map(|name| (line, name)));
                }
            }
            _ => {}
        }
    }
}

/// The name, or the names between braces.
fn names(token: Option<&TokenTree>) -> impl Iterator<Item = String> {
    let names: Vec<String> = match token {
        Some(TokenTree::Group(group)) => {
            let inner = group.stream().into_iter();
            inner
                .filter(|t| matches!(t, TokenTree::Ident(_)))
                .map(|t| t.to_string())
                .collect()
        }
        Some(token) => vec![token.to_string()],
        None => Vec::new(),
    };
    names.into_iter()
}

/// Whether a module is a frozen version: `v1`, `v2`, ….
fn is_frozen(module: &str) -> bool {
    let number = module.strip_prefix('v').unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

const CODEC: &str = "crates/snapshot-format/src/codec.rs";
/// A test that forges hostile payloads, which the codec has no business to make.
const FORGER: &str = "crates/snapshot-format/tests/amplification.rs";
const DERIVES: [&str; 2] = ["Decode", "Encode"];

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let file = SourceFile::new(path, text);
        check(&file)
            .into_iter()
            .map(|violation| violation.line)
            .collect()
    }

    #[test]
    fn bitcode_outside_the_codec_is_found() {
        let text = "fn f() {}\nfn g() { bitcode::encode(&1); }\n";
        assert_eq!(
            lines("crates/snapshot-format/src/manifest/mod.rs", text),
            [2]
        );
        assert_eq!(lines("a.rs", "use bitcode::{Decode, Encode};"), [1, 1]);
        assert_eq!(lines("a.rs", "#[derive(bitcode::Encode)]\nstruct A;"), [1]);
        assert!(lines(CODEC, text).is_empty());
        assert!(
            lines(
                "a.rs",
                "// bitcode::encode\nconst A: &str = \"bitcode::x\";"
            )
            .is_empty()
        );
    }

    #[test]
    fn a_frozen_type_derives_and_does_no_more() {
        let path = "crates/snapshot-format/src/manifest/v1.rs";
        assert!(
            lines(
                path,
                "#[derive(bitcode::Encode, bitcode::Decode)]\nstruct A;"
            )
            .is_empty()
        );
        assert_eq!(lines(path, "fn f() { bitcode::decode(b); }"), [1]);
    }
}
