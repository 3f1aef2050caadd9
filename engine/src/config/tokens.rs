//! The token list in its file, and what commands that read call a log.

use std::path::{Path, PathBuf};

use super::files::{Stamp, read, stamp, wrong};
use crate::error::ConfigError;
use crate::limits::TOKENS_FILE_BYTES_MAX;
use crate::wire::token_list::beginning;
use crate::wire::{Token, TokenList};

const FLAG: &str = "--tokens";

/// Where the token list is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile(pub PathBuf);

impl TokenFile {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read or understood: its path, the line, what is wrong, and what to do. Never a whole token.
    pub fn load(&self) -> Result<TokenList, ConfigError> {
        let bytes = read(FLAG, &self.0, TOKENS_FILE_BYTES_MAX, "a token list")?;
        TokenList::parse(&bytes).map_err(|error| wrong(FLAG, &self.0, &error.to_string()))
    }

    /// Something that differs once the file has changed.
    #[must_use]
    pub fn stamps(&self) -> Vec<Stamp> {
        vec![stamp(&self.0)]
    }
}

/// The token that `LOG` stands for: itself in any case, or the one with this name in the list.
///
/// # Errors
/// It is neither, or the list cannot be used.
pub fn resolve_log(log: &str, tokens: Option<&Path>) -> Result<Token, ConfigError> {
    if let Some(token) = Token::parse(log.as_bytes()) {
        return Ok(token);
    }
    let refused = |problem| Err(ConfigError { flag: "LOG".into(), problem });
    // What was typed may be a token with a digit missing.
    let typed = beginning(log.as_bytes());
    let Some(path) = tokens else {
        return refused(format!("{typed} is not a token; give one (36 bytes), or a name and its list with {FLAG}"));
    };
    match TokenFile(path.to_owned()).load()?.named(log) {
        Some(token) => Ok(token),
        None => refused(format!("{typed} is neither a token nor a name in {}; give one of those", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";

    #[test]
    fn a_log_is_a_token_or_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, format!("{T} web\n")).unwrap();
        let token = T.parse().unwrap();
        assert_eq!(resolve_log(&T.to_uppercase(), None), Ok(token));
        assert_eq!(resolve_log(T, Some(Path::new("/nowhere"))), Ok(token), "a token needs no list");
        assert_eq!(resolve_log("web", Some(&path)), Ok(token));
        let said = |log, tokens| resolve_log(log, tokens).expect_err("neither").to_string();
        assert!(said("web", None).starts_with("LOG: \"web\" is not a token; give one (36 bytes), or a name"));
        assert!(said("shop", Some(&path)).starts_with("LOG: \"shop\" is neither a token nor a name in /"));
        assert!(said(&T[1..], None).starts_with("LOG: \"bfbea1e-…\" is not a token"));
    }

    #[test]
    fn a_list_is_refused_with_its_path_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let said = || TokenFile(path.clone()).load().expect_err("wrong on purpose").to_string();
        assert!(said().contains("cannot be read; give a token list that this user may read"), "{}", said());
        std::fs::write(&path, format!("{T}\n{T}\n")).unwrap();
        assert!(said().ends_with("/tokens: line 2: 2bfbea1e… is listed on line 1 already; list each token once"));
        std::fs::File::create(&path).unwrap().set_len(TOKENS_FILE_BYTES_MAX + 1).unwrap();
        assert!(said().ends_with("/tokens: is larger than 67108864 bytes; give a token list"), "{}", said());
    }

    #[test]
    fn a_changed_file_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile(folder.path().join("tokens"));
        let missing = file.stamps();
        std::fs::write(&file.0, T).unwrap();
        let before = file.stamps();
        std::fs::write(&file.0, format!("{T} web")).unwrap();
        assert!(missing != before && before != file.stamps());
    }
}
