//! The command line as typed, turned into a [`Plan`]. Nothing else sees clap.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::error::RunError;
use crate::payload::{Layout, Position, SIZE_BYTES_MAX, SIZE_BYTES_MIN};
use crate::plan::{self, CONNECTIONS_MAX, Plan, Rate, Stop};

/// Longest `--duration`, in milliseconds: 30 days, so that no sum of times can overflow.
const TIME_MS_MAX: u64 = 30 * 86_400_000;

const COUNT_UNITS: [(&str, u64); 3] = [("", 1), ("k", 1_000), ("M", 1_000_000)];

/// What was asked for, validated.
#[derive(Debug)]
pub enum Command {
    /// `loadgen run`
    Run {
        /// What to send.
        plan: Plan,
        /// Print the report as JSON.
        json: bool,
    },
}

#[derive(Debug, Parser)]
#[command(name = "loadgen", version, about = "Load generator for Token TCP receivers")]
struct Args {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// One measured run
    Run(RunArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Address of the receiver, HOST:PORT
    #[arg(long, value_name = "ADDR")]
    target: String,

    /// Entries per second over all connections, on a fixed schedule (k, M), or `max`: as fast as the receiver reads
    #[arg(long, value_name = "N|max", default_value = "max", value_parser = parse_rate)]
    rate: Rate,

    /// Stop sending after this time (ms, s, m, h, d)
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time, conflicts_with = "entries")]
    duration: Duration,

    /// Stop after this many entries over all connections (k, M)
    #[arg(long, value_name = "N", value_parser = parse_entries)]
    entries: Option<u64>,

    /// Connections, all opened before the first entry
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    connections: u32,

    /// How many logs to write to (k, M), their tokens made from --seed; or a file of tokens, one a line
    #[arg(long, value_name = "N|FILE", default_value = "100")]
    tokens: String,

    /// Bytes of a line on the wire, token and LF included
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = parse_line_size)]
    size: usize,

    /// Where in the line the token stands
    #[arg(long, value_enum, default_value = "start")]
    position: PositionArg,

    /// Same seed, same tokens and same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// The receiver's data directory: account for every acknowledged entry in its segment files after the run
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PositionArg {
    Start,
    Middle,
}

/// Parses the process's arguments; prints help or clap's own error and exits where they ask for it.
///
/// # Errors
///
/// When an argument is well formed but cannot be used.
pub fn command() -> Result<Command, RunError> {
    command_from(Args::parse())
}

fn command_from(args: Args) -> Result<Command, RunError> {
    let Subcommands::Run(run) = args.command;
    let json = run.json;
    Ok(Command::Run { plan: plan_from(run)?, json })
}

fn plan_from(run: RunArgs) -> Result<Plan, RunError> {
    if let Some(data) = run.data.as_ref().filter(|data| !data.is_dir()) {
        return Err(RunError::Usage(format!("--data: {} is no directory; give the receiver's own", data.display())));
    }
    let position = match run.position {
        PositionArg::Start => Position::Start,
        PositionArg::Middle => Position::Middle,
    };
    let plan = Plan {
        target: resolve(&run.target)?,
        rate: run.rate,
        stop: run.entries.map_or(Stop::After(run.duration), Stop::Entries),
        connections: run.connections,
        tokens: tokens_from(&run.tokens, run.seed)?,
        layout: Layout::new(run.size, position),
        seed: run.seed,
        run: plan::fresh_run_id(),
        finish_wait: plan::FINISH_WAIT,
        data: run.data,
    };
    if plan.is_too_long() {
        let most = plan::ENTRIES_PER_CONNECTION_MAX;
        return Err(RunError::Usage(format!("--connections: one numbers at most {most} entries; give more of them")));
    }
    Ok(plan)
}

fn resolve(target: &str) -> Result<SocketAddr, RunError> {
    if !target.contains(':') {
        return Err(RunError::Usage(format!("--target: {target} has no port; give HOST:PORT")));
    }
    let lookup = || target.to_socket_addrs()?.next().ok_or_else(|| std::io::Error::other("no address"));
    lookup().map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => RunError::Usage(format!("--target: {target}: {error}; give HOST:PORT")),
        _ => RunError::Environment(format!("--target: {target} cannot be resolved"), error),
    })
}

fn tokens_from(text: &str, seed: u64) -> Result<Vec<plan::Token>, RunError> {
    if let Ok(count) = parse_scaled(text, &COUNT_UNITS, "") {
        let count = usize::try_from(count).ok().filter(|count| (1..=plan::TOKENS_MAX).contains(count));
        return count
            .map(|count| plan::tokens_of_seed(seed, count))
            .ok_or_else(|| RunError::Usage(format!("--tokens: {text}; 1 to {} are possible", plan::TOKENS_MAX)));
    }
    let content = std::fs::read_to_string(text)
        .map_err(|error| RunError::Usage(format!("--tokens: {text} is no number and cannot be read ({error})")))?;
    plan::tokens_of_list(&content).map_err(|problem| RunError::Usage(format!("--tokens: {text}: {problem}")))
}

/// A number and the unit behind it.
fn parse_unit<T>(text: &str, units: &[(&str, T)], allowed: &str) -> Result<(u64, T), String>
where
    T: Copy,
{
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number = number.parse().map_err(|_| format!("not a number; {allowed}"))?;
    let unit = units.iter().find(|(name, _)| *name == unit).ok_or_else(|| format!("unknown unit; {allowed}"))?;
    Ok((number, unit.1))
}

fn parse_scaled(text: &str, units: &[(&str, u64)], allowed: &str) -> Result<u64, String> {
    let (number, scale) = parse_unit(text, units, allowed)?;
    number.checked_mul(scale).ok_or_else(|| format!("too large; {allowed}"))
}

fn parse_count(text: &str, allowed: &str) -> Result<u64, String> {
    match parse_scaled(text, &COUNT_UNITS, allowed)? {
        0 => Err(format!("zero sends nothing; {allowed}")),
        count => Ok(count),
    }
}

fn parse_entries(text: &str) -> Result<u64, String> {
    parse_count(text, "give a number such as 1000, 500k or 2M")
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    parse_count(text, "give max, or a number such as 1000, 500k or 2M").map(Rate::PerSecond)
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    match parse_scaled(text, &units, "give a time such as 500ms, 10s, 5m, 1h or 2d")? {
        0 => Err("zero sends nothing".to_owned()),
        milliseconds if milliseconds > TIME_MS_MAX => Err("at most 30d".to_owned()),
        milliseconds => Ok(Duration::from_millis(milliseconds)),
    }
}

fn parse_line_size(text: &str) -> Result<usize, String> {
    const KIB: u64 = 1 << 10;
    let units = [
        ("", 1),
        ("KB", 1_000),
        ("KiB", KIB),
        ("MB", 1_000_000),
        ("MiB", KIB * KIB),
        ("GB", 1_000_000_000),
        ("GiB", KIB * KIB * KIB),
    ];
    let bytes = parse_scaled(text, &units, "give a size such as 256 or 64KiB")?;
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if (SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("{SIZE_BYTES_MIN} to {SIZE_BYTES_MAX} bytes are possible"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let typed = ["loadgen", "run", "--target", "127.0.0.1:1"].iter().chain(arguments);
        let args = Args::try_parse_from(typed).map_err(|error| error.to_string())?;
        let Command::Run { plan, .. } = command_from(args).map_err(|error| error.to_string())?;
        Ok(plan)
    }

    #[test]
    fn defaults_are_the_manuals() {
        let plan = plan(&[]).unwrap();
        assert_eq!((plan.rate, plan.stop), (Rate::Max, Stop::After(Duration::from_secs(10))));
        assert_eq!((plan.connections, plan.tokens.len(), plan.layout.size()), (8, 100, 256));
    }

    #[test]
    fn units_are_read() {
        let plan = plan(&["--rate", "250k", "--entries", "2M", "--size", "4KiB", "--tokens", "2k"]).unwrap();
        assert_eq!((plan.rate, plan.stop), (Rate::PerSecond(250_000), Stop::Entries(2_000_000)));
        assert_eq!((plan.layout.size(), plan.tokens.len()), (4096, 2000));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("2d"), Ok(Duration::from_hours(48)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused: [(&[&str], &str); 11] = [
            (&["--duration", "31d"], "at most 30d"),
            (&["--entries", "5000M", "--connections", "1"], "at most 4294967296"),
            (&["--rate", "0"], "zero"),
            (&["--rate", "5x"], "unknown unit"),
            (&["--duration", "10"], "unknown unit"),
            (&["--duration", "1s", "--entries", "1"], "cannot be used with"),
            (&["--size", "63"], "64 to 1048576"),
            (&["--tokens", "0"], "1 to 100000"),
            (&["--tokens", "/does/not/exist"], "cannot be read"),
            (&["--connections", "0"], "1..=10000"),
            (&["--data", "/does/not/exist"], "no directory"),
        ];
        for (arguments, sentence) in refused {
            let error = plan(arguments).unwrap_err();
            assert!(error.contains(sentence), "{arguments:?}: {error}");
        }
    }
}
