//! The `engine` binary: parse, do, exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use engine::cli::{self, Command, Typed};
use engine::config::{self, Config, RunFlags, TokenFile, resolve_log};
use engine::diag::put_line;
use engine::doctor::doctor;
use engine::error::{EngineError, Exit, ReadError};
use engine::store::reader::{cat, ls};
use engine::store::show::Style;
use engine::wire::token::shorten_tokens;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Typed::Command(command) => match execute(command) {
            Ok(exit) => ExitCode::from(exit as u8),
            Err(error) => fail(&error.to_string(), error.exit()),
        },
        Typed::Text(text) => match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(Exit::Unexpected as u8),
        },
        Typed::Wrong(problem) => fail(&problem, Exit::Usage),
    }
}

fn execute(command: Command) -> Result<Exit, EngineError> {
    let mut stdout = io::stdout().lock();
    match command {
        Command::Run(args) => {
            let config = Config::try_from(RunFlags::from(*args))?;
            let stored = engine::engine::run(&config)?;
            return Ok(if stored { Exit::Done } else { Exit::Unexpected });
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

/// The one line that says why the command failed.
fn fail(problem: &str, exit: Exit) -> ExitCode {
    put_line(&format!("engine: {}", shorten_tokens(problem)));
    ExitCode::from(exit as u8)
}
