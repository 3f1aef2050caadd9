//! The token list: which tokens there are, and what people call their logs.
//!
//! ```text
//! # TOKEN [NAME] [# comment]                     blanks around them do not matter
//! 2bfbea1e-10c3-4419-bdad-7e6435882e1f  web      # the shop
//! 00112233-4455-6677-8899-aabbccddeeff
//! ```
//! A list is right as a whole or not at all: a line that cannot be understood refuses it, because a token that is left
//! out costs its sender's lines. So does a list without any token: what a failed copy leaves is a short file.
//!
//! Tokens are secrets, also mistyped ones: errors show the first characters of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::entry::is_blank_byte;
use super::token::{DASHES, NotAToken, TOKEN_BYTES, Token};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Hex digits of a token.
const TOKEN_DIGITS: usize = TOKEN_BYTES - DASHES.len();

/// Tokens that name logs, and the names of some of those. `Debug` shortens the tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenList {
    listed: BTreeMap<Token, Option<Box<str>>>,
}

/// Why a token list is refused, and where. Says no whole token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenListError {
    /// The line, counted from 1; `None`: the list as a whole.
    pub line: Option<usize>,
    /// What is wrong with it and what to do.
    pub problem: String,
}

impl fmt::Display for TokenListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

impl std::error::Error for TokenListError {}

impl TokenList {
    /// Understands the text of a list.
    ///
    /// # Errors
    /// The first line that cannot be understood, repeats a token or a name, or that there is no token at all.
    pub fn parse(text: &[u8]) -> Result<Self, TokenListError> {
        let mut list = Self::default();
        let (mut token_lines, mut name_lines) = (HashMap::new(), HashMap::new());
        for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            let wrong = |problem| TokenListError { line: Some(number), problem };
            let Some((token, name)) = parse_line(line).map_err(wrong)? else { continue };
            if let Some(first) = token_lines.insert(token, number) {
                let token = token.shortened();
                return Err(wrong(format!("{token} is listed on line {first} already; list each token once")));
            }
            if let Some(name) = name
                && let Some(first) = name_lines.insert(name, number)
            {
                return Err(wrong(format!("{name} is the name of line {first} already; give each name once")));
            }
            list.listed.insert(token, name.map(Box::from));
        }
        if list.listed.is_empty() {
            let problem = "holds no token, so that every line would be rejected; list one or more".to_owned();
            return Err(TokenListError { line: None, problem });
        }
        Ok(list)
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listed.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The tokens, in order.
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        self.listed.keys().copied()
    }

    /// What people call the token's log.
    #[must_use]
    pub fn name_of(&self, token: Token) -> Option<&str> {
        self.listed.get(&token)?.as_deref()
    }

    /// The token whose log has this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Token> {
        self.listed.iter().find(|(_, listed)| listed.as_deref() == Some(name)).map(|(token, _)| *token)
    }
}

/// What a line lists, if it is not only a comment; or what is wrong with it.
fn parse_line(line: &[u8]) -> Result<Option<(Token, Option<&str>)>, String> {
    let content = line.split(|&byte| byte == b'#').next().unwrap_or_default();
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    let mut words = content.split(|&byte| is_blank_byte(byte)).filter(|word| !word.is_empty());
    let Some(token) = words.next() else { return Ok(None) };
    let token = Token::parse(token).ok_or_else(|| format!("{} is {NotAToken}", beginning(token)))?;
    let name = words.next().map(parse_name).transpose()?;
    match words.next() {
        None => Ok(Some((token, name))),
        Some(more) => Err(format!("{} follows the name; give one name, and comments behind a #", beginning(more))),
    }
}

fn parse_name(name: &[u8]) -> Result<&str, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins_well = name.first().is_some_and(u8::is_ascii_alphanumeric);
    if name.len() > NAME_BYTES_MAX || !begins_well || !name.iter().copied().all(allowed) {
        return Err(format!(
            "{} is no name; a name is 1 to {NAME_BYTES_MAX} letters (a-z, A-Z), digits and . _ -, the first one a letter \
             or a digit",
            beginning(name)
        ));
    }
    if looks_like_a_token(name) {
        return Err(format!("{} looks like a token; give the log a name that cannot be mistaken", beginning(name)));
    }
    Ok(std::str::from_utf8(name).expect("letters, digits and three signs are ASCII"))
}

/// As many hex digits as a token has, wherever the dashes are; or with a token somewhere in it, which errors would show.
fn looks_like_a_token(name: &[u8]) -> bool {
    let mut digits = name.iter().filter(|byte| **byte != b'-');
    let only_digits = digits.clone().count() == TOKEN_DIGITS && digits.all(u8::is_ascii_hexdigit);
    only_digits || name.windows(TOKEN_BYTES).any(|part| Token::parse(part).is_some())
}

/// As much of a word as may be shown: as of a token.
#[must_use]
pub fn beginning(word: &[u8]) -> String {
    let shown = &word[..word.len().min(DASHES[0])];
    let cut = if shown.len() < word.len() { "…" } else { "" };
    format!("\"{}{cut}\"", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
    const U: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn listed(text: &str) -> Vec<(String, Option<String>)> {
        let list = TokenList::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        list.tokens().map(|token| (token.to_string(), list.name_of(token).map(str::to_owned))).collect()
    }

    fn wrong(text: &str) -> String {
        let error = TokenList::parse(text.as_bytes()).expect_err("wrong on purpose").to_string();
        assert!(!error.contains(T) && !error.contains(U), "{error}");
        error
    }

    #[test]
    fn a_line_has_a_token_a_name_and_a_comment() {
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(listed(T), [(T.into(), None)]);
        assert_eq!(listed(&format!("{}\r\n", T.to_uppercase())), [(T.into(), None)]);
        assert_eq!(listed(&format!("# all\n\n \t\r\n\t{T}\tweb.shop-1_A \r\n")), [(T.into(), name("web.shop-1_A"))]);
        let two = format!("{T} web# {U}\n{U}#x");
        assert_eq!(listed(&two), [(U.into(), None), (T.into(), name("web"))]);
        assert_eq!(listed(&format!("{T} 7 # \u{fc}ber \u{ff}")), [(T.into(), name("7"))]);
    }

    #[test]
    fn names_find_their_tokens() {
        let list = TokenList::parse(format!("{T} web\n{U}\n").as_bytes()).unwrap();
        assert_eq!((list.named("web"), list.named("Web"), list.named("")), (T.parse().ok(), None, None));
        assert_eq!((list.len(), list.is_empty()), (2, false));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let not_a_token = "is not a token; a token is 36 bytes, hex digits 8-4-4-4-12";
        assert_eq!(wrong(&format!("{T}\nweb {U}\n")), format!("line 2: \"web\" {not_a_token}"));
        assert_eq!(wrong(&T[..35]), format!("line 1: \"2bfbea1e…\" {not_a_token}"));
        assert_eq!(wrong("\u{feff}#"), format!("line 1: \"\\xef\\xbb\\xbf\" {not_a_token}"));
        assert_eq!(wrong("\0\x1b[31m"), format!("line 1: \"\\x00\\x1b[31m\" {not_a_token}"));
        let twice = "line 3: 2bfbea1e… is listed on line 1 already; list each token once";
        assert_eq!(wrong(&format!("{T} a\n\n{} b\n", T.to_uppercase())), twice);
        let named_twice = "line 2: web is the name of line 1 already; give each name once";
        assert_eq!(wrong(&format!("{T} web\n{U} web\n")), named_twice);
        let two_names = "line 1: \"shop\" follows the name; give one name, and comments behind a #";
        assert_eq!(wrong(&format!("{T} web shop\n")), two_names);
    }

    #[test]
    fn a_name_is_short_and_cannot_be_mistaken() {
        for name in ["-web", ".web", "_", "we/b", "w\u{fc}b", "we\"b", &"x".repeat(65), "a\rb"] {
            assert!(wrong(&format!("{T} {name}")).contains("is no name; a name is 1 to 64 letters"), "{name:?}");
        }
        let others = [format!("x{U}"), format!("{U}.log")];
        for name in
            [U, &U.to_uppercase(), &U.replace('-', ""), "0-0112233-4455667788-99aabbccddeeff", &others[0], &others[1]]
        {
            let problem = "line 1: \"".to_owned() + &name[..8] + "…\" looks like a token; give the log a name";
            assert!(wrong(&format!("{T} {name}")).starts_with(&problem), "{name:?}");
        }
        assert_eq!(listed(&format!("{T} {}", "x".repeat(64))).len(), 1);
        assert_eq!(listed(&format!("{T} {}", &U[1..])).len(), 1);
    }

    #[test]
    fn a_list_without_a_token_is_refused() {
        for text in ["", "\n", "# only\n# comments"] {
            assert!(wrong(text).starts_with("holds no token"), "{text:?}");
        }
    }

    /// Made of parts that lists are made of, and of any bytes: what is accepted is what a slow reader finds.
    #[test]
    fn any_bytes_are_a_list_or_an_error() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = move |end: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random >> 33).expect("31 bits") % end
        };
        let parts: [&[u8]; 12] = [
            T.as_bytes(),
            U.as_bytes(),
            b"\n",
            b"\r\n",
            b" ",
            b"\t",
            b"#",
            b"web",
            b"shop",
            b"-",
            b"\xff",
            &T.as_bytes()[..35],
        ];
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..below(9) {
                if below(20) == 0 {
                    text.push(u8::try_from(below(256)).expect("a byte"));
                } else {
                    text.extend(parts[below(parts.len())]);
                }
            }
            match TokenList::parse(&text) {
                Ok(list) => {
                    accepted += 1;
                    let lines =
                        text.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b'#').next());
                    let listed = lines.filter(|line| line.iter().any(|byte| !b" \t\r".contains(byte)));
                    assert_eq!(list.len(), listed.count(), "{}", text.escape_ascii());
                }
                Err(error) => {
                    let shown = error.to_string();
                    assert!(!shown.contains(T) && !shown.contains(U) && !shown.contains('\n'), "{shown}");
                    let lines = text.split(|&byte| byte == b'\n').count();
                    assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{shown}");
                }
            }
        }
        assert!(accepted > 1_000, "{accepted} of 20,000 lists were right");
    }
}
