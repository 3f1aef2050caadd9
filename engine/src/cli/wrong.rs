//! What is wrong with a command line, in one line: `subject: problem; what to do`.

use std::error::Error as _;
use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// clap's error without its usage lines; `command` is the word behind `engine`.
pub(super) fn one_line(error: &clap::Error, command: Option<&OsString>) -> String {
    let told = explain(error, &help_of(command));
    format!("{}: {}", told.subject, told.problem)
}

/// What an error is about, and what is wrong.
pub(super) struct Told {
    /// The flag, or what else was typed.
    pub(super) subject: String,
    /// What is wrong, and what to do.
    pub(super) problem: String,
}

/// Takes clap's error apart; `help` is where to look for more.
pub(super) fn explain(error: &clap::Error, help: &str) -> Told {
    let flag = first_word(context(error, ContextKind::InvalidArg));
    let told = |subject: &str, problem: String| Told { subject: subject.to_owned(), problem };
    let about = flag.as_deref().unwrap_or("command line");
    match error.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => told(about, wrong_value(error)),
        ErrorKind::UnknownArgument if about.starts_with('-') => told(about, format!("no such flag; see {help}")),
        ErrorKind::UnknownArgument => told(about, format!("unexpected; see {help}")),
        ErrorKind::InvalidSubcommand => {
            let command = context(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            told(&command, format!("no such command; give {}", commands()))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            told(about, format!("no command; give {}", commands()))
        }
        ErrorKind::MissingRequiredArgument => told(about, format!("missing; see {help}")),
        ErrorKind::ArgumentConflict => match first_word(context(error, ContextKind::PriorArg)) {
            Some(other) if other != about => told(about, format!("cannot stand beside {other}; give one of them")),
            _ => told(about, "given twice; give it once".to_owned()),
        },
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            told("command line", format!("{}; see {help}", first.trim_start_matches("error: ")))
        }
    }
}

fn wrong_value(error: &clap::Error) -> String {
    let value = context(error, ContextKind::InvalidValue).unwrap_or_default();
    if let Some(source) = error.source() {
        let source = source.to_string();
        return if source.contains(&value) { source } else { format!("{value}: {source}") };
    }
    let allowed = context(error, ContextKind::ValidValue).filter(|allowed| !allowed.is_empty());
    let allowed = allowed.unwrap_or_else(|| "a value".into());
    let given = if value.is_empty() { "nothing".into() } else { value };
    format!("{given} is not possible; give {allowed}")
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    }
}

fn first_word(text: Option<String>) -> Option<String> {
    text?.split_whitespace().next().map(|word| word.trim_end_matches(',').to_owned())
}

/// Where to look for the flags of this command.
fn help_of(command: Option<&OsString>) -> String {
    let typed = command.and_then(|command| command.to_str()).unwrap_or_default();
    let cli = super::Cli::command();
    let known = cli.get_subcommands().any(|command| command.get_name() == typed);
    if known { format!("engine {typed} --help") } else { "engine --help".to_owned() }
}

/// All commands, for people.
fn commands() -> String {
    let cli = super::Cli::command();
    let names: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    match names.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}
