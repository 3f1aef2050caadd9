//! The command line as typed, turned into a [`Plan`]. Nothing else sees clap.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::Output;
use crate::condition::Condition;
use crate::error::RunError;
use crate::latency::Clock;
use crate::payload::{Lines, Position, SIZE_BYTES_MAX, SIZE_BYTES_MIN, Text};
use crate::plan::{self, Arrival, CONNECTIONS_MAX, Files, Plan, Rate, Stop, THREADS_MAX};
use crate::tokens::{self, Token, Tokens};
use crate::units::{parse_count, parse_number, parse_size_range, parse_time};

/// What a run begins with unless told otherwise: connections, logs and caches are warm then.
const WARMUP_DEFAULT: Duration = Duration::from_secs(2);
/// The largest Zipf exponent: beyond it the first token gets nearly all.
const ZIPF_MAX: f64 = 10.0;
/// Bytes of a line that are not text when it is filled from a file: fields, blank, token, blank, LF.
const AROUND_TEXT_BYTES: usize = SIZE_BYTES_MIN + 1;

/// What was asked for, validated.
#[derive(Debug)]
pub enum Command {
    /// `loadgen run`
    Run {
        /// What to send.
        plan: Box<Plan>,
        /// What becomes of the report.
        output: Output,
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
    Run(Box<RunArgs>),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Address of the receiver, HOST:PORT
    #[arg(long, value_name = "ADDR")]
    target: String,

    /// Entries per second over all connections, on a fixed schedule (k, M), or `max`: as fast as the receiver reads
    #[arg(long, value_name = "N|max", default_value = "max", value_parser = parse_rate)]
    rate: Rate,

    /// How a fixed rate is spread over time: at even intervals, or as independent senders do
    #[arg(long, value_enum, default_value = "uniform")]
    arrival: ArrivalArg,

    /// Make a connection again when the receiver ends it
    #[arg(long)]
    reconnect: bool,

    /// Stop sending after this time, warm-up not included (ms, s, m, h, d)
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time, conflicts_with = "entries")]
    duration: Duration,

    /// Stop after this many entries over all connections (k, M)
    #[arg(long, value_name = "N", value_parser = parse_count)]
    entries: Option<u64>,

    /// Latencies of entries before this time don't count; the account includes them [default: 2s; 0 with --entries]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    warmup: Option<Duration>,

    /// Connections, all opened before the first entry
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    connections: u32,

    /// Threads that send, each with a ring of its own and its share of the connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=THREADS_MAX))]
    threads: u32,

    /// How many logs to write to (k, M), their tokens made from --seed; or a file of tokens, one a line
    #[arg(long, value_name = "N|FILE", default_value = "100")]
    tokens: String,

    /// Give the first tokens more entries than the last: zipf:EXPONENT [default: all the same]
    #[arg(long, value_name = "SKEW", value_parser = parse_skew)]
    skew: Option<f64>,

    /// Bytes of a line on the wire, token and LF included; or N..M: any size between
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = parse_line_size)]
    size: RangeInclusive<usize>,

    /// Where in the line the token stands
    #[arg(long, value_enum, default_value = "start")]
    position: PositionArg,

    /// What fills the lines
    #[arg(long, value_enum, default_value = "random", conflicts_with = "lines")]
    template: TemplateArg,

    /// Fill lines with those of a text file, which set the size
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    lines: Option<PathBuf>,

    /// Same seed, same tokens, text and arrivals
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// The engine's data directory: follow its segment files, and account for every acknowledged entry
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// The same for other receivers: the path of the file that a token's lines go to, with {token} in it
    #[arg(long, value_name = "PATTERN", conflicts_with = "data")]
    files: Option<String>,

    /// Follow every Nth log while the run lasts, and read the others after it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    follow_sample: u64,

    /// Write summary.json, send.hgrm, visible.hgrm, latency.hlog and intervals.csv into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Exit 1 if this latency is above the bound, such as 'p99>5ms' or 'send.p99.9>1ms'; repeatable
    #[arg(long, value_name = "BOUND")]
    fail_if: Vec<Condition>,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArrivalArg {
    Uniform,
    Poisson,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PositionArg {
    Start,
    Middle,
    End,
    Mixed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TemplateArg {
    Random,
    Json,
    Apache,
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
    let output = Output { json: run.json, out: run.out.clone(), fail_if: run.fail_if.clone() };
    let plan = plan_from(*run)?;
    let asks_visible = |condition: &Condition| condition.clock() == Some(Clock::Visible);
    if !plan.is_followed() && output.fail_if.iter().any(asks_visible) {
        let problem = "--fail-if: nothing is followed; visible needs --data or --files, and a --rate other than max";
        return Err(RunError::Usage(problem.into()));
    }
    Ok(Command::Run { plan: Box::new(plan), output })
}

fn plan_from(run: RunArgs) -> Result<Plan, RunError> {
    let position = match run.position {
        PositionArg::Start => Position::Start,
        PositionArg::Middle => Position::Middle,
        PositionArg::End => Position::End,
        PositionArg::Mixed => Position::Mixed,
    };
    let text = match (&run.lines, run.template) {
        (Some(file), _) => lines_of(file, position)?,
        (None, TemplateArg::Random) => Text::Random,
        (None, TemplateArg::Json) => Text::Json,
        (None, TemplateArg::Apache) => Text::Apache,
    };
    let list = tokens_from(&run.tokens, run.seed)?;
    let plan = Plan {
        target: resolve(&run.target)?,
        rate: run.rate,
        arrival: match run.arrival {
            ArrivalArg::Uniform => Arrival::Uniform,
            ArrivalArg::Poisson => Arrival::Poisson,
        },
        stop: run.entries.map_or(Stop::After(run.duration), Stop::Entries),
        warmup: match (run.warmup, run.entries) {
            (Some(warmup), _) => warmup,
            (None, Some(_)) => Duration::ZERO,
            (None, None) => WARMUP_DEFAULT,
        },
        connections: run.connections,
        threads: run.threads.min(run.connections),
        reconnect: run.reconnect,
        tokens: match run.skew {
            Some(exponent) => Tokens::zipf(list, exponent, run.seed),
            None => Tokens::in_turn(list),
        },
        lines: Lines { size: run.size, position, text },
        seed: run.seed,
        run: plan::fresh_run_id(),
        finish_wait: plan::FINISH_WAIT,
        files: files_from(run.data, run.files)?,
        follow_sample: usize::try_from(run.follow_sample).unwrap_or(usize::MAX),
    };
    if plan.is_too_long() {
        let most = plan::ENTRIES_PER_CONNECTION_MAX;
        return Err(RunError::Usage(format!("--connections: one numbers at most {most} entries; give more of them")));
    }
    if plan.stop == Stop::After(Duration::ZERO) {
        return Err(RunError::Usage("--duration: zero sends nothing; give a time such as 500ms or 10s".into()));
    }
    Ok(plan)
}

fn files_from(data: Option<PathBuf>, pattern: Option<String>) -> Result<Option<Files>, RunError> {
    if let Some(data) = data.as_ref().filter(|data| !data.is_dir()) {
        return Err(RunError::Usage(format!("--data: {} is no directory; give the receiver's own", data.display())));
    }
    if let Some(pattern) = pattern.as_ref().filter(|pattern| !pattern.contains("{token}")) {
        return Err(RunError::Usage(format!("--files: {pattern} has no {{token}}; give a path with {{token}} in it")));
    }
    Ok(data.map(Files::Data).or_else(|| pattern.map(Files::Pattern)))
}

fn lines_of(file: &PathBuf, position: Position) -> Result<Text, RunError> {
    let content = std::fs::read_to_string(file)
        .map_err(|error| RunError::Usage(format!("--lines: {} cannot be read ({error})", file.display())))?;
    let lines: Vec<_> = content.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect();
    let problem = |number: usize, problem: &str| {
        Err(RunError::Usage(format!("--lines: {}: line {}: {problem}", file.display(), number + 1)))
    };
    if lines.is_empty() {
        return Err(RunError::Usage(format!("--lines: {} holds no lines", file.display())));
    }
    if let Some(long) = lines.iter().position(|line| line.len() > SIZE_BYTES_MAX - AROUND_TEXT_BYTES) {
        return problem(long, "longer than a line may be; at most 1 MiB in all are possible");
    }
    if position != Position::Start
        && let Some(with_token) = lines.iter().position(|line| holds_token(line.as_bytes()))
    {
        return problem(with_token, "holds a UUID, which would name another log; use --position start");
    }
    Ok(Text::Lines(lines.into()))
}

fn holds_token(line: &[u8]) -> bool {
    let is_token = |window: &[u8]| std::str::from_utf8(window).is_ok_and(|text| tokens::parse_token(text).is_some());
    line.windows(size_of::<Token>()).any(is_token)
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

fn tokens_from(text: &str, seed: u64) -> Result<Vec<Token>, RunError> {
    if let Ok(count) = parse_number(text) {
        let count = usize::try_from(count).ok().filter(|count| (1..=tokens::TOKENS_MAX).contains(count));
        return count
            .map(|count| tokens::tokens_of_seed(seed, count))
            .ok_or_else(|| RunError::Usage(format!("--tokens: {text}; 1 to {} are possible", tokens::TOKENS_MAX)));
    }
    let content = std::fs::read_to_string(text)
        .map_err(|error| RunError::Usage(format!("--tokens: {text} is no number and cannot be read ({error})")))?;
    tokens::tokens_of_list(&content).map_err(|problem| RunError::Usage(format!("--tokens: {text}: {problem}")))
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    parse_count(text).map(Rate::PerSecond).map_err(|problem| format!("{problem}, or max"))
}

fn parse_skew(text: &str) -> Result<f64, String> {
    let exponent = text.strip_prefix("zipf:").and_then(|exponent| exponent.parse().ok());
    let exponent = exponent.filter(|exponent| (0.0..=ZIPF_MAX).contains(exponent));
    exponent.ok_or_else(|| format!("give zipf: and an exponent from 0 to {ZIPF_MAX}, such as zipf:1.1"))
}

fn parse_line_size(text: &str) -> Result<RangeInclusive<usize>, String> {
    let range = parse_size_range(text)?;
    let size =
        |bytes: u64| usize::try_from(bytes).ok().filter(|bytes| (SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(bytes));
    match (size(*range.start()), size(*range.end())) {
        (Some(least), Some(most)) => Ok(least..=most),
        _ => Err(format!("{SIZE_BYTES_MIN} to {SIZE_BYTES_MAX} bytes are possible")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let typed = ["loadgen", "run", "--target", "127.0.0.1:1"].iter().chain(arguments);
        let args = Args::try_parse_from(typed).map_err(|error| error.to_string())?;
        let Command::Run { plan, .. } = command_from(args).map_err(|error| error.to_string())?;
        Ok(*plan)
    }

    #[test]
    fn defaults_are_the_manuals() {
        let plan = plan(&[]).unwrap();
        assert_eq!(
            (plan.rate, plan.arrival, plan.stop),
            (Rate::Max, Arrival::Uniform, Stop::After(Duration::from_secs(10)))
        );
        assert_eq!((plan.connections, plan.threads, plan.tokens.list.len()), (8, 1, 100));
        assert_eq!((plan.warmup, plan.lines), (WARMUP_DEFAULT, Lines::default()));
    }

    #[test]
    fn flags_are_read() {
        let plan = plan(&["--rate", "250k", "--entries", "2M", "--size", "64..4KiB", "--tokens", "2k"]).unwrap();
        assert_eq!((plan.rate, plan.stop), (Rate::PerSecond(250_000), Stop::Entries(2_000_000)));
        assert_eq!((plan.lines.size, plan.tokens.list.len(), plan.warmup), (64..=4096, 2000, Duration::ZERO));
        let plan = self::plan(&["--skew", "zipf:1.1", "--template", "json", "--position", "mixed", "--threads", "9"]);
        let plan = plan.unwrap();
        assert_eq!((plan.tokens.exponent(), plan.lines.text, plan.threads), (Some(1.1), Text::Json, 8));
        assert_eq!(plan.lines.position, Position::Mixed);
    }

    #[test]
    fn lines_come_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lines");
        let path = file.to_str().unwrap();
        std::fs::write(&file, "one\r\n\nof 00112233-4455-6677-8899-aabbccddeeff\n").unwrap();
        let text = plan(&["--lines", path]).unwrap().lines.text;
        let lines = ["one", "", "of 00112233-4455-6677-8899-aabbccddeeff"].map(str::to_owned);
        assert_eq!(text, Text::Lines(lines.into()));
        let error = plan(&["--lines", path, "--position", "middle"]).unwrap_err();
        assert!(error.contains("line 3: holds a UUID"), "{error}");
        std::fs::write(&file, "").unwrap();
        assert!(plan(&["--lines", path]).unwrap_err().contains("no lines"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused: [(&[&str], &str); 19] = [
            (&["--duration", "31d"], "at most 30d"),
            (&["--duration", "0"], "zero"),
            (&["--entries", "5000M", "--connections", "1"], "at most 4294967296"),
            (&["--rate", "0"], "zero"),
            (&["--rate", "5x"], "unknown unit"),
            (&["--duration", "10"], "unknown unit"),
            (&["--duration", "1s", "--entries", "1"], "cannot be used with"),
            (&["--size", "63"], "64 to 1048576"),
            (&["--size", "512..256"], "smaller one"),
            (&["--tokens", "0"], "1 to 100000"),
            (&["--tokens", "/does/not/exist"], "cannot be read"),
            (&["--connections", "0"], "1..=10000"),
            (&["--data", "/does/not/exist"], "no directory"),
            (&["--files", "/var/log/x"], "{token}"),
            (&["--skew", "zipf:x"], "zipf:1.1"),
            (&["--fail-if", "p99"], "p99>5ms"),
            (&["--fail-if", "visible.p99>5ms"], "nothing is followed"),
            (&["--lines", "/does/not/exist"], "cannot be read"),
            (&["--follow-sample", "0"], "1.."),
        ];
        for (arguments, sentence) in refused {
            let error = plan(arguments).unwrap_err();
            assert!(error.contains(sentence), "{arguments:?}: {error}");
        }
    }
}
