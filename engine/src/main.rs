//! The `engine` binary: parse, do, exit code.

use std::io::{self, IsTerminal as _, StdoutLock, Write as _};
use std::process::ExitCode;

use engine::cli::{self, Command, Typed};
use engine::config::{self, Config, RunFlags};
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
        Command::Ls(args) => ls(&args.data, args.json, &mut stdout)?,
        Command::Cat(args) => {
            let window = Window { since: args.since, until: args.until };
            cat(&args.log.data, args.log.log, window, output(args.newlines, &mut stdout))?;
        }
        Command::Tail(args) => {
            let output = output(args.newlines, &mut stdout);
            tail(&args.log.data, args.log.log, args.lines, args.follow, output)?;
        }
        Command::Verify(args) => {
            let sound = verify(&args.data, args.log, args.json, &mut stdout)?;
            return Ok(if sound { Exit::Done } else { Exit::Damage });
        }
        Command::Doctor(args) => {
            let examined = doctor(&args.data, config::shards(args.shards)?, &mut stdout);
            return examined.map_err(|error| ReadError::Output(error).into());
        }
    }
    Ok(Exit::Done)
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
    put_line(&format!("engine: {}", shorten_tokens(problem)));
    ExitCode::from(exit as u8)
}
