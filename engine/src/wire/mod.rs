//! The protocol's words and grammar: tokens, entries, reasons to store nothing. No state, no I/O.

pub mod entry;
pub mod token;
pub mod token_list;

pub use entry::{Entry, Reject};
pub use token::Token;
pub use token_list::TokenList;
