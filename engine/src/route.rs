//! Which log a line belongs to: the token that decides, and the table from tokens to this shard's logs.

use hashbrown::HashMap;

use crate::scan;
use crate::wire::Token;
use crate::wire::entry::is_blank_byte;

/// A log of this shard: an index into its tables. Logs are never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u32);

/// The token that decides where a line goes, and its position: one at offset 0; else the leftmost with a blank on its
/// left; if none has one, the leftmost.
#[must_use]
pub fn deciding_token(line: &[u8]) -> Option<(usize, Token)> {
    let leftmost = scan::find_token(line, 0)?;
    let mut found = Some(leftmost);
    while let Some((at, _)) = found {
        if at == 0 || is_blank_byte(line[at - 1]) {
            return found;
        }
        found = scan::find_token(line, at + 1);
    }
    Some(leftmost)
}

/// From token to log. Clients choose tokens, so the hash is keyed.
#[derive(Debug, Default)]
pub struct Router {
    table: HashMap<Token, LogId, ahash::RandomState>,
}

impl Router {
    /// The token's log, if there is one.
    #[must_use]
    pub fn lookup(&self, token: Token) -> Option<LogId> {
        self.table.get(&token).copied()
    }

    /// Adds a log.
    pub fn insert(&mut self, token: Token, log: LogId) {
        let before = self.table.insert(token, log);
        debug_assert!(before.is_none(), "a token names one log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
    const U: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn decided(line: &str) -> Option<(usize, String)> {
        deciding_token(line.as_bytes()).map(|(at, token)| (at, token.to_string()))
    }

    #[test]
    fn offset_zero_decides_then_a_blank_then_the_leftmost() {
        assert_eq!(decided(&format!("{U} and {T}")), Some((0, U.into())));
        assert_eq!(decided(&format!("id={U} {T} x")), Some((40, T.into())));
        assert_eq!(decided(&format!("id={U},{T} x")), Some((3, U.into())));
        assert_eq!(decided("no token"), None);
    }
}
