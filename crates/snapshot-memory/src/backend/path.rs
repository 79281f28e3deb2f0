//! Relative paths of plain components.

use std::fmt;

/// A path below a backend's root: components joined by `/`, none of them empty, `.` or `..`.
///
/// Components hold ASCII letters, digits, `.`, `_` and `-`, at most 200 bytes each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(String);

/// A text that cannot be one component of a path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name:?} cannot name a file here: 1 to 200 of A-Z a-z 0-9 . _ - are allowed, not . or ..")]
pub struct InvalidName {
    /// What was given.
    pub name: String,
}

impl RelPath {
    /// The root itself.
    #[must_use]
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// This path and one more component.
    pub fn join(&self, name: &str) -> Result<Self, InvalidName> {
        if !is_component(name) {
            return Err(InvalidName {
                name: name.to_owned(),
            });
        }
        Ok(if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}/{name}", self.0))
        })
    }

    /// The path without its last component; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        match self.0.rsplit_once('/') {
            Some((parent, _)) => Some(Self(parent.to_owned())),
            None if self.0.is_empty() => None,
            None => Some(Self::root()),
        }
    }

    /// The last component; empty for the root.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The path as text, without a leading `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({:?})", self.0)
    }
}

/// Whether `name` can be one component of a path.
pub(super) fn is_component(name: &str) -> bool {
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    plain && !matches!(name, "" | "." | "..") && name.len() <= 200
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_that_could_escape_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0b", "ä", " ", &"x".repeat(201)] {
            assert!(RelPath::root().join(name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn parent_and_name_take_a_path_apart() {
        let path = RelPath::root().join("a").unwrap().join(".b-1").unwrap();
        assert_eq!(path.as_str(), "a/.b-1");
        assert_eq!(path.name(), ".b-1");
        assert_eq!(path.parent().unwrap().as_str(), "a");
        assert_eq!(path.parent().unwrap().parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
    }
}
