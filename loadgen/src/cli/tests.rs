//! Which command lines are plans, which are refused and how, and that the manual has every flag.

use super::*;
use clap::Args as _;

fn plan(arguments: &[&str]) -> Result<Plan, String> {
    let typed = ["loadgen", "run", "--target", "127.0.0.1:1"].iter().chain(arguments);
    match command(typed.map(Into::into)) {
        Ok(Command::Run { plan, .. }) => Ok(*plan),
        Ok(other) => panic!("{other:?}"),
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

/// Rows of the README's tables, in the order of the flags: name with its value, and the default where clap has one.
fn check_table(head: &str, command: &clap::Command, but: &clap::Command) {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let table = readme.split(&format!("| flag of `loadgen {head}` |")).nth(1).unwrap().lines().skip(2);
    let rows: Vec<Vec<_>> =
        table.map_while(|row| Some(row.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect())).collect();
    let is_own = |flag: &clap::Arg| {
        !flag.is_positional()
            && flag.get_id() != "help"
            && !but.get_arguments().any(|other| other.get_id() == flag.get_id())
    };
    let flags: Vec<_> = command.get_arguments().filter(|flag| is_own(flag)).collect();
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
fn the_manual_has_every_flag() {
    let none = clap::Command::new("none");
    let run = RunArgs::augment_args(clap::Command::new("run"));
    check_table("run", &run, &none);
    check_table("search", &SearchArgs::augment_args(clap::Command::new("search")), &run);
    check_table("compare", &CompareArgs::augment_args(clap::Command::new("compare")), &none);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused: [(&[&str], &str); 41] = [
        (&["--duration", "31d"], "--duration: 31d: longer than possible; give at most 30d"),
        (&["--duration", "0"], "--duration: zero sends nothing; give a time"),
        (&["--entries", "5000M", "--connections", "1"], "--connections: one numbers at most 4294967296 entries; give"),
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
        (&["--proto", "tls", "--ca", "/dev/null"], "--ca: /dev/null holds no usable certificates (none at all); give"),
        (&["--proto", "tls", "--ca", "/does/not/exist"], "--ca: /does/not/exist holds no usable certificates"),
        (&["--proto", "udp", "--size", "64KiB"], "--size: a line of 65536 is no datagram; give at most 65507"),
    ];
    for (arguments, sentence) in refused {
        let error = plan(arguments).unwrap_err();
        assert!(error.starts_with(sentence) && !error.contains('\n'), "{arguments:?}: {error}");
    }
}

#[test]
fn what_is_no_command_is_refused() {
    let bare = |words: &[&str]| match command(words.iter().map(Into::into)) {
        Ok(Command::Text(text)) => text,
        Ok(other) => panic!("{other:?}"),
        Err(error) => error.to_string(),
    };
    assert_eq!(bare(&["loadgen"]), format!("command line: no command; give {COMMANDS}"));
    assert_eq!(bare(&["loadgen", "walk"]), format!("walk: no such command; give {COMMANDS}"));
    assert_eq!(bare(&["loadgen", "run"]), "--target: missing; see loadgen run --help");
    assert!(bare(&["loadgen", "run", "--help"]).contains("Usage: loadgen run"));
    let search = |arguments: &[&str]| bare(&[&["loadgen", "search", "--target", "127.0.0.1:1"], arguments].concat());
    assert!(search(&[]).starts_with("--p99: missing; give a bound such as --p99 5ms"));
    assert!(search(&["--p99", "5"]).starts_with("--p99: 5: no unit; give a time"));
    assert!(search(&["--p99", "5ms", "--entries", "9"]).starts_with("--entries: a run of a search takes a time"));
    assert!(bare(&["loadgen", "compare", "a"]).starts_with("<B>: missing"));
    let threshold = bare(&["loadgen", "compare", "a", "b", "--threshold", "5"]);
    assert_eq!(threshold, "--threshold: 5: no percentage; give 0% to 100%, such as 2.5%");
}
