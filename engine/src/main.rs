//! The `engine` binary: parse, do, exit code.

use std::io::{self, IsTerminal as _, StdoutLock, Write as _};
use std::process::ExitCode;

use engine::cli::{self, Command, Typed};
use engine::config::{self, TokenFile, resolve_log};
use engine::diag::put_line;
use engine::doctor::doctor;
use engine::error::{EngineError, Exit, ReadError};
use engine::store::list::ls;
use engine::store::look_up::Window;
use engine::store::reader::{Missing, Output, cat, tail};
use engine::store::show::Style;
use engine::store::verify::verify;
use engine::wire::token::shorten_tokens;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    abort_on_panic();
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

/// A panic of any thread ends the process, also in a build that unwinds: no half-dead service.
fn abort_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
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
            let resolved = args.resolve_on_this_host()?;
            resolved.check_files()?;
            return print(&resolved.shown());
        }
        Command::Ls(args) => {
            let names = args.tokens.map(|path| TokenFile(path).load()).transpose()?;
            ls(&args.data, names.as_ref(), args.json, &mut stdout)?;
        }
        Command::Cat(args) => {
            let token = resolve_log(&args.log.log, args.log.tokens.as_deref())?;
            let window = Window { since: args.since, until: args.until };
            cat(&args.log.data, token, window, output(args.newlines, &mut stdout))?;
        }
        Command::Tail(args) => {
            let token = resolve_log(&args.log.log, args.log.tokens.as_deref())?;
            let output = output(args.newlines, &mut stdout);
            tail(&args.log.data, token, args.lines, args.follow, output)?;
        }
        Command::Verify(args) => {
            let token = args.log.map(|log| resolve_log(&log, args.tokens.as_deref())).transpose()?;
            let sound = verify(&args.data, token, args.json, &mut stdout)?;
            return Ok(if sound { Exit::Done } else { Exit::Damage });
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

/// For a person exactly if it is a terminal.
fn output<'a>(newlines: bool, stdout: &'a mut StdoutLock<'static>) -> Output<'a> {
    let style = Style { newlines, escape: stdout.is_terminal() };
    Output { out: stdout, style, missing: Box::new(tell_missing) }
}

fn tell_missing(missing: &Missing) {
    put_line(&format!("engine: {}", shorten_tokens(&missing.to_string())));
}

/// The one line that says why the command failed.
fn fail(problem: &str, exit: Exit) -> ExitCode {
    put_line(&format!("engine: {problem}"));
    ExitCode::from(exit as u8)
}
