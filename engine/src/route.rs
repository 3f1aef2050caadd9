//! Which log a line belongs to: the token that decides, the shard that owns the log, the table from tokens to logs.

use std::collections::HashSet;

use hashbrown::HashTable;

use crate::handover::ShardId;
use crate::scan;
use crate::segment::LogName;
use crate::wire::entry::is_blank_byte;
use crate::wire::{Reject, Token};

/// A log of this shard: an index into its tables. Logs are never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u32);

/// Tokens that may name a log. Clients choose what is looked up, so the hash is keyed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownTokens(HashSet<Token, ahash::RandomState>);

impl KnownTokens {
    /// Whether this is one of them.
    #[must_use]
    #[inline]
    pub fn contains(&self, token: Token) -> bool {
        self.0.contains(&token)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them are not among the others.
    #[must_use]
    pub fn not_in(&self, others: &Self) -> usize {
        self.0.iter().filter(|token| !others.contains(**token)).count()
    }
}

impl FromIterator<Token> for KnownTokens {
    fn from_iter<T: IntoIterator<Item = Token>>(tokens: T) -> Self {
        Self(tokens.into_iter().collect())
    }
}

/// The token that decides where a line goes, and its position: one at offset 0, known or not; else, of the known ones, the
/// leftmost with a blank on its left; if none has one, the leftmost.
///
/// # Errors
/// [`Reject::NoToken`], or [`Reject::UnknownToken`] if the line has tokens and the one that would decide is not known.
#[inline]
pub fn deciding_token(line: &[u8], is_known: impl Fn(Token) -> bool) -> Result<(usize, Token), Reject> {
    let mut at = scan::find_token(line, 0).ok_or(Reject::NoToken)?;
    let mut leftmost = Err(Reject::UnknownToken);
    loop {
        let token = scan::token_at_start(&line[at..]).ok_or(Reject::NoToken)?;
        let known = is_known(token);
        if known && (at == 0 || is_blank_byte(line[at - 1])) {
            return Ok((at, token));
        }
        if at == 0 {
            return leftmost;
        }
        if known && leftmost.is_err() {
            leftmost = Ok((at, token));
        }
        let Some(next) = scan::find_token(line, at + 1) else { return leftmost };
        at = next;
    }
}

/// Which shard owns a log, and under which hash its token is filed. The same for all shards of a process.
#[derive(Clone, Debug)]
pub struct Ownership {
    hasher: ahash::RandomState,
    shards: u16,
}

impl Ownership {
    /// Logs shared out over so many shards. Clients choose tokens, so the hash is keyed, anew for each process.
    #[must_use]
    pub fn over(shards: u16) -> Self {
        Self { hasher: ahash::RandomState::new(), shards }
    }

    /// The same with a key that is always the same one, for simulations.
    #[must_use]
    pub fn with_seed(shards: u16, seed: u64) -> Self {
        let [first, second] = [seed, !seed];
        Self { hasher: ahash::RandomState::with_seeds(first, second, 0, 0), shards }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The shard that owns the token's log.
    #[must_use]
    pub fn owner(&self, token: Token) -> ShardId {
        self.owner_of(self.hash(token))
    }

    /// The shard that owns a log, whatever it holds. Rejected lines of all shards come together at the first.
    #[must_use]
    pub fn owner_of_log(&self, log: LogName) -> ShardId {
        match log {
            LogName::Token(token) => self.owner(token),
            LogName::Rejected(_) => ShardId(0),
        }
    }

    fn hash(&self, token: Token) -> u64 {
        self.hasher.hash_one(token)
    }

    /// The upper half decides, by multiplication; tables use the lower bits and the topmost seven.
    fn owner_of(&self, hash: u64) -> ShardId {
        let upper = hash >> u32::BITS & u64::from(u32::MAX >> 7);
        let shard = (upper * u64::from(self.shards)) >> (u32::BITS - 7);
        ShardId(u16::try_from(shard).expect("less than the number of shards"))
    }
}

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a log of this shard.
    Mine(LogId),
    /// To a log that this shard would own, if there were one.
    New,
    /// To another shard.
    Foreign(ShardId),
}

/// From token to log.
#[derive(Debug)]
pub struct Router {
    ownership: Ownership,
    me: ShardId,
    table: HashTable<(Token, LogId)>,
}

impl Router {
    /// The router of one shard; it knows no log.
    #[must_use]
    pub fn new(ownership: Ownership, me: ShardId) -> Self {
        Self { ownership, me, table: HashTable::new() }
    }

    /// Where the token's lines go.
    #[must_use]
    pub fn route(&self, token: Token) -> Route {
        let hash = self.ownership.hash(token);
        let owner = self.ownership.owner_of(hash);
        if owner != self.me {
            return Route::Foreign(owner);
        }
        self.table.find(hash, |(known, _)| *known == token).map_or(Route::New, |&(_, log)| Route::Mine(log))
    }

    /// The shard that owns a log that has no token, if it is another one.
    #[must_use]
    pub fn foreign_owner(&self, log: LogName) -> Option<ShardId> {
        Some(self.ownership.owner_of_log(log)).filter(|owner| *owner != self.me)
    }

    /// Adds a log that this shard owns.
    pub fn insert(&mut self, token: Token, log: LogId) {
        debug_assert!(self.route(token) == Route::New, "a token names one log, of its owner");
        let Self { ownership, table, .. } = self;
        table.insert_unique(ownership.hash(token), (token, log), |(token, _)| ownership.hash(*token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
    const U: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn decided(line: &str) -> Result<(usize, String), Reject> {
        deciding_token(line.as_bytes(), |_| true).map(|(at, token)| (at, token.to_string()))
    }

    fn decided_knowing_t(line: &str) -> Result<usize, Reject> {
        let known: KnownTokens = [T.parse().unwrap()].into_iter().collect();
        let (at, token) = deciding_token(line.as_bytes(), |token| known.contains(token))?;
        assert_eq!(token.to_string(), T);
        Ok(at)
    }

    #[test]
    fn offset_zero_decides_then_a_blank_then_the_leftmost() {
        assert_eq!(decided(&format!("{U} and {T}")), Ok((0, U.into())));
        assert_eq!(decided(&format!("id={U} {T} x")), Ok((40, T.into())));
        assert_eq!(decided(&format!("id={U},{T} x")), Ok((3, U.into())));
        assert_eq!(decided("no token"), Err(Reject::NoToken));
    }

    #[test]
    fn only_known_tokens_decide_and_one_at_offset_zero_hides_them() {
        assert_eq!(decided_knowing_t(&format!("{T} and {U}")), Ok(0));
        assert_eq!(decided_knowing_t(&format!("{U} and {T}")), Err(Reject::UnknownToken));
        assert_eq!(decided_knowing_t(&format!("x {U} {T}")), Ok(39));
        assert_eq!(decided_knowing_t(&format!("x {U},{T}")), Ok(39));
        assert_eq!(decided_knowing_t(&format!("x,{T},{U} {T}")), Ok(76));
        assert_eq!(decided_knowing_t(&format!("x {U},{U}")), Err(Reject::UnknownToken));
        assert_eq!(decided_knowing_t("no token"), Err(Reject::NoToken));
    }

    #[test]
    fn lists_are_compared() {
        let known = |tokens: &[&str]| tokens.iter().map(|token| token.parse().unwrap()).collect::<KnownTokens>();
        assert_eq!((known(&[T, U]).not_in(&known(&[T])), known(&[T]).not_in(&known(&[T, U]))), (1, 0));
    }

    #[test]
    fn every_log_has_one_owner_and_owners_have_about_as_many() {
        let ownership = Ownership::over(7);
        let mut logs = [0_u32; 7];
        for number in 0..70_000_u128 {
            let token = Token::from_bytes(number.to_be_bytes());
            let owner = ownership.owner(token);
            logs[usize::from(owner.0)] += 1;
            let route = Router::new(ownership.clone(), owner).route(token);
            assert_eq!(route, Route::New);
        }
        assert!(logs.iter().all(|logs| (9_000..11_000).contains(logs)), "{logs:?}");
    }

    #[test]
    fn a_log_is_found_by_its_token() {
        let ownership = Ownership::over(2);
        let mut routers = [0, 1].map(|shard| Router::new(ownership.clone(), ShardId(shard)));
        for number in 0..1_000_u32 {
            let token = Token::from_bytes(u128::from(number).to_be_bytes());
            let owner = ownership.owner(token);
            routers[usize::from(owner.0)].insert(token, LogId(number));
            assert_eq!(routers[usize::from(owner.0)].route(token), Route::Mine(LogId(number)));
            assert_eq!(routers[1 - usize::from(owner.0)].route(token), Route::Foreign(owner));
        }
    }
}
