//! The `engine` binary: parse, do, exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use engine::cli::{self, Command, Typed};
use engine::config::{self, TokenFile, resolve_log};
use engine::diag::put_line;
use engine::doctor::doctor;
use engine::error::{EngineError, Exit, ReadError};
use engine::store::reader::{cat, ls};
use engine::store::show::Style;
use engine::wire::token::shorten_tokens;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match cli::parse(std::env::args_os()) {
        Typed::Command(command) => execute(command),
        Typed::Text(text) => print(&text),
        Typed::Wrong(problem) => return fail(&problem, Exit::Usage),
    };
    match done {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => fail(&shorten_tokens(&error.to_string()), error.exit()),
    }
}

fn execute(command: Command) -> Result<Exit, EngineError> {
    let mut stdout = io::stdout().lock();
    match command {
        Command::Run(args) => {
            let resolved = args.resolve()?;
            let stored = engine::engine::run(resolved, Box::new(move || args.resolve()))?;
            return Ok(if stored { Exit::Done } else { Exit::Unexpected });
        }
        Command::CheckConfig(args) => {
            let resolved = args.resolve()?;
            resolved.check_files()?;
            return print(&resolved.shown());
        }
        Command::Ls(args) => {
            let names = args.tokens.map(|path| TokenFile(path).load()).transpose()?;
            ls(&args.data, names.as_ref(), args.json, &mut stdout)?;
        }
        Command::Cat(args) => {
            let token = resolve_log(&args.log, args.tokens.as_deref())?;
            let style = Style { newlines: args.newlines, escape: stdout.is_terminal() };
            cat(&args.data, token, style, &mut stdout)?;
        }
        Command::Doctor(args) => {
            let examined = doctor(&args.data, config::shards(args.shards)?, &mut stdout);
            return examined.map_err(|error| ReadError::Output(error).into());
        }
    }
    Ok(Exit::Done)
}

/// That the reader of a pipe leaves is no error.
fn print(text: &str) -> Result<Exit, EngineError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ReadError::Output(error).into()),
        _ => Ok(Exit::Done),
    }
}

/// The one line that says why the command failed.
fn fail(problem: &str, exit: Exit) -> ExitCode {
    put_line(&format!("engine: {problem}"));
    ExitCode::from(exit as u8)
}
