//! META: what the data directory says about itself.
//!
//! ```text
//! format=2
//! node=7b0c1c9e-6f0a-4c55-9b43-0f3f2f0a9c11
//! ```
//! The format stands first and alone on its line, so that an engine can name a version that it does not know. A key
//! that a format does not have is damage: what adds one is a new format.

use std::fmt;

use uuid::Uuid;

/// The format that this engine writes, and the newest that it reads.
pub const FORMAT: u32 = 2;
/// The oldest that it reads: without journals.
pub const FORMAT_OLDEST: u32 = 1;

/// Names the data directory for ever, whatever host it moves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(Uuid);

impl NodeId {
    /// A new id from 16 random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// What META holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Version of what is in the directory.
    pub format: u32,
    /// Whose data this is.
    pub node: NodeId,
}

/// Why a META was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaError {
    /// Written in a format of another engine; the text after `format=`.
    UnknownFormat(String),
    /// Not a META at all.
    Malformed,
}

impl Meta {
    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("format={}\nnode={}\n", self.format, self.node)
    }

    /// Reads what [`Meta::text`] wrote.
    ///
    /// # Errors
    /// When the format is none that this engine reads, or the text is none of ours.
    pub fn parse(text: &str) -> Result<Self, MetaError> {
        let (first, rest) = text.split_once('\n').ok_or(MetaError::Malformed)?;
        let format = first.strip_prefix("format=").ok_or(MetaError::Malformed)?;
        let known = (FORMAT_OLDEST..=FORMAT).find(|known| known.to_string() == format);
        let format = known.ok_or_else(|| MetaError::UnknownFormat(format.to_owned()))?;
        let node = rest.strip_prefix("node=").and_then(|node| node.strip_suffix('\n'));
        let node = node.and_then(|node| Uuid::try_parse(node).ok()).ok_or(MetaError::Malformed)?;
        Ok(Self { format, node: NodeId(node) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back() {
        for format in [FORMAT_OLDEST, FORMAT] {
            let meta = Meta { format, node: NodeId::from_random([7; 16]) };
            assert_eq!(Meta::parse(&meta.text()), Ok(meta));
        }
    }

    #[test]
    fn another_format_is_named_and_damage_is_not() {
        assert_eq!(Meta::parse("format=12\nshards=3\n"), Err(MetaError::UnknownFormat("12".to_owned())));
        for text in ["", "format=1", "format=1\n", "format=1\nnode=7\n", "node=7\nformat=1\n"] {
            assert_eq!(Meta::parse(text), Err(MetaError::Malformed), "{text:?}");
        }
    }
}
