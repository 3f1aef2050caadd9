//! The command line as typed, turned into a [`Plan`]. Nothing else sees clap.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand, ValueEnum};

use crate::Output;
use crate::compare::Asked;
use crate::condition::Condition;
use crate::error::RunError;
use crate::latency::Clock;
use crate::payload::{Lines, Position, SIZE_BYTES_MAX, SIZE_BYTES_MIN, Text};
use crate::plan::{self, Arrival, CONNECTIONS_MAX, Files, Plan, Proto, Rate, Stop, THREADS_MAX};
use crate::search::{self, Search};
use crate::sender::DATAGRAM_BYTES_MAX;
use crate::tls::{Records, Tls};
use crate::tokens::{self, Token, Tokens};
use crate::units::{parse_count, parse_number, parse_size_range, parse_time};

/// What a run begins with unless told otherwise: connections, logs and caches are warm then.
const WARMUP_DEFAULT: Duration = Duration::from_secs(2);
/// What can be asked for.
const COMMANDS: &str = "run, search, compare or report";
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
    /// `loadgen search`
    Search {
        /// How, and where from.
        search: Box<Search>,
        /// What becomes of the reports, and the bounds.
        output: Output,
    },
    /// `loadgen compare`
    Compare(Asked),
    /// `loadgen report`
    Report {
        /// Directories of `--out`.
        directories: Vec<PathBuf>,
    },
    /// `--help` or `--version`: for stdout.
    Text(String),
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
    /// The highest rate that holds a bound, found by runs at one --rate after the other
    Search(Box<SearchArgs>),
    /// Two sets of results side by side; exit 1 if B is worse
    Compare(CompareArgs),
    /// The page of results, made again from their other files: report.html in each directory
    Report {
        /// Directories of --out
        #[arg(value_name = "DIR", required = true)]
        directories: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Address of the receiver, HOST:PORT
    #[arg(long, value_name = "ADDR")]
    target: String,

    /// How to speak to the receiver; over UDP each line is a datagram
    #[arg(long, value_enum, default_value = "tcp")]
    proto: ProtoArg,

    /// The authorities, in a PEM file, from one of which a TLS receiver must have its certificate
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,

    /// Take any certificate of a TLS receiver
    #[arg(long)]
    insecure: bool,

    /// What a TLS record holds: as many lines as are due, up to 16 KiB; one line, as most clients have it; or a piece of a
    /// line, which is in four: token, blank, text and LF
    #[arg(long, value_enum, default_value = "full")]
    tls_records: RecordsArg,

    /// Entries per second over all connections, on a fixed schedule (k, M), or `max`: as fast as the receiver reads; a
    /// search begins there, without it at 10k
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

    /// How long the receiver may take nothing, acknowledge nothing and store nothing before it is not waited for any more
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    finish_wait: Duration,

    /// Connections, all opened before the first entry
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_up_to::<CONNECTIONS_MAX>)]
    connections: u32,

    /// Threads that send, each with a ring of its own and its share of the connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_up_to::<THREADS_MAX>)]
    threads: u32,

    /// How many logs to write to (k, M), their tokens made from --seed; or a file of tokens, one a line
    #[arg(long, value_name = "N|FILE", default_value = "100")]
    tokens: String,

    /// Give the first tokens more entries than the last: zipf:EXPONENT [default: all the same]
    #[arg(long, value_name = "zipf:EXPONENT", value_parser = parse_skew)]
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
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_seed)]
    seed: u64,

    /// The engine's data directory: follow its segment files, and account for every acknowledged entry
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// The same for other receivers: the path of the file that a token's lines go to, with {token} in it
    #[arg(long, value_name = "PATTERN", conflicts_with = "data")]
    files: Option<String>,

    /// Follow every Nth log while the run lasts, and read the others after it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_count)]
    follow_sample: u64,

    /// Write report.html, summary.json, percentiles, intervals and the interval log into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Exit 1 if this latency is above the bound, such as 'p99>5ms' or 'send.p99.9>1ms'; repeatable
    #[arg(long, value_name = "BOUND")]
    fail_if: Vec<Condition>,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct SearchArgs {
    /// What the 99th percentile must not exceed, visible if followed, else send; --fail-if gives other bounds
    #[arg(long, value_name = "TIME")]
    p99: Option<String>,

    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, clap::Args)]
struct CompareArgs {
    /// A directory of --out, or one that holds several
    #[arg(value_name = "A")]
    a: PathBuf,

    /// The same for what is compared with it
    #[arg(value_name = "B")]
    b: PathBuf,

    /// The part by which B may be worse
    #[arg(long, value_name = "PERCENT", default_value = "2%", value_parser = parse_percent)]
    threshold: f64,

    /// Print the comparison as one JSON object
    #[arg(long)]
    json: bool,

    /// Write the comparison as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtoArg {
    Tcp,
    Tls,
    Udp,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RecordsArg {
    Full,
    Line,
    Piece,
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

/// Parses a command line, the program's name first.
///
/// # Errors
///
/// When it is not one, or an argument cannot be used.
pub fn command(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Command, RunError> {
    match Args::try_parse_from(words) {
        Ok(args) => command_from(args),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Command::Text(error.render().to_string()))
        }
        Err(error) => Err(RunError::Usage(one_line(&error))),
    }
}

/// clap's error as `subject: what is wrong; what to do`, without its usage lines.
fn one_line(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let flag_in = |kind| context(kind).split_whitespace().next().map_or_else(|| "command line".into(), str::to_owned);
    let (flag, value) = (flag_in(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    match error.kind() {
        ErrorKind::ValueValidation => {
            let problem = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
            if problem.starts_with(&value) {
                format!("{flag}: {problem}")
            } else {
                format!("{flag}: {value}: {problem}")
            }
        }
        ErrorKind::InvalidValue => {
            let (allowed, given) =
                (context(ContextKind::ValidValue), if value.is_empty() { "nothing" } else { &value });
            let allowed = if allowed.is_empty() { "a value" } else { &allowed };
            format!("{flag}: {given} is not possible; give {allowed}")
        }
        ErrorKind::UnknownArgument if flag.starts_with('-') => format!("{flag}: no such flag; see loadgen run --help"),
        ErrorKind::UnknownArgument => format!("{flag}: unexpected; see loadgen run --help"),
        ErrorKind::InvalidSubcommand => {
            format!("{}: no such command; give {COMMANDS}", context(ContextKind::InvalidSubcommand))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            format!("command line: no command; give {COMMANDS}")
        }
        ErrorKind::MissingRequiredArgument => format!("{flag}: missing; see loadgen run --help"),
        ErrorKind::ArgumentConflict => match flag_in(ContextKind::PriorArg) {
            other if other == flag => format!("{flag}: given twice; give it once"),
            other => format!("{flag}: not together with {other}; give one of them"),
        },
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            format!("command line: {}; see loadgen run --help", first.trim_start_matches("error: "))
        }
    }
}

fn command_from(args: Args) -> Result<Command, RunError> {
    match args.command {
        Subcommands::Run(run) => {
            let (plan, output) = run_from(*run)?;
            Ok(Command::Run { plan: Box::new(plan), output })
        }
        Subcommands::Search(search) => search_from(*search),
        Subcommands::Compare(CompareArgs { a, b, threshold, json, html }) => {
            Ok(Command::Compare(Asked { a, b, threshold, json, html }))
        }
        Subcommands::Report { directories } => Ok(Command::Report { directories }),
    }
}

fn search_from(args: SearchArgs) -> Result<Command, RunError> {
    let SearchArgs { p99, mut run } = args;
    let usage = |problem: String| RunError::Usage(problem);
    if let Some(bound) = &p99 {
        let condition = format!("p99>{bound}").parse();
        run.fail_if.push(condition.map_err(|problem| usage(format!("--p99: {bound}: {problem}")))?);
    }
    if run.fail_if.is_empty() {
        return Err(usage("--p99: missing; give a bound such as --p99 5ms, or another with --fail-if".into()));
    }
    if run.entries.is_some() {
        return Err(usage("--entries: a run of a search takes a time, whatever its rate; give --duration".into()));
    }
    if run.rate == Rate::Max {
        run.rate = Rate::PerSecond(search::START);
    }
    let (plan, output) = run_from(run)?;
    Ok(Command::Search { search: Box::new(Search::new(plan)), output })
}

fn run_from(run: RunArgs) -> Result<(Plan, Output), RunError> {
    let output = Output { json: run.json, out: run.out.clone(), fail_if: run.fail_if.clone() };
    let plan = plan_from(run)?;
    let asks_visible = |condition: &Condition| condition.clock() == Some(Clock::Visible);
    if !plan.is_followed() && output.fail_if.iter().any(asks_visible) {
        let problem = "--fail-if: nothing is followed; visible needs --data or --files, and a --rate other than max";
        return Err(RunError::Usage(problem.into()));
    }
    Ok((plan, output))
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
    let target = resolve(&run.target)?;
    let proto = proto_from(&run)?;
    let plan = Plan {
        target,
        proto,
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
        finish_wait: run.finish_wait,
        files: files_from(run.data, run.files)?,
        follow_sample: usize::try_from(run.follow_sample).unwrap_or(usize::MAX),
    };
    check(&plan).map(|()| plan).map_err(RunError::Usage)
}

/// What each flag for itself does not show.
fn check(plan: &Plan) -> Result<(), String> {
    if plan.is_lossy() && plan.lines.longest() > DATAGRAM_BYTES_MAX {
        let problem = format!("a line of {} is no datagram; give at most {DATAGRAM_BYTES_MAX}", plan.lines.longest());
        let flag = if matches!(plan.lines.text, Text::Lines(_)) { "--lines" } else { "--size" };
        return Err(format!("{flag}: {problem}"));
    }
    if plan.is_too_long() {
        let most = plan::ENTRIES_PER_CONNECTION_MAX;
        return Err(format!("--connections: one numbers at most {most} entries; give more of them"));
    }
    if plan.is_too_wide() {
        let most = plan::PAIRS_MAX;
        return Err(format!(
            "--connections: an account of so many on so many --tokens takes too much memory; give at most {most} pairs of \
             both"
        ));
    }
    if plan.stop == Stop::After(Duration::ZERO) {
        return Err("--duration: zero sends nothing; give a time such as 500ms or 10s".into());
    }
    if plan.finish_wait.is_zero() {
        return Err("--finish-wait: zero waits for nobody; give a time such as 500ms or 10s".into());
    }
    if plan.arrival == Arrival::Poisson && plan.rate == Rate::Max {
        return Err(
            "--arrival: means nothing at --rate max, which has no schedule; give a --rate in entries per second".into(),
        );
    }
    if plan.follow_sample > 1 && !plan.is_followed() {
        let problem = "nothing is followed; it needs --data or --files, and a --rate other than max";
        return Err(format!("--follow-sample: {problem}"));
    }
    Ok(())
}

fn proto_from(run: &RunArgs) -> Result<Proto, RunError> {
    let is_tls = matches!(run.proto, ProtoArg::Tls);
    let records = match run.tls_records {
        RecordsArg::Full => Records::Full,
        RecordsArg::Line => Records::Line,
        RecordsArg::Piece => Records::Piece,
    };
    let stray = [("--ca", run.ca.is_some()), ("--insecure", run.insecure), ("--tls-records", records != Records::Full)];
    if let Some((flag, _)) = stray.iter().find(|(_, is_given)| *is_given && !is_tls) {
        return Err(RunError::Usage(format!("{flag}: means nothing without TLS; give --proto tls too")));
    }
    match run.proto {
        ProtoArg::Tcp => Ok(Proto::Tcp),
        ProtoArg::Udp => Ok(Proto::Udp),
        ProtoArg::Tls if run.ca.is_none() && !run.insecure => {
            Err(RunError::Usage("--proto: tls needs somebody to trust; give --ca FILE or --insecure".into()))
        }
        ProtoArg::Tls => {
            let host = run.target.rsplit_once(':').map_or(run.target.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Tls::new(host, run.ca.as_deref(), records).map(Proto::Tls).map_err(RunError::Usage)
        }
    }
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
    let content = std::fs::read_to_string(file).map_err(|error| {
        RunError::Usage(format!("--lines: {} cannot be read; give a text file ({error})", file.display()))
    })?;
    let lines: Vec<_> = content.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect();
    let problem = |number: usize, problem: &str| {
        Err(RunError::Usage(format!("--lines: {}: line {}: {problem}", file.display(), number + 1)))
    };
    if lines.is_empty() {
        return Err(RunError::Usage(format!("--lines: {} holds no lines; give a text file", file.display())));
    }
    if let Some(long) = lines.iter().position(|line| line.len() > SIZE_BYTES_MAX - AROUND_TEXT_BYTES) {
        return problem(long, "longer than a line may be; give at most 1 MiB in all");
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
        _ => RunError::Environment(format!("--target: {target} cannot be resolved; give HOST:PORT"), error),
    })
}

fn tokens_from(text: &str, seed: u64) -> Result<Vec<Token>, RunError> {
    if let Ok(count) = parse_number(text) {
        let count = usize::try_from(count).ok().filter(|count| (1..=tokens::TOKENS_MAX).contains(count));
        return count.map(|count| tokens::tokens_of_seed(seed, count)).ok_or_else(|| {
            RunError::Usage(format!("--tokens: {text} is not possible; give 1 to {}, or a file", tokens::TOKENS_MAX))
        });
    }
    let content = std::fs::read_to_string(text).map_err(|error| {
        RunError::Usage(format!("--tokens: {text} is no number, and no file; give either ({error})"))
    })?;
    tokens::tokens_of_list(&content).map_err(|problem| RunError::Usage(format!("--tokens: {text}: {problem}")))
}

fn parse_up_to<const MOST: u32>(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| format!("{text} is not possible; give 1 to {MOST}"))
}

fn parse_seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no seed; give a whole number"))
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    parse_count(text).map(Rate::PerSecond).map_err(|problem| format!("{problem}, or max"))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let number = number.filter(|percent| (0.0..=100.0).contains(percent));
    number.map(|percent| percent / 100.0).ok_or_else(|| "no percentage; give 0% to 100%, such as 2.5%".to_owned())
}

fn parse_skew(text: &str) -> Result<f64, String> {
    let exponent = text.strip_prefix("zipf:").and_then(|exponent| exponent.parse().ok());
    let exponent = exponent.filter(|exponent| (0.0..=ZIPF_MAX).contains(exponent));
    exponent.ok_or_else(|| format!("no such skew; give zipf: and an exponent from 0 to {ZIPF_MAX}, such as zipf:1.1"))
}

fn parse_line_size(text: &str) -> Result<RangeInclusive<usize>, String> {
    let range = parse_size_range(text)?;
    let size =
        |bytes: u64| usize::try_from(bytes).ok().filter(|bytes| (SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(bytes));
    match (size(*range.start()), size(*range.end())) {
        (Some(least), Some(most)) => Ok(least..=most),
        _ => Err(format!("{text} is not possible; give {SIZE_BYTES_MIN} to {SIZE_BYTES_MAX} bytes")),
    }
}

#[cfg(test)]
mod tests;
