//! The tokens of a run, and which entry carries which.
//!
//! Everything that sender and account must agree on is a function of seed, connection and sequence alone.
//!
//! ```text
//!  in turn   connection c, sequence s:   token (first(c) + s) modulo the number of tokens
//!  Zipf      token k of n is drawn with a weight of 1 / k^exponent, by a hash of seed, connection and sequence
//! ```
//!
//! The draw takes two array reads whatever the number of tokens: each column of the alias table holds its own token up
//! to a threshold and another one's above it (Walker 1977, built as Vose 1991 does).

use std::collections::HashSet;

use uuid::Uuid;

/// Most tokens of one run: as many logs as the receiver takes by default.
pub const TOKENS_MAX: usize = 100_000;

/// A token's text, lower case.
pub type Token = [u8; 36];

/// A seeded sequence of well mixed numbers (`SplitMix64`, Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number from 0 to `below`, which is not 0.
    pub fn below(&mut self, below: u64) -> u64 {
        high(self.next_u64(), below)
    }
}

/// A number from 0 to `below`, from the upper bits of a random one.
fn high(random: u64, below: u64) -> u64 {
    let wide = u128::from(random) * u128::from(below);
    (wide >> 64) as u64
}

/// The tokens of a run and how entries are dealt out to them.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Each once; at least one.
    pub list: Vec<Token>,
    /// `None`: in turn.
    skew: Option<Skew>,
}

impl Tokens {
    /// Tokens that get their entries in turn.
    #[must_use]
    pub fn in_turn(list: Vec<Token>) -> Self {
        debug_assert!(!list.is_empty());
        Self { list, skew: None }
    }

    /// Tokens of which the first get more than the last.
    #[must_use]
    pub fn zipf(list: Vec<Token>, exponent: f64, seed: u64) -> Self {
        let skew = Skew { exponent, seed, columns: alias_table(list.len(), exponent) };
        Self { list, skew: Some(skew) }
    }

    /// The Zipf exponent, if there is one.
    #[must_use]
    pub fn exponent(&self) -> Option<f64> {
        self.skew.as_ref().map(|skew| skew.exponent)
    }

    /// Index of the token that an entry of a connection carries.
    #[must_use]
    pub fn of(&self, connection: u32, connections: u32, sequence: u32) -> usize {
        match &self.skew {
            // Connections are spread evenly over the tokens.
            None => {
                let first = connection as usize * self.list.len() / connections as usize;
                (first + sequence as usize) % self.list.len()
            }
            Some(skew) => skew.draw(connection, sequence),
        }
    }

    /// The tokens of a connection's entries from a sequence on, as [`Self::of`] has them, without a division for each.
    pub fn from(&self, connection: u32, connections: u32, first: u32) -> impl Iterator<Item = &Token> {
        let mut sequence = first;
        let mut turn = self.of(connection, connections, first);
        std::iter::from_fn(move || {
            let index = match &self.skew {
                None => turn,
                Some(skew) => skew.draw(connection, sequence),
            };
            sequence = sequence.wrapping_add(1);
            turn = if turn + 1 == self.list.len() { 0 } else { turn + 1 };
            Some(&self.list[index])
        })
    }
}

#[derive(Clone, Debug)]
struct Skew {
    exponent: f64,
    seed: u64,
    columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// Up to this fraction of 2³² the column is its own token.
    threshold: u32,
    /// And above it this one.
    alias: u32,
}

impl Skew {
    fn draw(&self, connection: u32, sequence: u32) -> usize {
        let ordinal = (u64::from(connection) << 32) | u64::from(sequence);
        let random = Random::new(self.seed ^ ordinal.wrapping_mul(0xd6e8_feb8_6659_fd93)).next_u64();
        let column = high(random, self.columns.len() as u64) as usize;
        let Column { threshold, alias } = self.columns[column];
        // The column comes from the upper bits, the place in it from the lower ones.
        if random as u32 <= threshold { column } else { alias as usize }
    }
}

/// The table that draws `k` (from 0) with a weight of `1 / (k + 1)^exponent`.
#[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "weights; at most 100,000 of them")]
fn alias_table(count: usize, exponent: f64) -> Vec<Column> {
    let weights: Vec<_> = (1..=count).map(|rank| (rank as f64).powf(-exponent)).collect();
    let scale = count as f64 / weights.iter().sum::<f64>();
    let mut weights: Vec<_> = weights.into_iter().map(|weight| weight * scale).collect();
    let (mut small, mut large): (Vec<_>, Vec<_>) = (0..count).partition(|&rank| weights[rank] < 1.0);
    let mut columns: Vec<_> = (0..count as u32).map(|rank| Column { threshold: u32::MAX, alias: rank }).collect();
    while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
        columns[less] = Column { threshold: (weights[less] * f64::from(u32::MAX)) as u32, alias: more as u32 };
        weights[more] -= 1.0 - weights[less];
        if weights[more] < 1.0 {
            small.extend(large.pop());
        }
    }
    columns
}

/// The first `count` tokens of a seed.
#[must_use]
pub fn tokens_of_seed(seed: u64, count: usize) -> Vec<Token> {
    let mut random = Random::new(seed);
    let random_token = |_| {
        let bits = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
        token_text(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
    };
    (0..count).map(random_token).collect()
}

/// The tokens of a list: `TOKEN [NAME] [# comment]` a line, as the receiver reads it.
///
/// # Errors
///
/// The sentence that says which line is wrong.
pub fn tokens_of_list(content: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut known = HashSet::new();
    for (number, line) in (1..).zip(content.lines()) {
        let Some(word) = line.split('#').next().and_then(|entry| entry.split_whitespace().next()) else { continue };
        let token = parse_token(word).ok_or_else(|| format!("line {number}: not a UUID in the form 8-4-4-4-12"))?;
        if !known.insert(token) {
            return Err(format!("line {number}: a token for the second time; each may stand once"));
        }
        tokens.push(token);
    }
    match tokens.len() {
        1..=TOKENS_MAX => Ok(tokens),
        count => Err(format!("{count} tokens; give 1 to {TOKENS_MAX}")),
    }
}

/// A token in its usual form, either case; `None` for everything else.
#[must_use]
pub fn parse_token(word: &str) -> Option<Token> {
    (word.len() == 36).then(|| Uuid::try_parse(word).ok()).flatten().map(token_text)
}

fn token_text(uuid: Uuid) -> Token {
    let mut text = [0; 36];
    uuid.hyphenated().encode_lower(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_a_seed_are_stable_and_different() {
        let tokens = tokens_of_seed(7, 1000);
        assert_eq!(tokens, tokens_of_seed(7, 1000));
        assert_eq!(tokens[..10], tokens_of_seed(7, 10));
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), 1000);
        assert_ne!(tokens[0], tokens_of_seed(8, 1)[0]);
    }

    #[test]
    fn token_lists_are_read_as_the_receiver_does() {
        let list = "# all\n2BFBEA1E-10c3-4419-bdad-7e6435882e1f web # front\n\n00112233-4455-6677-8899-aabbccddeeff\n";
        let tokens = tokens_of_list(list).unwrap();
        assert_eq!(tokens[0], *b"2bfbea1e-10c3-4419-bdad-7e6435882e1f");
        assert_eq!(tokens.len(), 2);
        assert!(tokens_of_list("").unwrap_err().starts_with("0 tokens"));
        assert!(tokens_of_list("{2bfbea1e-10c3-4419-bdad-7e6435882e}").unwrap_err().starts_with("line 1"));
        let twice = "00112233-4455-6677-8899-aabbccddeeff\n00112233-4455-6677-8899-AABBCCDDEEFF\n";
        assert!(tokens_of_list(twice).unwrap_err().starts_with("line 2"));
    }

    #[test]
    fn a_series_is_what_its_single_draws_are() {
        for tokens in [Tokens::in_turn(tokens_of_seed(1, 7)), Tokens::zipf(tokens_of_seed(1, 7), 1.1, 9)] {
            for (sequence, token) in (5..40).zip(tokens.from(2, 3, 5)) {
                assert_eq!(token, &tokens.list[tokens.of(2, 3, sequence)]);
            }
        }
    }

    #[test]
    fn in_turn_is_even() {
        let tokens = Tokens::in_turn(tokens_of_seed(1, 7));
        let mut counts = [0; 7];
        for connection in 0..3 {
            (0..700).for_each(|sequence| counts[tokens.of(connection, 3, sequence)] += 1);
        }
        assert_eq!(counts, [300; 7]);
    }

    #[test]
    fn zipf_has_the_weights_that_it_says() {
        const DRAWS: u32 = 400_000;
        let tokens = Tokens::zipf(tokens_of_seed(1, 50), 1.1, 9);
        let mut counts = [0_u32; 50];
        for connection in 0..4 {
            (0..DRAWS / 4).for_each(|sequence| counts[tokens.of(connection, 4, sequence)] += 1);
        }
        let sum: f64 = (1..=50).map(|rank| f64::from(rank).powf(-1.1)).sum();
        for (rank, count) in (1..).zip(counts) {
            let expected = f64::from(DRAWS) * f64::from(rank).powf(-1.1) / sum;
            // Five standard deviations.
            assert!((f64::from(count) - expected).abs() < 5.0 * expected.sqrt(), "{rank}: {count} for {expected}");
        }
    }
}
