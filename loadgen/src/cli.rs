//! The command line as typed, turned into a [`Plan`]. Nothing else sees clap.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand, ValueEnum};

use crate::Output;
use crate::condition::Condition;
use crate::error::RunError;
use crate::latency::Clock;
use crate::payload::{Lines, Position, SIZE_BYTES_MAX, SIZE_BYTES_MIN, Text};
use crate::plan::{self, Arrival, CONNECTIONS_MAX, Files, Plan, Proto, Rate, Stop, THREADS_MAX};
use crate::sender::DATAGRAM_BYTES_MAX;
use crate::tls::{Records, Tls};
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

    /// What a TLS record holds: as many lines as are due, up to 16 KiB, or one line as most clients have it
    #[arg(long, value_enum, default_value = "full")]
    tls_records: RecordsArg,

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
enum ProtoArg {
    Tcp,
    Tls,
    Udp,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RecordsArg {
    Full,
    Line,
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
            format!("{}: no such command; give run", context(ContextKind::InvalidSubcommand))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "command line: no command; give run".into()
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
    };
    let stray = [("--ca", run.ca.is_some()), ("--insecure", run.insecure), ("--tls-records", records == Records::Line)];
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
mod tests {
    use super::*;
    use clap::Args as _;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let typed = ["loadgen", "run", "--target", "127.0.0.1:1"].iter().chain(arguments);
        match command(typed.map(Into::into)) {
            Ok(Command::Run { plan, .. }) => Ok(*plan),
            Ok(Command::Text(text)) => panic!("{text}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn defaults_are_the_manuals() {
        let plan = plan(&[]).unwrap();
        assert_eq!(
            (plan.rate, plan.arrival, plan.stop, plan.finish_wait),
            (Rate::Max, Arrival::Uniform, Stop::After(Duration::from_secs(10)), plan::FINISH_WAIT)
        );
        assert_eq!((plan.connections, plan.threads, plan.tokens.list.len()), (8, 1, 100));
        assert_eq!((plan.warmup, plan.lines), (WARMUP_DEFAULT, Lines::default()));
    }

    #[test]
    fn flags_are_read() {
        assert_eq!(plan(&["--rate", "1.5M"]).unwrap().rate, Rate::PerSecond(1_500_000));
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

    /// Rows of the README's table, in the order of the flags: name with its value, and the default where clap has one.
    #[test]
    fn the_manual_has_every_flag() {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
        let table = readme.split("| flag of `loadgen run` |").nth(1).unwrap().lines().skip(2);
        let rows: Vec<Vec<_>> =
            table.map_while(|row| Some(row.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect())).collect();
        let command = RunArgs::augment_args(clap::Command::new("run"));
        let flags: Vec<_> = command.get_arguments().filter(|flag| flag.get_id() != "help").collect();
        assert_eq!(rows.len(), flags.len(), "{rows:#?}");
        for (row, flag) in rows.iter().zip(flags) {
            let takes_value = flag.get_action().takes_values();
            let possible: Vec<_> = flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            let value = match flag.get_value_names() {
                _ if !takes_value => String::new(),
                Some([value]) if possible.is_empty() => format!(" {value}"),
                _ => format!(" {}", possible.join("|")),
            };
            let name = format!("--{}{}", flag.get_long().unwrap(), value.replace('|', "\\|"));
            assert_eq!(row[0], format!("`{name}`"));
            if let Some(default) = flag.get_default_values().first().filter(|_| takes_value) {
                assert_eq!(row[1].trim_matches('`'), default.to_str().unwrap(), "{name}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused: [(&[&str], &str); 41] = [
            (&["--duration", "31d"], "--duration: 31d: longer than possible; give at most 30d"),
            (&["--duration", "0"], "--duration: zero sends nothing; give a time"),
            (
                &["--entries", "5000M", "--connections", "1"],
                "--connections: one numbers at most 4294967296 entries; give",
            ),
            (&["--rate", "0"], "--rate: 0: zero sends nothing; give a number"),
            (
                &["--rate", "5x"],
                "--rate: 5x: unknown unit x; give a number such as 1000, 500k or 1.5M (units: k M), or max",
            ),
            (&["--rate", "-5"], "-5: no such flag; see"),
            (&["--duration", "10"], "--duration: 10: no unit; give a time"),
            (&["--duration", "1s", "--entries", "1"], "--duration: not together with --entries; give one"),
            (&["--size", "63"], "--size: 63 is not possible; give 64 to 1048576"),
            (&["--size", "512..256"], "--size: 512..256: 512 is more than 256; give the smaller"),
            (&["--tokens", "0"], "--tokens: 0 is not possible; give 1 to 100000"),
            (&["--tokens", "/does/not/exist"], "--tokens: /does/not/exist is no number, and no file; give"),
            (&["--connections", "0"], "--connections: 0 is not possible; give 1 to 10000"),
            (&["--threads", "many"], "--threads: many is not possible; give 1 to 256"),
            (&["--seed", "x"], "--seed: x is no seed; give"),
            (&["--data", "/does/not/exist"], "--data: /does/not/exist is no directory; give"),
            (&["--data"], "--data: nothing is not possible; give a value"),
            (&["--files", "/var/log/x"], "--files: /var/log/x has no {token}; give"),
            (&["--files", "/{token}", "--data", "/"], "--files: not together with --data; give one"),
            (&["--skew", "zipf:x"], "--skew: zipf:x: no such skew; give zipf:"),
            (&["--fail-if", "p99"], "--fail-if: p99: no such bound; give something like 'p99>5ms'"),
            (&["--fail-if", "p101>5ms"], "--fail-if: p101>5ms: no such percentile; give"),
            (&["--fail-if", "visible.p99>5ms"], "--fail-if: nothing is followed; visible needs --data"),
            (&["--lines", "/does/not/exist"], "--lines: /does/not/exist cannot be read; give"),
            (&["--follow-sample", "0"], "--follow-sample: 0: zero"),
            (&["--follow-sample", "2", "--rate", "1k"], "--follow-sample: nothing is followed; it needs --data"),
            (&["--follow-sample", "2", "--data", "/"], "--follow-sample: nothing is followed; it needs --data"),
            (&["--arrival", "poisson"], "--arrival: means nothing at --rate max, which has no schedule; give"),
            (&["--finish-wait", "0"], "--finish-wait: zero waits for nobody; give a time"),
            (
                &["--data", "/", "--connections", "10000", "--tokens", "100k"],
                "--connections: an account of so many on so many --tokens takes too much memory; give at most 268435456",
            ),
            (&["--position", "front"], "--position: front is not possible; give start, middle, end, mixed"),
            (&["--json", "--json"], "--json: given twice; give it once"),
            (&["--nothing"], "--nothing: no such flag; see loadgen run --help"),
            (&["extra"], "extra: unexpected; see loadgen run --help"),
            (&["--ca", "/dev/null"], "--ca: means nothing without TLS; give --proto tls"),
            (&["--proto", "udp", "--insecure"], "--insecure: means nothing without TLS; give"),
            (&["--proto", "tls"], "--proto: tls needs somebody to trust; give --ca FILE or --insecure"),
            (&["--proto", "tls", "--ca", "x", "--insecure"], "--ca: not together with --insecure; give one"),
            (
                &["--proto", "tls", "--ca", "/dev/null"],
                "--ca: /dev/null holds no usable certificates (none at all); give",
            ),
            (&["--proto", "tls", "--ca", "/does/not/exist"], "--ca: /does/not/exist holds no usable certificates"),
            (&["--proto", "udp", "--size", "64KiB"], "--size: a line of 65536 is no datagram; give at most 65507"),
        ];
        for (arguments, sentence) in refused {
            let error = plan(arguments).unwrap_err();
            assert!(error.starts_with(sentence) && !error.contains('\n'), "{arguments:?}: {error}");
        }
        let bare = |words: &[&str]| match command(words.iter().map(Into::into)) {
            Ok(Command::Text(text)) => text,
            Ok(run) => panic!("{run:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(bare(&["loadgen"]), "command line: no command; give run");
        assert_eq!(bare(&["loadgen", "walk"]), "walk: no such command; give run");
        assert_eq!(bare(&["loadgen", "run"]), "--target: missing; see loadgen run --help");
        assert!(bare(&["loadgen", "run", "--help"]).contains("Usage: loadgen run"));
    }
}
