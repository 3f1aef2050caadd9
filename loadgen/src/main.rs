//! The binary: parses the command line, runs, prints the report, and turns the outcome into an exit code.

use std::io::Write;
use std::process::ExitCode;

use loadgen::{Exit, cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let exit = cli::command(std::env::args_os()).and_then(loadgen::execute).unwrap_or_else(|error| {
        // Nobody is left to tell when stderr is gone; the exit code still says it.
        drop(writeln!(std::io::stderr(), "loadgen: {error}"));
        Exit::from(&error)
    });
    ExitCode::from(exit as u8)
}
